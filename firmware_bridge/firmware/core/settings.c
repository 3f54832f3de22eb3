#include "settings.h"

#include <string.h>

#include "framing.h"

// A copy: layout, generation, settings, CRC-32 of these.
#define LAYOUT 1
#define GENERATION_AT 1
#define SETTINGS_AT 2
#define CRC_AT (SETTINGS_AT + SETTINGS_SIZE)
#define COPY_SIZE (CRC_AT + CRC_SIZE)
#define COPY_DISTANCE 32

static const Settings defaults = {
    .board_id = 0,
    .axis = {{2000, 4000, 3000, 3000}, {2000, 4000, 3000, 3000}},
};

static struct {
    uint8_t copy[COPY_SIZE];  // the newest, as it is kept or being written
    uint8_t newer;            // in which place: 0 or 1
    bool kept;                // the EEPROM held a valid copy, or one was written
    uint8_t written;          // bytes of it; COPY_SIZE: all
    bool writing;             // the byte at `written` was begun
    bool failed;
} store;

void settings_get(Settings *settings, const uint8_t *from) {
    settings->board_id = get32(from);
    from += 4;
    for (uint8_t axis = 0; axis < AXES; axis++, from += 8) {
        settings->axis[axis] =
            (AxisSettings){get16(from), get16(from + 2), get16(from + 4), get16(from + 6)};
    }
}

uint8_t *settings_put(uint8_t *to, const Settings *settings) {
    to = put32(to, settings->board_id);
    for (uint8_t axis = 0; axis < AXES; axis++) {
        const AxisSettings *of = &settings->axis[axis];
        to = put16(put16(put16(put16(to, of->low), of->high), of->home), of->slew);
    }
    return to;
}

bool settings_valid(const Settings *settings) {
    for (uint8_t axis = 0; axis < AXES; axis++) {
        const AxisSettings *of = &settings->axis[axis];
        if (of->low < HARD_LOW || of->home < of->low || of->high < of->home ||
            of->high > HARD_HIGH || of->slew < SLOWEST_SLEW) {
            return false;
        }
    }
    return true;
}

static uint32_t crc_of(const uint8_t copy[COPY_SIZE]) {
    uint32_t crc = CRC_START;
    for (uint8_t i = 0; i < CRC_AT; i++) {
        crc = crc32_add(crc, copy[i]);
    }
    return ~crc;
}

static uint8_t address(uint8_t which, uint8_t offset) {
    return (uint8_t)(which * COPY_DISTANCE + offset);
}

// Reads a copy and tells whether it can be trusted.
static bool read_copy(uint8_t which, uint8_t copy[COPY_SIZE]) {
    for (uint8_t i = 0; i < COPY_SIZE; i++) {
        copy[i] = board_eeprom_read(address(which, i));
    }
    Settings settings;
    settings_get(&settings, copy + SETTINGS_AT);
    return copy[0] == LAYOUT && get32(copy + CRC_AT) == crc_of(copy) && settings_valid(&settings);
}

bool settings_load(Settings *settings) {
    uint8_t first[COPY_SIZE];
    bool first_good = read_copy(0, first);
    bool second_good = read_copy(1, store.copy);
    // Generations count in a circle: the sign of the difference tells which is ahead.
    bool second_ahead = (int8_t)(store.copy[GENERATION_AT] - first[GENERATION_AT]) > 0;
    store.newer = second_good && (!first_good || second_ahead);
    if (!store.newer) {
        memcpy(store.copy, first, COPY_SIZE);
    }
    store.kept = first_good || second_good;
    store.written = COPY_SIZE;
    store.writing = store.failed = false;
    *settings = defaults;
    if (store.kept) {
        settings_get(settings, store.copy + SETTINGS_AT);
    }
    return store.kept;
}

void settings_save(const Settings *settings) {
    uint8_t bytes[SETTINGS_SIZE];
    settings_put(bytes, settings);
    if (store.kept && memcmp(bytes, store.copy + SETTINGS_AT, SETTINGS_SIZE) == 0) {
        return;  // as it is: spares the EEPROM
    }
    store.copy[0] = LAYOUT;
    store.copy[GENERATION_AT]++;
    memcpy(store.copy + SETTINGS_AT, bytes, SETTINGS_SIZE);
    put32(store.copy + CRC_AT, crc_of(store.copy));
    store.newer ^= 1;
    store.written = 0;
    store.writing = store.kept = store.failed = false;
}

bool settings_saving(void) {
    return store.written < COPY_SIZE;
}

bool settings_kept(void) {
    return store.kept;
}

bool settings_failed(void) {
    return store.failed;
}

static bool reads_back(uint8_t offset) {
    return board_eeprom_read(address(store.newer, offset)) == store.copy[offset];
}

static void give_up(void) {
    store.newer ^= 1;  // the other copy is still what it was, and this place is tried again
    store.written = COPY_SIZE;
    store.failed = true;
}

void settings_poll(void) {
    if (!settings_saving() || !board_eeprom_ready()) {
        return;
    }
    if (!reads_back(store.written)) {
        if (store.writing) {
            give_up();
            return;
        }
        board_eeprom_write(address(store.newer, store.written), store.copy[store.written]);
        store.writing = true;
        return;
    }
    store.writing = false;
    store.written++;
    store.kept = !settings_saving();
}
