#include "framing.h"

#define CRC_POLYNOMIAL 0xEDB88320u
#define CRC_RESIDUE 0xDEBB20E3u  // the CRC of any data followed by its own sum

uint32_t crc32_add(uint32_t crc, uint8_t byte) {
    crc ^= byte;
    for (uint8_t bit = 0; bit < 8; bit++) {
        crc = (crc & 1) ? (crc >> 1) ^ CRC_POLYNOMIAL : crc >> 1;
    }
    return crc;
}

uint16_t get16(const uint8_t *from) {
    return (uint16_t)(from[0] | (uint16_t)from[1] << 8);
}

uint32_t get32(const uint8_t *from) {
    return get16(from) | (uint32_t)get16(from + 2) << 16;
}

uint8_t *put16(uint8_t *to, uint16_t value) {
    *to++ = (uint8_t)value;
    *to++ = (uint8_t)(value >> 8);
    return to;
}

uint8_t *put32(uint8_t *to, uint32_t value) {
    return put16(put16(to, (uint16_t)value), (uint16_t)(value >> 16));
}

void decoder_begin(Decoder *decoder) {
    decoder->size = 0;
    decoder->run = 0;
    decoder->begun = false;
    decoder->too_long = false;
    decoder->crc = CRC_START;
}

static void keep(Decoder *decoder, uint8_t byte) {
    if (decoder->size == sizeof decoder->bytes) {
        decoder->too_long = true;
        return;
    }
    decoder->bytes[decoder->size++] = byte;
    decoder->crc = crc32_add(decoder->crc, byte);
}

// What a closing zero has closed. Zeros between frames close nothing.
static FrameEvent closed(Decoder *decoder) {
    bool whole = decoder->run == 0 && !decoder->too_long && decoder->crc == CRC_RESIDUE &&
                 decoder->size >= SHORTEST_PAYLOAD + CRC_SIZE;
    FrameEvent event = whole ? FRAME_GOOD : decoder->begun ? FRAME_BAD : FRAME_OPEN;
    uint8_t size = decoder->size;
    decoder_begin(decoder);
    if (whole) {
        decoder->size = (uint8_t)(size - CRC_SIZE);  // for the caller to read
    }
    return event;
}

FrameEvent decoder_take(Decoder *decoder, uint8_t byte) {
    if (byte == 0) {
        return closed(decoder);
    }
    if (!decoder->begun) {
        decoder->begun = true;
        decoder->size = 0;
        decoder->run = (uint8_t)(byte - 1);
    } else if (decoder->run == 0) {
        keep(decoder, 0);
        decoder->run = (uint8_t)(byte - 1);
    } else {
        keep(decoder, byte);
        decoder->run--;
    }
    return FRAME_OPEN;
}

typedef struct {
    uint8_t *code;  // where the length of the present run belongs
    uint8_t *end;
} Stuffing;

static void stuff(Stuffing *to, uint8_t byte) {
    if (byte == 0) {
        *to->code = (uint8_t)(to->end - to->code);
        to->code = to->end;
    } else {
        *to->end = byte;
    }
    to->end++;
}

uint8_t frame_encode(const uint8_t *payload, uint8_t size, uint8_t frame[LONGEST_FRAME]) {
    Stuffing to = {frame, frame + 1};
    uint32_t crc = CRC_START;
    for (uint8_t i = 0; i < size; i++) {
        crc = crc32_add(crc, payload[i]);
        stuff(&to, payload[i]);
    }
    uint8_t sum[CRC_SIZE];
    put32(sum, ~crc);
    for (uint8_t i = 0; i < CRC_SIZE; i++) {
        stuff(&to, sum[i]);
    }
    *to.code = (uint8_t)(to.end - to.code);
    *to.end++ = 0;
    return (uint8_t)(to.end - frame);
}
