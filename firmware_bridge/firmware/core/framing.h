// Frames on the wire: COBS(payload + CRC-32, little endian) + 0x00.

#ifndef FRAMING_H
#define FRAMING_H

#include <stdbool.h>
#include <stdint.h>

#define LONGEST_PAYLOAD 40
#define SHORTEST_PAYLOAD 3  // sequence number and kind
#define CRC_SIZE 4
#define LONGEST_FRAME (LONGEST_PAYLOAD + CRC_SIZE + 2)  // with the code byte and the closing zero

// CRC-32 as zlib and Ethernet have it. Start with CRC_START; the sum to send is ~crc.
#define CRC_START 0xFFFFFFFFu
uint32_t crc32_add(uint32_t crc, uint8_t byte);

// Little-endian numbers. Each put returns where the next byte belongs.
uint16_t get16(const uint8_t *from);
uint32_t get32(const uint8_t *from);
uint8_t *put16(uint8_t *to, uint16_t value);
uint8_t *put32(uint8_t *to, uint32_t value);

typedef enum {
    FRAME_OPEN,  // not at the end of a frame
    FRAME_GOOD,  // `bytes` holds a payload of `size` bytes, until the next byte is taken
    FRAME_BAD,
} FrameEvent;

typedef struct {
    uint8_t bytes[LONGEST_PAYLOAD + CRC_SIZE];
    uint8_t size;   // bytes decoded
    uint8_t run;    // bytes still to come before the next stuffed zero
    bool begun;     // something other than a closing zero has come
    bool too_long;  // more than `bytes` holds
    uint32_t crc;
} Decoder;

void decoder_begin(Decoder *decoder);

// Takes one byte from the wire.
FrameEvent decoder_take(Decoder *decoder, uint8_t byte);

// Writes the frame of a payload of at most LONGEST_PAYLOAD bytes; returns the frame's size.
uint8_t frame_encode(const uint8_t *payload, uint8_t size, uint8_t frame[LONGEST_FRAME]);

#endif
