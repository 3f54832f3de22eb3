// Coverage-guided fuzzing of the shipping core (libFuzzer; address and undefined-behaviour
// sanitizers). The input is a script: an operation, then what it needs. After each step this judge
// looks at every pulse and every reply; it knows the limits from what was said on the line alone.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framing.h"
#include "head.h"
#include "host.h"

enum { HELLO = 1, MOVE = 3, CONFIGURE = 7, REPLY = 0x80 };
enum { GREETING_SIZE = 35, STATE_SIZE = 23 };
enum { TORQUE_OFF = 2 };

#define must(condition)                                                        \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "line %d: not true: %s\n", __LINE__, #condition);  \
            abort();                                                           \
        }                                                                      \
    } while (0)

typedef struct {
    uint16_t low, high, home, slew;
} Limits;

typedef struct {
    int low, high;
} Range;

static struct {
    Limits axis[AXES];
    bool driven;            // there was a pulse to compare the next one with
    uint64_t t_us;          // of the last pulse
    Range kept[AXES];       // where the head may remember itself
    bool at_home;           // the first pulse must be home: nothing could be remembered
    bool woken;             // its torque was on when last seen
    uint8_t configure[64];  // the last CONFIGURE whose frame was whole
    size_t requests, replies;
} judge;

static int within(int width, const Limits *limits) {
    return width < limits->low ? limits->low : width > limits->high ? limits->high : width;
}

// The longest step of one period.
static int longest_step(const Limits *limits) {
    return (limits->slew + 24) / 25;
}

// A head may remember one pulse that was armed but relaxed or reset away before it came: one step
// on, within the limits it had then. It wakes there, whatever the settings are by then.
static void may_have_armed(Range *kept, const Limits *limits) {
    int step = longest_step(limits);
    int low = within(kept->low, limits) - step, high = within(kept->high, limits) + step;
    *kept = (Range){low < kept->low ? low : kept->low, high > kept->high ? high : kept->high};
}

static void take_limits(const uint8_t *from) {
    for (int axis = 0; axis < AXES; axis++, from += 8) {
        Limits *limits = &judge.axis[axis];
        Limits now = {get16(from), get16(from + 2), get16(from + 4), get16(from + 6)};
        if (memcmp(limits, &now, sizeof now)) {
            may_have_armed(&judge.kept[axis], limits);
        }
        *limits = now;
        must(limits->low >= 1000 && limits->high <= 5000 && limits->slew >= 25);
        must(limits->low <= limits->home && limits->home <= limits->high);
    }
}

// It was woken and its torque is off again: its first pulse may have been asked for, remembered, and never
// have come, at what was home then.
static void fell_asleep(void) {
    judge.at_home = judge.at_home && !judge.woken;
    judge.woken = false;
}

static void judge_state(const uint8_t *state) {
    must(!(state[0] & 0x80));
    if (state[0] & TORQUE_OFF) {
        fell_asleep();
    }
    judge.woken = !(state[0] & TORQUE_OFF);
    for (int axis = 0; axis < AXES; axis++) {
        uint16_t goal = get16(state + 7 + 2 * axis), driven = get16(state + 11 + 2 * axis);
        must(goal == within(goal, &judge.axis[axis]));
        must(state[0] & TORQUE_OFF ? driven == 0 : driven == within(driven, &judge.axis[axis]));
    }
}

static void judge_reply(const uint8_t *payload, uint8_t size) {
    uint8_t kind = payload[2], result = payload[3];
    must(size >= 4 && (kind & REPLY) && result <= 5);
    judge.replies++;
    if (kind == (HELLO | REPLY) && result == 0) {
        must(size == GREETING_SIZE);
        take_limits(payload + 17);
        return;
    }
    must(size == STATE_SIZE);
    if (kind == (CONFIGURE | REPLY) && result == 0) {
        must(get16(judge.configure) == get16(payload));
        take_limits(judge.configure + 7);
        if (!(payload[4] & TORQUE_OFF)) {  // a pulse may be armed that was right by the old settings
            judge.driven = judge.at_home = false;
        }
    }
    judge_state(payload + 4);
}

static void judge_replies(void) {
    uint8_t byte;
    Decoder decoder;
    decoder_begin(&decoder);
    FrameEvent event = FRAME_OPEN;
    while (host_take_sent(&byte, 1)) {
        event = decoder_take(&decoder, byte);
        must(event != FRAME_BAD);
        if (event == FRAME_GOOD) {
            judge_reply(decoder.bytes, decoder.size);
        }
    }
    must(event == FRAME_GOOD || !decoder.begun);  // nothing is left half said
    must(judge.replies <= judge.requests);
}

// Both pulses of a period, against the limits and against those before.
static void judge_pulse(const HostPulse *pulse) {
    uint64_t periods = judge.driven ? (pulse->t_us - judge.t_us + 19999) / 20000 : 0;
    for (int axis = 0; axis < AXES; axis++) {
        const Limits *limits = &judge.axis[axis];
        uint16_t width = pulse->width[axis];
        must(width >= limits->low && width <= limits->high);
        if (judge.at_home) {
            must(width == limits->home);
        }
        if (judge.driven) {
            // Clipped, since new limits may have come while its torque was off.
            int64_t way = (int64_t)periods * longest_step(limits);
            must(width + way >= within(judge.kept[axis].low, limits));
            must(width <= within(judge.kept[axis].high, limits) + way);
        }
        judge.kept[axis] = (Range){width, width};
    }
    judge.driven = true;
    judge.at_home = false;
    judge.t_us = pulse->t_us;
}

static void run(uint64_t us) {
    HostPulse pulse;
    host_run(us);
    while (host_take_pulses(&pulse, 1)) {
        judge_pulse(&pulse);
    }
    judge_replies();
}

// Feeds one byte at a time, so that it is known after which of them a reply must have come.
static void feed(const uint8_t *bytes, size_t size) {
    static Decoder decoder;
    for (size_t i = 0; i < size; i++) {
        if (decoder_take(&decoder, bytes[i]) == FRAME_GOOD) {
            judge.requests++;
            memcpy(judge.configure, decoder.bytes, decoder.size);
        }
        host_feed(bytes + i, 1);
        judge_replies();
    }
}

static void feed_frame(const uint8_t *payload, uint8_t size) {
    uint8_t frame[LONGEST_FRAME + 1] = {0};
    feed(frame, 1u + frame_encode(payload, size, frame + 1));
}

// After a reset the judge asks for the settings, as a host does.
static void greet(void) {
    feed_frame((const uint8_t[]){0, 0, HELLO, 1, 2, 3, 4}, 7);
}

static void reset(uint8_t cause) {
    fell_asleep();
    bool forgets = cause & (RESET_POWER_ON | RESET_BROWN_OUT);
    if (forgets) {
        judge.driven = false;
        judge.at_home = true;
    }
    host_reset(cause);
    greet();
}

static void begin(uint8_t keep) {
    memset(&judge, 0, sizeof judge);
    judge.at_home = true;
    host_power_on(keep);
    greet();
}

typedef struct {
    const uint8_t *at, *end;
} Script;

static uint8_t next(Script *script) {
    return script->at < script->end ? *script->at++ : 0;
}

static uint16_t next16(Script *script) {
    uint8_t low = next(script);
    return (uint16_t)(low | next(script) << 8);
}

// The next `size` bytes of the script, or what is left of it.
static const uint8_t *next_bytes(Script *script, uint8_t *size) {
    const uint8_t *bytes = script->at;
    size_t left = (size_t)(script->end - script->at);
    *size = left < *size ? (uint8_t)left : *size;
    script->at += *size;
    return bytes;
}

static uint16_t between(uint16_t low, uint16_t high, uint16_t any) {
    return (uint16_t)(low + any % (high - low + 1));
}

// Settings that can be, at random.
static void configure(Script *script, uint8_t id) {
    uint8_t payload[LONGEST_PAYLOAD] = {id, 0, CONFIGURE, id};
    uint8_t *to = payload + 7;
    for (int axis = 0; axis < AXES; axis++) {
        uint16_t low = between(1000, 5000, next16(script));
        uint16_t high = between(low, 5000, next16(script));
        uint16_t home = between(low, high, next16(script));
        uint16_t slew = between(25, 10000, next16(script));
        to = put16(put16(put16(put16(to, low), high), home), slew);
    }
    feed_frame(payload, (uint8_t)(to - payload));
}

static void play(Script *script) {
    uint8_t operation = next(script), size = next(script);
    switch (operation % 9) {
    case 0: {  // any bytes
        const uint8_t *bytes = next_bytes(script, &size);
        feed(bytes, size);
        break;
    }
    case 1: {  // a frame with a sound CRC
        size %= LONGEST_PAYLOAD + 1;
        const uint8_t *payload = next_bytes(script, &size);
        feed_frame(payload, size);
        break;
    }
    case 2: run(size * 1000u); break;
    case 3: run(next16(script) * 25u); break;
    case 4: host_age((uint32_t)next16(script) << 16 | size); break;
    case 5: reset(size % 16); break;
    case 6: host_eeprom()[size % HOST_EEPROM_SIZE] ^= next(script); break;
    case 7: {  // a move, anywhere
        uint8_t payload[9] = {size, 0, MOVE};
        put16(put16(put16(payload + 3, next16(script)), next16(script)), next16(script));
        feed_frame(payload, sizeof payload);
        break;
    }
    case 8: configure(script, size); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Script script = {data, data + size};
    begin(next(&script));
    while (script.at < script.end) {
        play(&script);
    }
    run(4000000);  // the host has gone: hold, home
    return 0;
}
