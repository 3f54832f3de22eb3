/* Frames that nobody should send, by the million: chosen by a seeded generator and fed to the chip
 * here, because Python would be too slow. What the pins do meanwhile is judged in chip.c. */
#ifndef ATTACK_H
#define ATTACK_H

#include "chip.h"

typedef struct {
	uint64_t frames;    /* fed */
	uint64_t noise;     /* of these: random bytes */
	uint64_t broken;    /* right frames, then damaged */
	uint64_t hostile;   /* whole frames that say what is wrong: kinds, lengths, values */
	uint64_t sane;      /* requests within the limits */
	uint64_t silences;  /* longer than the board waits for its host */
	uint64_t replies;   /* whole */
	uint64_t garbled;   /* replies that were not */
} attack_count_t;

/* Feeds `frames` frames. `settings`: CONFIGURE too; without it no valid CONFIGURE is among them.
 * `resets`: a reset of every kind now and then. 0; -1: the firmware stopped. */
int chip_attack(chip_t *chip, uint32_t seed, uint32_t frames, int settings, int resets,
                attack_count_t *count);

#endif
