// ATmega328P at 16 MHz: Arduino Uno, Nano and their kin.
//
// Pulses: timer 1 runs freely at 2 MHz, one tick half a microsecond. Each edge is made by the
// compare hardware at its tick, whatever the program does; the interrupt after an edge only says
// which edge comes next. Timer 0 counts milliseconds.

#include "board.h"

#include <avr/eeprom.h>
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <avr/wdt.h>
#include <util/atomic.h>

#include "head.h"

#define PERIOD_TICKS 40000u     // 20 ms
#define DUE_TICKS 36000u        // from here on the next pulse may be asked for,
#define DUE_UNTIL_TICKS 39500u  // and is asked for up to here
#define TOO_LATE_TICKS 39900u   // from here on the edges are left alone
#define LONGEST_PULSE_TICKS 5000u
#define QUEUE_SIZE 64  // a power of two

const uint8_t board_type = 1;
uint8_t board_keep[BOARD_KEEP] __attribute__((section(".noinit")));
static uint8_t reset_cause __attribute__((section(".noinit")));

// Before main(), and before a watchdog left on by the last reset bites again.
void take_reset_cause(void) __attribute__((naked, used, section(".init3")));
void take_reset_cause(void) {
    reset_cause = MCUSR & 0x0F;  // the bits are those of the protocol
    MCUSR = 0;
    wdt_disable();
}


// Clock


static volatile uint32_t millis;

ISR(TIMER0_COMPA_vect) {
    millis++;
}

uint32_t board_millis(void) {
    uint32_t now;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
        now = millis;
    }
    return now;
}

static void clock_begin(void) {
    TCCR0A = _BV(WGM01);             // count to OCR0A and begin anew
    TCCR0B = _BV(CS01) | _BV(CS00);  // 16 MHz / 64
    OCR0A = 249;                     // 1 ms
    TIMSK0 = _BV(OCIE0A);
}


// Pulses: pan on PB1 (OC1A, D9), tilt on PB2 (OC1B, D10)


// What a compare match does to its pin: nothing (neither bit), clear it (1), set it (1 and 0).
#define PAN_1 _BV(COM1A1)
#define PAN_0 _BV(COM1A0)
#define TILT_1 _BV(COM1B1)
#define TILT_0 _BV(COM1B0)
#define SET_BOTH (PAN_1 | PAN_0 | TILT_1 | TILT_0)

// Rises come every 40,000 ticks: begun here, they never fall on the last ticks before the 16-bit
// counter wraps, where simavr makes a false edge.
#define FIRST_RISE (PERIOD_TICKS + 32)

typedef struct {
    uint16_t rise;   // tick at which this period began
    uint16_t width;  // of its pulse, in ticks
    bool high;       // the fall comes next
} Channel;

static volatile Channel channels[AXES];

// After a rise the match is told to clear the pin; after a fall, to do nothing until board_pulse()
// says that another pulse shall come. A period without a pulse has the same edges; they do nothing.
static inline void after_edge(volatile Channel *channel, volatile uint16_t *compare, uint8_t bit_1,
                              uint8_t bit_0) {
    uint8_t both = bit_1 | bit_0;
    if (channel->high) {
        // Not "clear" while the compare register is written: simavr would raise the pin.
        TCCR1A |= both;
        *compare = channel->rise + PERIOD_TICKS;
        TCCR1A &= (uint8_t)~both;
    } else {
        uint16_t rise = *compare;
        TCCR1A &= (uint8_t)~bit_0;  // "set" becomes "clear", nothing stays nothing
        *compare = rise + channel->width;
        channel->rise = rise;
    }
    channel->high = !channel->high;
}

ISR(TIMER1_COMPA_vect) {
    after_edge(&channels[0], &OCR1A, PAN_1, PAN_0);
}

ISR(TIMER1_COMPB_vect) {
    after_edge(&channels[1], &OCR1B, TILT_1, TILT_0);
}

// Ticks since the period began. For callers with interrupts off.
static uint16_t phase(void) {
    return TCNT1 - channels[0].rise;
}

// Both falls are over, the next rises are not near: what a match does may be changed.
static bool between_pulses(void) {
    uint16_t ticks = phase();
    return ticks >= DUE_TICKS && ticks < TOO_LATE_TICKS;
}

bool board_pulse_due(void) {
    bool due = false;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
        due = between_pulses() && phase() < DUE_UNTIL_TICKS && TCCR1A != SET_BOTH;
    }
    return due;
}

void board_pulse(const uint16_t width[AXES]) {
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
        if (between_pulses()) {  // else no pulse this time, rather than a torn one
            channels[0].width = width[0];
            channels[1].width = width[1];
            TCCR1A = SET_BOTH;
        }
    }
}

void board_no_pulse(void) {
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {
        if (between_pulses()) {
            TCCR1A = 0;
        }
    }
}

static void pulses_begin(void) {
    PORTB &= (uint8_t)~(_BV(PB1) | _BV(PB2));
    DDRB |= _BV(PB1) | _BV(PB2);
    channels[0].width = channels[1].width = LONGEST_PULSE_TICKS;
    OCR1A = OCR1B = FIRST_RISE;
    TIMSK1 = _BV(OCIE1A) | _BV(OCIE1B);
    TCCR1B = _BV(CS11);  // 16 MHz / 8
}


// Serial line: 115200 8N1


static volatile struct {
    uint8_t bytes[QUEUE_SIZE];
    uint8_t in, out;  // count on for ever; their difference is how many wait
    uint8_t overruns;
} queue;

static const uint8_t *volatile sending;
static volatile uint8_t still_to_send;

ISR(USART_RX_vect) {
    bool lost = UCSR0A & _BV(DOR0);  // to be read before the byte
    uint8_t byte = UDR0;
    uint8_t in = queue.in;
    if ((uint8_t)(in - queue.out) == QUEUE_SIZE) {
        lost = true;
    } else {
        queue.bytes[in % QUEUE_SIZE] = byte;
        queue.in = (uint8_t)(in + 1);
    }
    if (lost && queue.overruns < UINT8_MAX) {
        queue.overruns++;
    }
}

bool board_read(uint8_t *byte) {
    uint8_t out = queue.out;
    if (out == queue.in) {
        return false;
    }
    *byte = queue.bytes[out % QUEUE_SIZE];
    queue.out = (uint8_t)(out + 1);
    return true;
}

uint8_t board_overruns(void) {
    return queue.overruns;
}

ISR(USART_UDRE_vect) {
    UDR0 = *sending;
    sending++;
    still_to_send--;
    if (still_to_send == 0) {
        UCSR0B &= (uint8_t)~_BV(UDRIE0);
    }
}

void board_send(const uint8_t *bytes, uint8_t size) {
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) {  // the bytes are in memory before the interrupt reads them
        sending = bytes;
        still_to_send = size;
        UCSR0B |= _BV(UDRIE0);
    }
}

bool board_sending(void) {
    return still_to_send > 0;
}

static void serial_begin(void) {
    UBRR0 = 16;          // with U2X: 117647 baud, 2.1 % fast, as all Arduinos of this kind
    UCSR0A = _BV(U2X0);
    UCSR0C = _BV(UCSZ01) | _BV(UCSZ00);
    UCSR0B = _BV(RXEN0) | _BV(TXEN0) | _BV(RXCIE0);
}


// EEPROM and watchdog


uint8_t board_eeprom_read(uint8_t address) {
    return eeprom_read_byte((const uint8_t *)(uintptr_t)address);
}

void board_eeprom_write(uint8_t address, uint8_t byte) {
    eeprom_write_byte((uint8_t *)(uintptr_t)address, byte);
}

bool board_eeprom_ready(void) {
    return eeprom_is_ready();
}

void board_alive(void) {
    wdt_reset();
}


// Sleeps until an interrupt, unless a byte waits. The millisecond clock wakes it at the latest.
static void idle(void) {
    cli();
    if (queue.in == queue.out || board_sending()) {
        sleep_enable();
        sei();  // the instruction after it still runs before any interrupt
        sleep_cpu();
        sleep_disable();
    }
    sei();
}

int main(void) {
    wdt_enable(WDTO_120MS);
    pulses_begin();
    clock_begin();
    serial_begin();
    SMCR = SLEEP_MODE_IDLE;  // the timers and the line go on
    head_begin(reset_cause);
    sei();
    for (;;) {
        head_poll();
        idle();
    }
}
