// What a board knows of its servos, kept in EEPROM in two copies: a power cut while one is being
// written leaves the other.

#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "board.h"

#define HARD_LOW 1000   // 500 us: what no settings can exceed
#define HARD_HIGH 5000  // 2500 us
#define SLOWEST_SLEW 25

typedef struct {
    uint16_t low, high, home;  // half microseconds
    uint16_t slew;             // us/s
} AxisSettings;

typedef struct {
    uint32_t board_id;  // 0: never set
    AxisSettings axis[AXES];
} Settings;

// As they travel and as they are kept: id, then low, high, home, slew of each axis.
#define SETTINGS_SIZE (4 + AXES * 8)
void settings_get(Settings *settings, const uint8_t *from);
uint8_t *settings_put(uint8_t *to, const Settings *settings);

// low <= home <= high inside the hard limits, and a slew.
bool settings_valid(const Settings *settings);

// Reads the newer valid copy; false, and defaults, where there is none.
bool settings_load(Settings *settings);

// Begins to write them over the older copy, unless they are what is kept; only while
// !settings_saving().
void settings_save(const Settings *settings);
bool settings_saving(void);

// Writes one byte at most. To be called often.
void settings_poll(void);

// The EEPROM holds these settings, whole.
bool settings_kept(void);

// What was saved last did not read back; the copy before it is still there.
bool settings_failed(void);

#endif
