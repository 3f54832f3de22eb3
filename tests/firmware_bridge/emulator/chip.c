/* See chip.h. What libsimavr 1.6 does otherwise than the silicon is put right here, each with its reason. */
#include "chip.h"

#include <simavr/avr_eeprom.h>
#include <simavr/avr_ioport.h>
#include <simavr/avr_timer.h>
#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>
#include <simavr/sim_core.h>
#include <simavr/sim_elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

DEFINE_FIFO(uint16_t, uart_fifo);

enum {
	DDRB = 0x24, PORTB = 0x25,
	EECR = 0x3F, EEPE = 1 << 1, EEMPE = 1 << 2, EEARL = 0x41, EEARH = 0x42,
	MCUSR = 0x54,
	TCCR1A = 0x80, OCR1AL = 0x88, OCR1BL = 0x8A,
	UCSR0A = 0xC0, U2X0 = 1 << 1, UBRR0L = 0xC4, UBRR0H = 0xC5,
	RAM_START = 0x100,
};
#define EEPROM_BYTE_CYCLES (CHIP_HZ / 10000 * 34) /* 3.4 ms a byte */
#define GLITCH_CYCLES 80                          /* 5 us */
#define LATEST_MATCH_CYCLES 40
#define SERVO_GAP_CYCLES (CHIP_HZ / 1000 * 30)    /* longer than any period: pulses had stopped */
#define LOG_ENTRIES (1u << 16)
#define FEED_BYTES (1u << 16)
#define UART_HOLDS 3 /* bytes: two in the buffer, one in the shift register */

typedef struct {
	chip_t *chip;
	uint8_t number;
	uint8_t high;
	uint8_t latch; /* of the compare unit: what the pin does while its COM bits are set */
	uint64_t last_match, rise, last_rise;
	uint32_t last_width;
} axis_t;

struct chip {
	avr_t *avr;
	avr_uart_t *uart;
	avr_eeprom_t *eeprom;
	avr_timer_t *timer;
	avr_irq_t *to_board;
	axis_t axis[CHIP_AXES];
	uint64_t random;

	uint8_t feed[FEED_BYTES];
	size_t feed_first, feed_count;
	uint64_t feed_free; /* when the wire to the board is free */
	uint64_t sent_free; /* when the wire to the host is free */
	uint64_t booting_until;

	uint64_t eeprom_armed; /* when EEMPE was last set */
	uint64_t eeprom_busy_until;
	uint16_t eeprom_address;

	chip_byte_t sent[LOG_ENTRIES];
	size_t sent_first, sent_count;
	chip_pulse_t pulses[LOG_ENTRIES];
	size_t pulse_first, pulse_count;
	uint64_t untaken;
	chip_record_t record;
};

static uint32_t random_u32(chip_t *chip)
{
	chip->random ^= chip->random << 13;
	chip->random ^= chip->random >> 7;
	chip->random ^= chip->random << 17;
	return (uint32_t)(chip->random >> 32);
}

static void quiet(avr_t *avr, const int level, const char *format, va_list arguments)
{
	(void)avr;
	if (level == LOG_ERROR)
		vfprintf(stderr, format, arguments);
}

static void *module(avr_t *avr, const char *kind, int nth)
{
	for (avr_io_t *io = avr->io_port; io; io = io->next)
		if (!strcmp(io->kind, kind) && nth-- == 0)
			return io;
	return NULL;
}

/* ---- pulses ---------------------------------------------------------------------------------- */

static void judge(chip_t *chip, axis_t *axis, const chip_pulse_t *pulse)
{
	chip_record_t *record = &chip->record;
	uint64_t period = pulse->rise - axis->last_rise;
	int follows = axis->last_width && period < SERVO_GAP_CYCLES;
	uint32_t change = pulse->width > axis->last_width ? pulse->width - axis->last_width
	                                                  : axis->last_width - pulse->width;
	int outside = pulse->width < record->low || pulse->width > record->high;
	int jump = follows && change > record->step;

	if (!record->pulses || pulse->width < record->shortest)
		record->shortest = pulse->width;
	if (pulse->width > record->longest)
		record->longest = pulse->width;
	if (follows && (!record->period_shortest || period < record->period_shortest))
		record->period_shortest = (uint32_t)period;
	if (follows && period > record->period_longest)
		record->period_longest = (uint32_t)period;
	record->pulses++;
	record->outside += outside;
	record->jumps += jump;
	if ((outside || jump) && record->outside + record->jumps == (uint64_t)(outside + jump))
		record->first_bad = *pulse;
	axis->last_rise = pulse->rise;
	axis->last_width = pulse->width;
}

static void log_pulse(chip_t *chip, axis_t *axis, uint64_t fall, int cut)
{
	chip_pulse_t pulse = {axis->rise, (uint32_t)(fall - axis->rise), axis->number, (uint8_t)cut, 0};

	if (cut) {
		chip->record.cut++;
	} else if (pulse.width < GLITCH_CYCLES) {
		chip->record.glitches++;
		return;
	} else {
		judge(chip, axis, &pulse);
	}
	if (chip->pulse_count == LOG_ENTRIES) {
		chip->pulse_first = (chip->pulse_first + 1) % LOG_ENTRIES;
		chip->pulse_count--;
		chip->untaken++;
	}
	chip->pulses[(chip->pulse_first + chip->pulse_count++) % LOG_ENTRIES] = pulse;
}

static void update_pin(axis_t *axis, uint64_t now)
{
	const uint8_t *data = axis->chip->avr->data;
	uint8_t pin = (uint8_t)(2 << axis->number); /* PB1, PB2 */
	int compares = avr_regbit_get(axis->chip->avr, axis->chip->timer->comp[axis->number].com);
	uint8_t high = data[DDRB] & pin && (compares ? axis->latch : data[PORTB] & pin);

	if (high == axis->high)
		return;
	axis->high = high;
	if (high)
		axis->rise = now;
	else
		log_pulse(axis->chip, axis, now, 0);
}

static void pin_register_written(avr_irq_t *irq, uint32_t value, void *param)
{
	axis_t *axis = param;
	(void)irq, (void)value;
	update_pin(axis, axis->chip->avr->cycle);
}

/* simavr also raises this, inverted as in PWM, whenever the counter wraps or any compare value is
 * written, whatever the mode: only a match raises the interrupt flag before, and once. It comes some
 * cycles late, when an instruction or a nap has ended; the match itself is known exactly. */
static void compared(avr_irq_t *irq, uint32_t value, void *param)
{
	axis_t *axis = param;
	avr_t *avr = axis->chip->avr;
	const avr_timer_t *timer = axis->chip->timer;
	const avr_timer_comp_t *comp = &timer->comp[axis->number];
	uint64_t match = timer->tov_base + comp->comp_cycles;
	(void)irq, (void)value;

	if (match > avr->cycle) /* in the last tick before the wrap, which was counted already */
		match -= timer->tov_cycles;
	if (!avr_regbit_get(avr, comp->interrupt.raised) || match == axis->last_match ||
	    avr->cycle - match > LATEST_MATCH_CYCLES)
		return;
	axis->last_match = match;
	axis->latch = avr_regbit_get(avr, comp->com) == avr_timer_com_set;
	update_pin(axis, match);
}

/* simavr never matches a compare value of 0. */
static avr_cycle_count_t match_zero(avr_t *avr, avr_cycle_count_t when, void *param)
{
	axis_t *axis = param;
	avr_timer_comp_t *comp = &axis->chip->timer->comp[axis->number];
	uint8_t mode = avr_regbit_get(avr, comp->com);

	avr_raise_interrupt(avr, &comp->interrupt);
	if (mode == avr_timer_com_clear || mode == avr_timer_com_set)
		axis->latch = mode == avr_timer_com_set;
	update_pin(axis, when);
	return 0;
}

static void compare_written(avr_irq_t *irq, uint32_t value, void *param)
{
	axis_t *axis = param;
	avr_t *avr = axis->chip->avr;
	avr_timer_t *timer = axis->chip->timer;
	(void)irq;

	avr_cycle_timer_cancel(avr, match_zero, axis);
	if (value == 0 && avr->data[timer->comp[axis->number].r_ocrh] == 0 && timer->tov_cycles) {
		uint64_t tick = timer->tov_cycles / ((uint64_t)timer->tov_top + 1);
		uint64_t match = timer->tov_base + timer->tov_cycles + tick;
		avr_cycle_timer_register(avr, match - avr->cycle, match_zero, axis);
	}
}

/* ---- serial line ----------------------------------------------------------------------------- */

/* simavr counts a parity bit that is not there. */
static void right_byte_time(chip_t *chip)
{
	const uint8_t *data = chip->avr->data;
	uint32_t divisor = 1u + data[UBRR0L] + (data[UBRR0H] << 8);
	chip->uart->cycles_per_byte = divisor * (data[UCSR0A] & U2X0 ? 8 : 16) * 10;
}

static void byte_sent(avr_irq_t *irq, uint32_t value, void *param)
{
	chip_t *chip = param;
	uint64_t start = chip->avr->cycle;
	(void)irq;

	right_byte_time(chip);
	if (start < chip->sent_free)
		start = chip->sent_free;
	chip->sent_free = start + chip->uart->cycles_per_byte;
	if (chip->sent_count == LOG_ENTRIES) {
		chip->sent_first = (chip->sent_first + 1) % LOG_ENTRIES;
		chip->sent_count--;
	}
	chip->sent[(chip->sent_first + chip->sent_count++) % LOG_ENTRIES] =
		(chip_byte_t){chip->sent_free, (uint8_t)value, {0}};
}

static avr_cycle_count_t next_byte(avr_t *avr, avr_cycle_count_t when, void *param)
{
	chip_t *chip = param;

	if (!chip->feed_count)
		return 0;
	uint8_t value = chip->feed[chip->feed_first];
	chip->feed_first = (chip->feed_first + 1) % FEED_BYTES;
	chip->feed_count--;
	chip->feed_free = when + CHIP_CYCLES_PER_BYTE;
	right_byte_time(chip);
	if (uart_fifo_get_read_size(&chip->uart->input) >= UART_HOLDS) { /* simavr would hold 64 */
		avr_regbit_set(avr, chip->uart->dor);
		chip->record.overruns++;
	} else {
		avr_raise_irq(chip->to_board, value);
	}
	return chip->feed_count ? chip->feed_free : 0;
}

static void arm_feed(chip_t *chip)
{
	uint64_t now = chip->avr->cycle;
	uint64_t wait = chip->feed_free > now ? chip->feed_free - now : 0;
	if (chip->feed_count && !avr_cycle_timer_status(chip->avr, next_byte, chip))
		avr_cycle_timer_register(chip->avr, wait, next_byte, chip);
}

/* ---- EEPROM ---------------------------------------------------------------------------------- */

/* simavr writes a byte at once and never shows EEPE busy. */
static avr_cycle_count_t eeprom_written(avr_t *avr, avr_cycle_count_t when, void *param)
{
	(void)when;
	(void)param;
	avr->data[EECR] &= (uint8_t)~EEPE;
	return 0;
}

static void eeprom_controlled(avr_irq_t *irq, uint32_t value, void *param)
{
	chip_t *chip = param;
	avr_t *avr = chip->avr;
	(void)irq;

	if (avr->cycle < chip->eeprom_busy_until) {
		avr->data[EECR] |= EEPE;
	} else if ((value & EEPE) && avr->cycle - chip->eeprom_armed <= 6) {
		chip->eeprom_address = (uint16_t)(avr->data[EEARL] | avr->data[EEARH] << 8);
		chip->eeprom_busy_until = avr->cycle + EEPROM_BYTE_CYCLES;
		avr->data[EECR] |= EEPE;
		avr_cycle_timer_register(avr, EEPROM_BYTE_CYCLES, eeprom_written, chip);
	} else if (value & EEMPE) {
		chip->eeprom_armed = avr->cycle;
	}
}

/* ---- resets ---------------------------------------------------------------------------------- */

static void after_reset(chip_t *chip)
{
	avr_t *avr = chip->avr;

	for (int i = 0; i < CHIP_AXES; i++) { /* its pins are inputs now, and a pull-down holds them low */
		axis_t *axis = &chip->axis[i];
		if (axis->high)
			log_pulse(chip, axis, avr->cycle, 1);
		axis->high = axis->latch = 0;
		axis->last_width = 0; /* what comes after is no step from what was before */
	}
	chip->sent_free = 0;
	arm_feed(chip);
	if (avr->cycle < chip->eeprom_busy_until) { /* a byte that was being written is finished */
		avr->data[EECR] |= EEPE;
		avr_cycle_timer_register(avr, chip->eeprom_busy_until - avr->cycle, eeprom_written, chip);
	}
	chip->record.resets[avr->data[MCUSR] & 15]++;
}

void chip_reset(chip_t *chip, int cause, int ram)
{
	avr_t *avr = chip->avr;

	if (cause & (CHIP_POWER_ON | CHIP_BROWN_OUT) && avr->cycle < chip->eeprom_busy_until) {
		chip->eeprom->eeprom[chip->eeprom_address % chip->eeprom->size] = (uint8_t)random_u32(chip);
		chip->eeprom_busy_until = 0;
	}
	for (unsigned at = RAM_START; ram == CHIP_RAM_RANDOM && at <= avr->ramend; at++)
		avr->data[at] = (uint8_t)random_u32(chip);
	for (int i = 0; ram == CHIP_RAM_DAMAGED && i < 200; i++)
		avr->data[RAM_START + random_u32(chip) % (avr->ramend + 1u - RAM_START)] ^= 1u << random_u32(chip) % 8;
	avr_reset(avr);
	avr->data[MCUSR] = (uint8_t)cause;
	after_reset(chip);
}

void chip_boot_delay(chip_t *chip, uint64_t cycles)
{
	chip->booting_until = chip->avr->cycle + cycles;
}

/* The boot loader swallows what comes; nothing else moves. */
static void boot(chip_t *chip, uint64_t end)
{
	avr_t *avr = chip->avr;
	if (end > chip->booting_until)
		end = chip->booting_until;
	while (chip->feed_count && chip->feed_free < end) {
		if (chip->feed_free < avr->cycle)
			chip->feed_free = avr->cycle;
		chip->feed_free += CHIP_CYCLES_PER_BYTE;
		chip->feed_first = (chip->feed_first + 1) % FEED_BYTES;
		chip->feed_count--;
	}
	avr_cycle_timer_cancel(avr, next_byte, chip);
	avr->cycle = end;
	arm_feed(chip);
}

/* ---- running --------------------------------------------------------------------------------- */

static avr_cycle_count_t wake(avr_t *avr, avr_cycle_count_t when, void *param)
{
	(void)avr, (void)when, (void)param;
	return 0;
}

static void no_nap(avr_t *avr, avr_cycle_count_t cycles)
{
	(void)avr, (void)cycles; /* virtual time waits for nothing */
}

int chip_run(chip_t *chip, uint64_t cycles)
{
	avr_t *avr = chip->avr;
	uint64_t end = avr->cycle + cycles;

	if (avr->cycle < chip->booting_until)
		boot(chip, end);
	if (avr->cycle < end)
		avr_cycle_timer_register(avr, end - avr->cycle, wake, chip);
	while (avr->cycle < end) {
		int resetting = avr->run != avr_callback_run_raw; /* how simavr's watchdog bites */
		avr_run(avr);
		if (resetting) {
			after_reset(chip);
			avr_cycle_timer_register(avr, end > avr->cycle ? end - avr->cycle : 0, wake, chip);
		}
		if (avr->state == cpu_Done || avr->state == cpu_Crashed)
			return -1;
	}
	return 0;
}

int chip_hang(chip_t *chip, int interrupts)
{
	avr_t *avr = chip->avr;
	avr_flashaddr_t loop = avr->flashend - 1;

	for (int i = 0; avr->state != cpu_Sleeping; i++) /* the main loop naps: no interrupt is running */
		if (i == 100000 || chip_run(chip, 1) < 0)
			return -1;
	avr->flash[loop] = 0xFF; /* rjmp to itself */
	avr->flash[loop + 1] = 0xCF;
	avr->pc = loop;
	avr->state = cpu_Running;
	avr_sreg_set(avr, S_I, interrupts ? 1 : 0);
	return 0;
}

uint64_t chip_now(const chip_t *chip)
{
	return chip->avr->cycle;
}

size_t chip_feed(chip_t *chip, const uint8_t *bytes, size_t count)
{
	size_t fed = 0;
	for (; fed < count && chip->feed_count < FEED_BYTES; fed++)
		chip->feed[(chip->feed_first + chip->feed_count++) % FEED_BYTES] = bytes[fed];
	arm_feed(chip);
	return fed;
}

size_t chip_unfed(const chip_t *chip)
{
	return chip->feed_count;
}

size_t chip_take_sent(chip_t *chip, chip_byte_t *into, size_t most)
{
	size_t taken = 0;
	for (; taken < most && chip->sent_count; taken++, chip->sent_count--) {
		if (chip->sent[chip->sent_first].at > chip->avr->cycle)
			break; /* still on the wire */
		into[taken] = chip->sent[chip->sent_first];
		chip->sent_first = (chip->sent_first + 1) % LOG_ENTRIES;
	}
	return taken;
}

size_t chip_take_pulses(chip_t *chip, chip_pulse_t *into, size_t most)
{
	size_t taken = 0;
	for (; taken < most && chip->pulse_count; taken++, chip->pulse_count--) {
		into[taken] = chip->pulses[chip->pulse_first];
		chip->pulse_first = (chip->pulse_first + 1) % LOG_ENTRIES;
	}
	return taken;
}

uint64_t chip_untaken(const chip_t *chip)
{
	return chip->untaken;
}

uint8_t *chip_eeprom(chip_t *chip, size_t *size)
{
	*size = chip->eeprom->size;
	return chip->eeprom->eeprom;
}

uint8_t *chip_ram(chip_t *chip, size_t *size)
{
	*size = chip->avr->ramend + 1u - RAM_START;
	return chip->avr->data + RAM_START;
}

chip_record_t *chip_record(chip_t *chip)
{
	return &chip->record;
}

/* ---- making ---------------------------------------------------------------------------------- */

static void notify(avr_t *avr, avr_io_addr_t written, avr_irq_notify_t hook, void *param)
{
	avr_irq_register_notify(avr_iomem_getirq(avr, written, "rig", AVR_IOMEM_IRQ_ALL), hook, param);
}

static void wire_up(chip_t *chip)
{
	avr_t *avr = chip->avr;
	uint32_t flags = 0; /* neither print nor sleep */

	chip->uart = module(avr, "uart", 0);
	chip->eeprom = module(avr, "eeprom", 0);
	for (int i = 0; !chip->timer || chip->timer->name != '1'; i++)
		chip->timer = module(avr, "timer", i);
	avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &flags);
	chip->to_board = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
	avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT), byte_sent, chip);
	notify(avr, EECR, eeprom_controlled, chip);
	for (int i = 0; i < CHIP_AXES; i++) {
		axis_t *axis = &chip->axis[i];
		axis->chip = chip;
		axis->number = (uint8_t)i;
		notify(avr, DDRB, pin_register_written, axis);
		notify(avr, PORTB, pin_register_written, axis);
		notify(avr, TCCR1A, pin_register_written, axis);
		notify(avr, i ? OCR1BL : OCR1AL, compare_written, axis);
		avr_irq_register_notify(
			avr_io_getirq(avr, AVR_IOCTL_TIMER_GETIRQ('1'), TIMER_IRQ_OUT_COMP + i), compared, axis);
	}
}

chip_t *chip_new(const char *elf, uint32_t seed)
{
	elf_firmware_t firmware;
	memset(&firmware, 0, sizeof firmware);
	avr_global_logger_set(quiet);
	if (elf_read_firmware(elf, &firmware) != 0 || !firmware.flash)
		return NULL;

	chip_t *chip = calloc(1, sizeof *chip);
	avr_t *avr = chip ? avr_make_mcu_by_name("atmega328p") : NULL;
	if (!avr) {
		free(chip);
		return NULL;
	}
	avr_init(avr);
	avr->frequency = CHIP_HZ;
	avr->sleep = no_nap;
	avr->log = LOG_ERROR;
	avr_load_firmware(avr, &firmware);
	free(firmware.flash); /* it was copied */
	avr->frequency = CHIP_HZ; /* the file may not say */
	chip->avr = avr;
	chip->random = 0x9E3779B97F4A7C15u ^ seed;
	chip->record.high = chip->record.step = UINT32_MAX;
	wire_up(chip);
	chip_reset(chip, CHIP_POWER_ON, CHIP_RAM_RANDOM);
	return chip;
}

void chip_free(chip_t *chip)
{
	if (chip && chip->avr->state != cpu_Done)
		avr_terminate(chip->avr);
	if (chip)
		free(chip->avr);
	free(chip);
}
