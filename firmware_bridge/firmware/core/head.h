// The head itself: obeys its host, and goes home by itself when there is none.

#ifndef HEAD_H
#define HEAD_H

#include <stdint.h>

#define PROTOCOL_VERSION 1
#define FIRMWARE_MAJOR 1
#define FIRMWARE_MINOR 0
#define FIRMWARE_PATCH 0

#define HOLD_AFTER_MS 500   // of silence
#define HOME_AFTER_MS 3000  // of silence
#define HOME_SLEW 500       // us/s

// Once after each reset, with its cause as far as it is known (RESET_ bits). Torque is off then.
void head_begin(uint8_t reset_cause);

// All there is to do just now; never waits. To be called after every interrupt, at least once a
// millisecond.
void head_poll(void);

#endif
