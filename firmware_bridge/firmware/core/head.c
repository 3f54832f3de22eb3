#include "head.h"

#include <string.h>

#include "board.h"
#include "framing.h"
#include "motion.h"
#include "settings.h"

enum { HELLO = 1, STATUS, MOVE, HOLD, HOME, RELAX, CONFIGURE, REPLY = 0x80 };

typedef enum { OK, CLIPPED, REFUSED, UNKNOWN, BUSY, NOT_NOW } Result;

enum {
    FLAG_MOVING = 1,
    FLAG_TORQUE_OFF = 2,
    FLAG_HOMING = 4,
    FLAG_HOST_LOST = 8,
    FLAG_EEPROM_BUSY = 16,
    FLAG_DEFAULT_SETTINGS = 32,
    FLAG_EEPROM_FAILED = 64,
};

typedef enum { HEARD, SILENT, GONE } Host;

static struct {
    Decoder decoder;
    Settings settings;
    Motion motion;
    bool homing;  // set out for home, slowly; not at rest only while it moves
    Host host;
    bool host_lost;  // held or sent home because of silence, and no command to move since
    uint32_t heard_ms;
    uint16_t bad_frames;
    uint8_t reset_cause;
    uint8_t frame[LONGEST_FRAME];  // the reply that is being sent
} head;


// Motion, within the limits


static uint16_t within(uint16_t width, const AxisSettings *limits) {
    return width < limits->low ? limits->low : width > limits->high ? limits->high : width;
}

static Result move(uint16_t pan, uint16_t tilt, uint16_t duration_ms) {
    const AxisSettings *axis = head.settings.axis;
    uint16_t goal[AXES] = {within(pan, &axis[0]), within(tilt, &axis[1])};
    uint16_t slew[AXES] = {axis[0].slew, axis[1].slew};
    motion_go(&head.motion, goal, slew, duration_ms);
    head.homing = false;
    return goal[0] == pan && goal[1] == tilt ? OK : CLIPPED;
}

static uint16_t slow(uint16_t slew) {
    return slew < HOME_SLEW ? slew : HOME_SLEW;
}

static void go_home(void) {
    const AxisSettings *axis = head.settings.axis;
    uint16_t goal[AXES] = {axis[0].home, axis[1].home};
    uint16_t slew[AXES] = {slow(axis[0].slew), slow(axis[1].slew)};
    motion_go(&head.motion, goal, slew, 0);
    head.homing = true;
}

static void hold(void) {
    motion_hold(&head.motion);
    head.homing = false;
}

static void relax(void) {
    motion_relax(&head.motion);
    board_no_pulse();
}

// The widths driven last outlive a reset, so that the first pulse after it is where the last was.
// Each is kept with its complement, which random memory does not happen to hold.
static void remember(void) {
    uint8_t *to = board_keep;
    for (uint8_t axis = 0; axis < AXES; axis++) {
        to = put16(put16(to, head.motion.at[axis]), head.motion.at[axis] ^ UINT16_MAX);
    }
}

// After a power cut the servos may have been turned by anyone: nothing is known.
static void forget(void) {
    memset(board_keep, 0, sizeof board_keep);
}

static bool remembers(void) {
    bool whole = true;
    for (uint8_t axis = 0; axis < AXES; axis++) {
        const uint8_t *from = board_keep + 4 * axis;
        whole = whole && (get16(from) ^ get16(from + 2)) == UINT16_MAX;
    }
    return whole;
}

// Torque off; the first pulse will be where the last one was, or at home.
static void torque_off_where_it_was(void) {
    uint16_t at[AXES];
    for (uint8_t axis = 0; axis < AXES; axis++) {
        const AxisSettings *limits = &head.settings.axis[axis];
        at[axis] = remembers() ? within(get16(board_keep + 4 * axis), limits) : limits->home;
    }
    motion_begin(&head.motion, at);
}


// Settings


static bool stands_within(const Settings *settings) {
    for (uint8_t axis = 0; axis < AXES; axis++) {
        if (within(head.motion.at[axis], &settings->axis[axis]) != head.motion.at[axis]) {
            return false;
        }
    }
    return true;
}

// New limits never turn the head: it has to stand within them, or have no torque.
static Result configure(const uint8_t *body) {
    Settings settings;
    settings_get(&settings, body);
    if (!settings_valid(&settings)) {
        return REFUSED;
    }
    if (settings_saving()) {
        return BUSY;
    }
    if (motion_remaining(&head.motion) || (!head.motion.torque_off && !stands_within(&settings))) {
        return NOT_NOW;
    }
    head.settings = settings;
    settings_save(&settings);
    if (head.motion.torque_off) {
        torque_off_where_it_was();
    }
    return OK;
}


// Replies


static uint8_t flags(void) {
    bool moving = motion_remaining(&head.motion) > 0;
    return (uint8_t)((moving ? FLAG_MOVING : 0) | (head.motion.torque_off ? FLAG_TORQUE_OFF : 0) |
                     (moving && head.homing ? FLAG_HOMING : 0) |
                     (head.host_lost ? FLAG_HOST_LOST : 0) |
                     (settings_saving() ? FLAG_EEPROM_BUSY : 0) |
                     (settings_kept() ? 0 : FLAG_DEFAULT_SETTINGS) |
                     (settings_failed() ? FLAG_EEPROM_FAILED : 0));
}

static uint16_t remaining_ms(void) {
    uint32_t ms = (uint32_t)motion_remaining(&head.motion) * PERIOD_MS;
    return ms < UINT16_MAX ? (uint16_t)ms : UINT16_MAX;
}

static uint8_t *put_state(uint8_t *to) {
    const Motion *motion = &head.motion;
    *to++ = flags();
    *to++ = head.reset_cause;
    *to++ = board_overruns();
    to = put16(put16(to, head.bad_frames), remaining_ms());
    to = put16(put16(to, motion->goal[0]), motion->goal[1]);
    to = put16(to, motion->torque_off ? 0 : motion->at[0]);
    to = put16(to, motion->torque_off ? 0 : motion->at[1]);
    return put32(to, board_millis());
}

static uint8_t *put_greeting(uint8_t *to, uint32_t nonce) {
    to = put32(to, nonce);
    *to++ = PROTOCOL_VERSION;
    *to++ = FIRMWARE_MAJOR;
    *to++ = FIRMWARE_MINOR;
    *to++ = FIRMWARE_PATCH;
    *to++ = board_type;
    return put16(settings_put(to, &head.settings), HOME_SLEW);
}

static void reply(const uint8_t *request, Result result) {
    uint8_t payload[LONGEST_PAYLOAD];
    uint8_t kind = request[2];
    uint8_t *to = put16(payload, get16(request));
    *to++ = kind | REPLY;
    *to++ = (uint8_t)result;
    bool greets = kind == HELLO && result == OK;
    to = greets ? put_greeting(to, get32(request + 3)) : put_state(to);
    board_send(head.frame, frame_encode(payload, (uint8_t)(to - payload), head.frame));
}


// Requests


// Bytes of the body of each kind; UINT8_MAX: no such kind.
static uint8_t body_size(uint8_t kind) {
    switch (kind) {
    case HELLO: return 4;
    case MOVE: return 6;
    case CONFIGURE: return SETTINGS_SIZE;
    case STATUS:
    case HOLD:
    case HOME:
    case RELAX: return 0;
    default: return UINT8_MAX;
    }
}

static Result obey(uint8_t kind, const uint8_t *body, uint8_t size) {
    if (body_size(kind) == UINT8_MAX) {
        return UNKNOWN;
    }
    if (body_size(kind) != size) {
        return REFUSED;
    }
    bool to_move = kind == MOVE || kind == HOLD || kind == HOME || kind == RELAX;
    head.host_lost = head.host_lost && !to_move;
    switch (kind) {
    case MOVE: return move(get16(body), get16(body + 2), get16(body + 4));
    case HOLD: hold(); return OK;
    case HOME: go_home(); return OK;
    case RELAX: relax(); return OK;
    case CONFIGURE: return configure(body);
    default: return OK;  // HELLO, STATUS: the reply is all
    }
}

static void listen(void) {
    uint8_t byte;
    if (board_sending() || !board_read(&byte)) {
        return;  // one request at a time: the next waits until the reply has gone
    }
    switch (decoder_take(&head.decoder, byte)) {
    case FRAME_GOOD: {
        const uint8_t *request = head.decoder.bytes;
        head.heard_ms = board_millis();
        head.host = HEARD;
        reply(request, obey(request[2], request + SHORTEST_PAYLOAD,
                            (uint8_t)(head.decoder.size - SHORTEST_PAYLOAD)));
        break;
    }
    case FRAME_BAD:
        if (head.bad_frames < UINT16_MAX) {
            head.bad_frames++;
        }
        break;
    case FRAME_OPEN: break;
    }
}

// A head without host holds, then goes home. One without torque stays so.
static void mind_silence(void) {
    uint32_t silence_ms = board_millis() - head.heard_ms;
    Host host = silence_ms < HOLD_AFTER_MS ? HEARD : silence_ms < HOME_AFTER_MS ? SILENT : GONE;
    if (host <= head.host || head.motion.torque_off) {
        return;
    }
    head.host = host;
    head.host_lost = true;
    if (host == SILENT) {
        hold();
    } else {
        go_home();
    }
}

static void drive(void) {
    if (!board_pulse_due()) {
        return;
    }
    board_alive();  // here, so that the pulse timer must live as well
    if (head.motion.torque_off) {
        return;
    }
    motion_step(&head.motion);
    remember();
    board_pulse(head.motion.at);
}

void head_begin(uint8_t reset_cause) {
    memset(&head, 0, sizeof head);
    head.reset_cause = reset_cause;
    decoder_begin(&head.decoder);
    settings_load(&head.settings);
    if (reset_cause & (RESET_POWER_ON | RESET_BROWN_OUT)) {
        forget();
    }
    torque_off_where_it_was();
    head.heard_ms = board_millis();
}

void head_poll(void) {
    listen();
    mind_silence();
    drive();
    settings_poll();
}
