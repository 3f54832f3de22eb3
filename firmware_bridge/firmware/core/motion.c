#include "motion.h"

#include <string.h>

// A slew of s us/s is s * 2 half microseconds * 0.02 s = s / 25 of them in a period.
#define SLEW_TO_STEP 25

static uint16_t larger(uint16_t a, uint16_t b) {
    return a > b ? a : b;
}

static uint16_t distance(uint16_t a, uint16_t b) {
    return (uint16_t)(a > b ? a - b : b - a);
}

static uint16_t ceil_divided(uint32_t value, uint16_t by) {
    return (uint16_t)((value + by - 1) / by);
}

static void wake(Motion *motion) {
    motion->waking = motion->waking || motion->torque_off;
    motion->torque_off = false;
}

void motion_begin(Motion *motion, const uint16_t at[AXES]) {
    memset(motion, 0, sizeof *motion);
    memcpy(motion->at, at, sizeof motion->at);
    motion_relax(motion);
}

void motion_go(Motion *motion, const uint16_t goal[AXES], const uint16_t slew[AXES],
               uint16_t duration_ms) {
    uint16_t periods = 0;
    for (uint8_t axis = 0; axis < AXES; axis++) {
        uint16_t way = distance(goal[axis], motion->at[axis]);
        periods = larger(periods, ceil_divided((uint32_t)way * SLEW_TO_STEP, slew[axis]));
    }
    motion->periods = periods ? larger(periods, ceil_divided(duration_ms, PERIOD_MS)) : 0;
    motion->gone = 0;
    memcpy(motion->start, motion->at, sizeof motion->start);
    memcpy(motion->goal, goal, sizeof motion->goal);
    wake(motion);
}

// At rest where it is driven now.
static void stop(Motion *motion) {
    memcpy(motion->goal, motion->at, sizeof motion->goal);
    motion->periods = motion->gone = 0;
}

void motion_hold(Motion *motion) {
    stop(motion);
    wake(motion);
}

void motion_relax(Motion *motion) {
    stop(motion);
    motion->waking = false;
    motion->torque_off = true;
}

// Where an axis is after `gone` of `periods`. No step of the whole way is longer than its average
// rounded up, so the slew limit holds for each.
static uint16_t on_the_way(const Motion *motion, uint8_t axis) {
    int32_t way = (int32_t)motion->goal[axis] - motion->start[axis];
    return (uint16_t)(motion->start[axis] + way * motion->gone / motion->periods);
}

void motion_step(Motion *motion) {
    if (motion->waking) {
        motion->waking = false;
        return;
    }
    if (motion->gone == motion->periods) {
        return;
    }
    motion->gone++;
    for (uint8_t axis = 0; axis < AXES; axis++) {
        motion->at[axis] = on_the_way(motion, axis);
    }
}

uint16_t motion_remaining(const Motion *motion) {
    return (uint16_t)(motion->periods - motion->gone + motion->waking);
}
