// What the core asks of a board. A new board is these functions and a main() that calls
// head_begin() once and head_poll() for ever; PROTOCOL.md, "A new board", has the rules.

#ifndef BOARD_H
#define BOARD_H

#include <stdbool.h>
#include <stdint.h>

#define AXES 2  // pan, tilt

// Why the board started: bits, as the protocol tells them. None set: not known.
#define RESET_POWER_ON 1
#define RESET_EXTERNAL 2
#define RESET_BROWN_OUT 4
#define RESET_WATCHDOG 8

// What kind of board this is, as HELLO tells it.
extern const uint8_t board_type;

// Where the last driven widths outlive a reset: `keep` is memory that nothing clears, at least
// BOARD_KEEP bytes of it. Its content after power-on is random.
#define BOARD_KEEP 8
extern uint8_t board_keep[BOARD_KEEP];

// Milliseconds since the reset; wraps after 49.7 days.
uint32_t board_millis(void);

// The next byte from the host, if there is one.
bool board_read(uint8_t *byte);

// Bytes that came faster than they were read, since the reset; stays at 255.
uint8_t board_overruns(void);

// Sends what `bytes` points to, which stays as it is until board_sending() is false.
void board_send(const uint8_t *bytes, uint8_t size);
bool board_sending(void);

// True in the last tenth of each 20 ms period, until board_pulse() was called: time to say what
// comes next.
bool board_pulse_due(void);

// The next period begins with a pulse on each axis, of these half microseconds. One call is one
// pulse: where none comes, the pins stay low and the servos have no torque. So a program that hangs
// drives nothing.
void board_pulse(const uint16_t width[AXES]);

// Takes back what board_pulse() asked for, unless the period has as good as begun.
void board_no_pulse(void);

// Shows the watchdog that the program lives. It bites after at most 250 ms.
void board_alive(void);

uint8_t board_eeprom_read(uint8_t address);

// Begins to write one byte; only while board_eeprom_ready().
void board_eeprom_write(uint8_t address, uint8_t byte);
bool board_eeprom_ready(void);

#endif
