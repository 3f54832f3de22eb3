/* The emulated board in real time: its serial line is a pseudo-terminal, its pins are lines of text.
 *
 *     emulated_board FIRMWARE.elf [BOOT_MS]
 *
 * BOOT_MS: opening the port resets the board, as an Arduino's DTR line does, and its boot loader
 * keeps it for so long after every reset but the watchdog's.
 *
 * It tells:    port PATH                   the terminal to open, anew after replug
 *              pulse AXIS WIDTH RISE       in half microseconds and microseconds of its own time
 *              reset CAUSE                 bits as in chip.h
 * It is told:  unplug | replug | power     line away and back; power off and on
 *              reset | stop | go | hang    its button; its clock stands still; its main loop hangs
 *              quit, or the end of its input
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "chip.h"

#define SLICE_NS 250000
#define CYCLES_PER_US (CHIP_HZ / 1000000)
#define LONGEST_LAG_US 50000 /* behind by more, it was stopped: its time does not catch up */

typedef struct {
	chip_t *chip;
	int line;     /* the terminal's master side; -1: unplugged */
	int opened;   /* somebody has the other side open */
	int stopped;
	uint64_t boot_cycles;
	uint64_t resets[16];
	int64_t born_us; /* when the chip's time 0 was */
	char told[256];
	size_t told_size;
} board_t;

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* ---- the line -------------------------------------------------------------------------------- */

static void plug(board_t *board)
{
	struct termios raw;
	board->line = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (board->line < 0 || grantpt(board->line) || unlockpt(board->line) || tcgetattr(board->line, &raw))
		fail("pseudo-terminal");
	cfmakeraw(&raw);
	tcsetattr(board->line, TCSANOW, &raw);
	int other = open(ptsname(board->line), O_RDWR | O_NOCTTY); /* once, so that reads tell when nobody has it */
	if (other < 0)
		fail("pseudo-terminal");
	close(other);
	board->opened = 0;
	printf("port %s\n", ptsname(board->line));
}

static void unplug(board_t *board)
{
	if (board->line >= 0)
		close(board->line);
	board->line = -1;
}

static void reset(board_t *board, int cause, int ram)
{
	chip_reset(board->chip, cause, ram);
	if (board->boot_cycles)
		chip_boot_delay(board->chip, board->boot_cycles);
}

static void hear_line(board_t *board)
{
	uint8_t bytes[512];
	ssize_t got = board->line < 0 ? -1 : read(board->line, bytes, sizeof bytes);
	int opened = board->line >= 0 && (got >= 0 || errno == EAGAIN);

	if (opened && !board->opened && board->boot_cycles)
		reset(board, CHIP_EXTERNAL, CHIP_RAM_KEPT);
	board->opened = opened;
	if (got > 0)
		chip_feed(board->chip, bytes, (size_t)got);
}

static void tell_line(board_t *board)
{
	chip_byte_t sent[512];
	uint8_t bytes[512];
	size_t count = chip_take_sent(board->chip, sent, 512);
	for (size_t i = 0; i < count; i++)
		bytes[i] = sent[i].value;
	if (count && board->opened && write(board->line, bytes, count) < 0 && errno != EAGAIN && errno != EIO)
		fail("write to the line");
}

/* ---- who started it -------------------------------------------------------------------------- */

static void obey(board_t *board, const char *word)
{
	if (!strcmp(word, "unplug"))
		unplug(board);
	else if (!strcmp(word, "replug")) {
		unplug(board);
		plug(board);
	} else if (!strcmp(word, "power"))
		reset(board, CHIP_POWER_ON, CHIP_RAM_RANDOM);
	else if (!strcmp(word, "reset"))
		reset(board, CHIP_EXTERNAL, CHIP_RAM_KEPT);
	else if (!strcmp(word, "stop") || !strcmp(word, "go"))
		board->stopped = word[0] == 's';
	else if (!strcmp(word, "hang"))
		chip_hang(board->chip, 1);
	else if (!strcmp(word, "quit"))
		exit(0);
	else
		fprintf(stderr, "emulated_board: what is %s?\n", word);
}

static void hear_teller(board_t *board)
{
	ssize_t got = read(STDIN_FILENO, board->told + board->told_size, sizeof board->told - 1 - board->told_size);
	if (got == 0 || (got < 0 && errno != EAGAIN))
		exit(0);
	if (got > 0)
		board->told_size += (size_t)got;
	for (char *end; (end = memchr(board->told, '\n', board->told_size));) {
		size_t used = (size_t)(end - board->told) + 1;
		*end = 0;
		obey(board, board->told);
		memmove(board->told, board->told + used, board->told_size -= used);
	}
}

static void tell_pins(board_t *board)
{
	chip_pulse_t pulses[64];
	const chip_record_t *record = chip_record(board->chip);
	size_t count = chip_take_pulses(board->chip, pulses, 64);

	for (size_t i = 0; i < count; i++)
		if (!pulses[i].cut)
			printf("pulse %d %u %llu\n", pulses[i].axis, pulses[i].width * 2 / CYCLES_PER_US,
			       (unsigned long long)pulses[i].rise / CYCLES_PER_US);
	for (int cause = 0; cause < 16; cause++)
		for (; board->resets[cause] < record->resets[cause]; board->resets[cause]++)
			printf("reset %d\n", cause);
	fflush(stdout);
}

int main(int count, char **arguments)
{
	board_t board = {.chip = count > 1 ? chip_new(arguments[1], (uint32_t)now_us()) : NULL};
	const struct timespec slice = {0, SLICE_NS};

	if (!board.chip) {
		fprintf(stderr, "usage: emulated_board FIRMWARE.elf [BOOT_MS]\n");
		return 2;
	}
	board.boot_cycles = count > 2 ? strtoull(arguments[2], NULL, 10) * 1000 * CYCLES_PER_US : 0;
	board.born_us = now_us();
	fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
	plug(&board);
	for (;;) {
		int64_t due_us = now_us() - board.born_us - (int64_t)(chip_now(board.chip) / CYCLES_PER_US);
		if (board.stopped || due_us > LONGEST_LAG_US) {
			board.born_us += due_us;
		} else if (due_us > 0) {
			hear_line(&board);
			if (chip_run(board.chip, (uint64_t)due_us * CYCLES_PER_US))
				return fprintf(stderr, "emulated_board: the firmware slept with interrupts off\n"), 1;
			tell_line(&board);
			tell_pins(&board);
		}
		hear_teller(&board);
		nanosleep(&slice, NULL);
	}
}
