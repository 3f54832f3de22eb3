// Straight ways from where the servos are driven to where they shall be. Whole numbers only:
// widths in half microseconds, time in pulse periods of 20 ms.

#ifndef MOTION_H
#define MOTION_H

#include <stdbool.h>
#include <stdint.h>

#include "board.h"

#define PERIOD_MS 20

typedef struct {
    uint16_t at[AXES];  // driven now; with torque off: where it was driven last
    uint16_t start[AXES];
    uint16_t goal[AXES];
    uint16_t periods;  // of the whole way
    uint16_t gone;     // of these
    bool torque_off;
    bool waking;  // torque off until now: the first pulse is where it was driven last
} Motion;

// Torque off, believed to be at these widths.
void motion_begin(Motion *motion, const uint16_t at[AXES]);

// Sets out for `goal`: both axes arrive together, after duration_ms or as soon as neither exceeds
// its slew limit (us/s, at least 25). Torque is on again.
void motion_go(Motion *motion, const uint16_t goal[AXES], const uint16_t slew[AXES],
               uint16_t duration_ms);

// Stays where it is driven now. Torque is on again.
void motion_hold(Motion *motion);

void motion_relax(Motion *motion);

// One period on: `at` is what the next pulses shall be.
void motion_step(Motion *motion);

// Periods until both axes have arrived; 0 at rest and with torque off.
uint16_t motion_remaining(const Motion *motion);

#endif
