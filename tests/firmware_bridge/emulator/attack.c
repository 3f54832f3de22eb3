/* See attack.h. COBS and CRC-32 are written here once more: what attacks must not share them. */
#include "attack.h"

#include <string.h>

#define LONGEST 64 /* bytes before stuffing; the board takes at most 44 */
#define CONFIGURE 7
#define CONFIGURE_SIZE 23
#define MOVE 3
#define MS (CHIP_HZ / 1000)

typedef struct {
	chip_t *chip;
	uint64_t random;
	attack_count_t *count;
	int settings;
	uint8_t reply[256];
	size_t reply_size;
} attack_t;

typedef struct {
	uint8_t bytes[2 * LONGEST];
	size_t size;
} frame_t;

static uint32_t below(attack_t *attack, uint32_t limit)
{
	attack->random += 0x9E3779B97F4A7C15u; /* SplitMix64 */
	uint64_t mixed = attack->random;
	mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9u;
	mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
	return (uint32_t)((mixed >> 32) % limit);
}

static uint32_t crc32_of(const uint8_t *bytes, size_t size)
{
	uint32_t crc = ~0u;
	for (size_t i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
	}
	return ~crc;
}

static void add_le(uint8_t *to, uint32_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		to[i] = (uint8_t)(value >> 8 * i);
}

static void stuff(frame_t *frame, const uint8_t *bytes, size_t size)
{
	size_t code = 0;
	frame->size = 1;
	for (size_t i = 0; i < size; i++) {
		if (bytes[i]) {
			frame->bytes[frame->size++] = bytes[i];
		} else {
			frame->bytes[code] = (uint8_t)(frame->size - code);
			code = frame->size++;
		}
	}
	frame->bytes[code] = (uint8_t)(frame->size - code);
	frame->bytes[frame->size++] = 0;
}

static void close_payload(frame_t *frame, uint8_t *payload, size_t size)
{
	add_le(payload + size, crc32_of(payload, size), 4);
	stuff(frame, payload, size + 4);
}

/* ---- frames ---------------------------------------------------------------------------------- */

static void noise(attack_t *attack, frame_t *frame)
{
	frame->size = 1 + below(attack, below(attack, 8) ? 8 : 100);
	for (size_t i = 0; i < frame->size; i++)
		frame->bytes[i] = (uint8_t)below(attack, below(attack, 4) ? 256 : 8);
	if (below(attack, 2))
		frame->bytes[frame->size - 1] = 0;
}

static size_t request(attack_t *attack, uint8_t *payload)
{
	static const uint8_t body[] = {0, 4, 0, 6, 0, 0, 0, 20};
	uint8_t kind = (uint8_t)(1 + below(attack, attack->settings ? 7 : 6));
	if (below(attack, 2))
		kind = MOVE;
	add_le(payload, below(attack, 65536), 2);
	payload[2] = kind;
	for (int i = 0; i < body[kind]; i++)
		payload[3 + i] = (uint8_t)below(attack, 256);
	if (kind == MOVE) {
		add_le(payload + 3, 1900 + below(attack, 2200), 2);
		add_le(payload + 5, 1900 + below(attack, 2200), 2);
		add_le(payload + 7, below(attack, 4) ? 0 : below(attack, 3000), 2);
	} else if (kind == CONFIGURE && below(attack, 4)) { /* most of them acceptable */
		for (int axis = 0; axis < 2; axis++) {
			uint32_t low = 1000 + below(attack, 2000), high = low + below(attack, 5001 - low);
			add_le(payload + 7 + 8 * axis, low, 2);
			add_le(payload + 9 + 8 * axis, high, 2);
			add_le(payload + 11 + 8 * axis, low + below(attack, high - low + 1), 2);
			add_le(payload + 13 + 8 * axis, 25 + below(attack, 65511), 2);
		}
	}
	return 3u + body[kind];
}

static void sane(attack_t *attack, frame_t *frame)
{
	uint8_t payload[LONGEST];
	close_payload(frame, payload, request(attack, payload));
}

/* Whole frames with anything in them. */
static void hostile(attack_t *attack, frame_t *frame)
{
	uint8_t payload[LONGEST];
	size_t size = request(attack, payload);
	switch (below(attack, 4)) {
	case 0: /* any kind, any length */
		size = below(attack, LONGEST - 4);
		for (size_t i = 0; i < size; i++)
			payload[i] = (uint8_t)below(attack, 256);
		break;
	case 1: /* a wrong length */
		size = size + 1 + below(attack, 8) - (below(attack, 2) ? size : 0);
		break;
	case 2: /* extreme values */
		for (size_t i = 3; i < size; i++)
			payload[i] = below(attack, 2) ? 0xFF : 0x00;
		break;
	default:
		for (size_t i = 3; i < size; i++)
			payload[i] = (uint8_t)below(attack, 256);
	}
	if (!attack->settings && size == CONFIGURE_SIZE && payload[2] == CONFIGURE)
		payload[2] = MOVE;
	close_payload(frame, payload, size);
}

/* A right frame in which bits flip, bytes are dropped, doubled, swapped or put in. */
static void broken(attack_t *attack, frame_t *frame)
{
	sane(attack, frame);
	for (uint32_t faults = 1 + below(attack, 3); faults && frame->size > 1; faults--) {
		size_t at = below(attack, (uint32_t)frame->size);
		uint8_t *byte = &frame->bytes[at];
		switch (below(attack, 5)) {
		case 0: *byte ^= (uint8_t)(1u << below(attack, 8)); break;
		case 1: *byte = (uint8_t)below(attack, 256); break;
		case 2: /* dropped */
			memmove(byte, byte + 1, --frame->size - at);
			break;
		case 3: /* doubled */
			memmove(byte + 1, byte, frame->size++ - at);
			break;
		default: frame->size = 1 + below(attack, (uint32_t)frame->size); /* cut off */
		}
	}
}

/* ---- what the board says --------------------------------------------------------------------- */

static int whole(const uint8_t *stuffed, size_t size)
{
	uint8_t bytes[256];
	size_t out = 0;
	for (size_t at = 0; at < size;) {
		size_t code = stuffed[at];
		if (!code || at + code > size)
			return 0;
		if (at)
			bytes[out++] = 0;
		memcpy(bytes + out, stuffed + at + 1, code - 1);
		out += code - 1;
		at += code;
	}
	uint8_t sum[4];
	if (out < 8)
		return 0;
	add_le(sum, crc32_of(bytes, out - 4), 4);
	return !memcmp(sum, bytes + out - 4, 4) && bytes[2] & 0x80;
}

static void hear(attack_t *attack)
{
	chip_byte_t sent[64];
	for (size_t got; (got = chip_take_sent(attack->chip, sent, 64));)
		for (size_t i = 0; i < got; i++) {
			if (sent[i].value && attack->reply_size < sizeof attack->reply) {
				attack->reply[attack->reply_size++] = sent[i].value;
			} else if (!sent[i].value) {
				if (whole(attack->reply, attack->reply_size))
					attack->count->replies++;
				else
					attack->count->garbled++;
				attack->reply_size = 0;
			}
		}
}

/* ---- the attack ------------------------------------------------------------------------------ */

static int run_until_fed(attack_t *attack)
{
	while (chip_unfed(attack->chip))
		if (chip_run(attack->chip, chip_unfed(attack->chip) * CHIP_CYCLES_PER_BYTE))
			return -1;
	return 0;
}

static int wait(attack_t *attack, int answered)
{
	uint64_t cycles = answered && below(attack, 8) ? 4 * MS : below(attack, 40) ? 0 : below(attack, 60 * MS);
	if (!below(attack, 20000)) {
		attack->count->silences++;
		cycles = 500 * MS + (uint64_t)below(attack, 6000) * MS;
	}
	return chip_run(attack->chip, cycles);
}

static int reset(attack_t *attack)
{
	static const int causes[] = {CHIP_EXTERNAL, CHIP_EXTERNAL, 0, CHIP_BROWN_OUT, CHIP_BROWN_OUT, CHIP_POWER_ON};
	static const int rams[] = {CHIP_RAM_KEPT, CHIP_RAM_KEPT, CHIP_RAM_DAMAGED, CHIP_RAM_KEPT, CHIP_RAM_DAMAGED, CHIP_RAM_RANDOM};
	uint32_t which = below(attack, 7);

	attack->reply_size = 0;
	if (which == 6)
		return chip_hang(attack->chip, (int)below(attack, 2)); /* the watchdog resets */
	chip_reset(attack->chip, causes[which], rams[which]);
	if (below(attack, 2))
		chip_boot_delay(attack->chip, below(attack, 50 * MS));
	return 0;
}

int chip_attack(chip_t *chip, uint32_t seed, uint32_t frames, int settings, int resets,
                attack_count_t *count)
{
	attack_t attack = {.chip = chip, .random = seed, .count = count, .settings = settings};

	for (uint32_t i = 0; i < frames; i++) {
		frame_t frame;
		uint32_t choice = below(&attack, 16);
		if (choice < 7) {
			noise(&attack, &frame);
			count->noise++;
		} else if (choice < 14) {
			broken(&attack, &frame);
			count->broken++;
		} else if (choice < 15) {
			hostile(&attack, &frame);
			count->hostile++;
		} else {
			sane(&attack, &frame);
			count->sane++;
		}
		count->frames++;
		chip_feed(chip, frame.bytes, frame.size);
		if (run_until_fed(&attack) || wait(&attack, choice >= 14))
			return -1;
		hear(&attack);
		if (resets && !below(&attack, 2000) && reset(&attack))
			return -1;
	}
	return 0;
}
