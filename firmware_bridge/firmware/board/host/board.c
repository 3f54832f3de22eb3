#include "host.h"

#include <string.h>

#include "head.h"

#define PERIOD_US 20000u
#define DUE_US 18000u
#define POLL_US 1000u
#define EEPROM_US 3400u  // what a byte takes to be written
#define SENT_SIZE 4096u
#define PULSES 4096u

const uint8_t board_type = 0;
uint8_t board_keep[BOARD_KEEP];

static struct {
    uint64_t now_us, reset_us;
    uint32_t age_ms;
    uint64_t eeprom_ready_us;
    uint8_t eeprom[HOST_EEPROM_SIZE];
    const uint8_t *coming;
    size_t to_come;
    uint8_t sent[SENT_SIZE];
    size_t sent_in, sent_out;
    HostPulse pulses[PULSES];
    size_t pulses_in, pulses_out;
    bool armed;
    uint16_t next[AXES];
} host;


// What the core asks for


uint32_t board_millis(void) {
    return (uint32_t)((host.now_us - host.reset_us) / 1000) + host.age_ms;
}

bool board_read(uint8_t *byte) {
    if (host.to_come == 0) {
        return false;
    }
    *byte = *host.coming++;
    host.to_come--;
    return true;
}

uint8_t board_overruns(void) {
    return 0;
}

void board_send(const uint8_t *bytes, uint8_t size) {
    for (uint8_t i = 0; i < size; i++) {
        host.sent[host.sent_in++ % SENT_SIZE] = bytes[i];
    }
}

bool board_sending(void) {
    return false;
}

static uint64_t phase_us(void) {
    return (host.now_us - host.reset_us) % PERIOD_US;
}

bool board_pulse_due(void) {
    return phase_us() >= DUE_US && !host.armed;
}

void board_pulse(const uint16_t width[AXES]) {
    memcpy(host.next, width, sizeof host.next);
    host.armed = true;
}

void board_no_pulse(void) {
    host.armed = false;
}

void board_alive(void) {
}

uint8_t board_eeprom_read(uint8_t address) {
    return host.eeprom[address % HOST_EEPROM_SIZE];
}

void board_eeprom_write(uint8_t address, uint8_t byte) {
    host.eeprom[address % HOST_EEPROM_SIZE] = byte;
    host.eeprom_ready_us = host.now_us + EEPROM_US;
}

bool board_eeprom_ready(void) {
    return host.now_us >= host.eeprom_ready_us;
}


// What a test asks for


void host_power_on(uint8_t keep) {
    memset(&host, 0, sizeof host);
    memset(host.eeprom, 0xFF, sizeof host.eeprom);
    memset(board_keep, keep, sizeof board_keep);
    host_reset(RESET_POWER_ON);
}

void host_reset(uint8_t cause) {
    host.reset_us = host.now_us;
    host.age_ms = 0;
    host.to_come = 0;
    host.armed = false;
    head_begin(cause);
}

void host_feed(const uint8_t *bytes, size_t size) {
    host.coming = bytes;
    host.to_come = size;
    while (host.to_come > 0) {
        head_poll();
    }
}

static void pulse(void) {
    HostPulse *to = &host.pulses[host.pulses_in++ % PULSES];
    to->t_us = host.now_us;
    memcpy(to->width, host.next, sizeof to->width);
    host.armed = false;
}

void host_run(uint64_t us) {
    uint64_t end_us = host.now_us + us;
    while (host.now_us < end_us) {
        uint64_t step_us = POLL_US - (host.now_us - host.reset_us) % POLL_US;
        host.now_us = step_us < end_us - host.now_us ? host.now_us + step_us : end_us;
        if (phase_us() == 0 && host.armed) {
            pulse();
        }
        head_poll();
    }
}

void host_age(uint32_t ms) {
    host.age_ms += ms;
}

uint64_t host_now_us(void) {
    return host.now_us;
}

// Where to read on in a ring of which the oldest was overwritten when nobody took it.
static size_t oldest(size_t out, size_t in, size_t size) {
    return in - out > size ? in - size : out;
}

size_t host_take_sent(uint8_t *bytes, size_t most) {
    size_t taken = 0;
    host.sent_out = oldest(host.sent_out, host.sent_in, SENT_SIZE);
    while (taken < most && host.sent_out < host.sent_in) {
        bytes[taken++] = host.sent[host.sent_out++ % SENT_SIZE];
    }
    return taken;
}

size_t host_take_pulses(HostPulse *pulses, size_t most) {
    size_t taken = 0;
    host.pulses_out = oldest(host.pulses_out, host.pulses_in, PULSES);
    while (taken < most && host.pulses_out < host.pulses_in) {
        pulses[taken++] = host.pulses[host.pulses_out++ % PULSES];
    }
    return taken;
}

uint8_t *host_eeprom(void) {
    return host.eeprom;
}
