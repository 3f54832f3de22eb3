/* The shipping firmware on an emulated ATmega328P, in virtual time.
 *
 * Time is counted in cycles of the 16 MHz clock, from power-on of the emulator, across resets.
 * No function here waits, prints or keeps a thread. */
#ifndef CHIP_H
#define CHIP_H

#include <stddef.h>
#include <stdint.h>

#define CHIP_HZ 16000000u
#define CHIP_CYCLES_PER_BYTE 1389u /* of the host's UART: 10 bits at 115200 baud */
#define CHIP_AXES 2

/* Reset causes, the bits of MCUSR. A boot loader may clear them all: cause 0. */
enum { CHIP_POWER_ON = 1, CHIP_EXTERNAL = 2, CHIP_BROWN_OUT = 4, CHIP_WATCHDOG = 8 };

/* What a reset leaves of the RAM. */
enum { CHIP_RAM_KEPT = 0, CHIP_RAM_DAMAGED = 1, CHIP_RAM_RANDOM = 2 };

typedef struct chip chip_t;

typedef struct {
	uint64_t rise;  /* cycle of the rising edge */
	uint32_t width; /* cycles */
	uint8_t axis;   /* 0 pan (PB1), 1 tilt (PB2) */
	uint8_t cut;    /* 1: a reset ended it, not the firmware */
	uint16_t unused;
} chip_pulse_t;

typedef struct {
	uint64_t at; /* cycle of the end of its stop bit */
	uint8_t value;
	uint8_t unused[7];
} chip_byte_t;

/* What every pulse is judged by, and what was seen. All in cycles; both axes alike. */
typedef struct {
	uint32_t low, high;     /* set by the caller: allowed widths */
	uint32_t step;          /* set by the caller: largest change from one pulse to the next */
	uint32_t shortest, longest;
	uint32_t period_shortest, period_longest; /* between pulses that follow each other */
	uint64_t pulses;
	uint64_t outside;       /* narrower than low or wider than high */
	uint64_t jumps;         /* changed by more than step */
	uint64_t cut;           /* ended by a reset: not judged */
	uint64_t glitches;      /* under 5 us */
	uint64_t resets[16];    /* by cause */
	uint64_t overruns;      /* bytes that came while the UART was full */
	chip_pulse_t first_bad; /* the first outside or jump */
} chip_record_t;

chip_t *chip_new(const char *elf, uint32_t seed); /* powered on; NULL: no such firmware */
void chip_free(chip_t *chip);

uint64_t chip_now(const chip_t *chip);
int chip_run(chip_t *chip, uint64_t cycles); /* 0; -1: the firmware slept with interrupts off */

/* Queue bytes to the board: they follow each other at wire pace. Returns how many fitted. */
size_t chip_feed(chip_t *chip, const uint8_t *bytes, size_t count);
size_t chip_unfed(const chip_t *chip); /* bytes still queued */

/* Take what the board sent, what its pins did: oldest first, at most `most`. */
size_t chip_take_sent(chip_t *chip, chip_byte_t *into, size_t most);
size_t chip_take_pulses(chip_t *chip, chip_pulse_t *into, size_t most);
uint64_t chip_untaken(const chip_t *chip); /* pulses lost because nobody took them */

void chip_reset(chip_t *chip, int cause, int ram);
void chip_boot_delay(chip_t *chip, uint64_t cycles); /* from now the boot loader has the chip */
int chip_hang(chip_t *chip, int interrupts); /* an endless loop in place of the main loop */

uint8_t *chip_eeprom(chip_t *chip, size_t *size);
uint8_t *chip_ram(chip_t *chip, size_t *size); /* without registers; starts at 0x100 */
chip_record_t *chip_record(chip_t *chip);

#endif
