// A board that is a program: the shipping core with a clock, a line, pins and an EEPROM that a test
// turns by hand. One board in a process. tests/host_board.py drives it, and the fuzzer does.

#ifndef HOST_H
#define HOST_H

#include <stddef.h>
#include <stdint.h>

#include "board.h"

#define HOST_EEPROM_SIZE 64

typedef struct {
    uint64_t t_us;  // of its rise, since host_power_on()
    uint16_t width[AXES];
} HostPulse;

// A new chip with an empty EEPROM, at time 0. `keep` fills what outlives a reset.
void host_power_on(uint8_t keep);

// Resets, with this cause. Bytes on their way are lost; EEPROM and kept memory stay.
void host_reset(uint8_t cause);

// Bytes come from the host; what is complete is obeyed at once.
void host_feed(const uint8_t *bytes, size_t size);

// Time goes on by us microseconds.
void host_run(uint64_t us);

// The board's own clock jumps ahead, as if it had been on for longer.
void host_age(uint32_t ms);

uint64_t host_now_us(void);

// Take what the board sent, and what its pins did, oldest first. Return how many were taken. Only
// the last 4,096 bytes and pulses are kept.
size_t host_take_sent(uint8_t *bytes, size_t most);
size_t host_take_pulses(HostPulse *pulses, size_t most);

// The EEPROM, to look at and to spoil.
uint8_t *host_eeprom(void);

#endif
