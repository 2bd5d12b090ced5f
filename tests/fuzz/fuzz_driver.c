/*
 * Runs a fuzzer's function without libFuzzer: run_fuzz_X [--seconds N] [--seed N] FILE..., each
 * file as it is, cut off at some places, and in copies with some bytes changed. The changes are the
 * same in each run.
 *
 * With --seconds it goes on with other changes for so long; where they begin, is told, for --seed.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CUTS	      16
#define COPIES	      200
#define SIZE_MAX_SEED ((size_t)256 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t random_state = 1;

static uint32_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state;
}

/* A part goes, or comes twice. */
static size_t change_size(uint8_t *data, size_t size)
{
	size_t at = next_random() % size, len = 1 + next_random() % 64;

	if (len > size - at)
		len = size - at;
	if (next_random() % 2) {
		memmove(data + at, data + at + len, size - at - len);
		return size - len;
	}
	memmove(data + at + len, data + at, size - at);
	return size + len;
}

/* In a block of its very size, so that a sanitizer sees each byte too far. */
static void run_copy(const uint8_t *data, size_t size, unsigned changes)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	for (; changes && size; changes--) {
		size_t at = next_random() % size;

		/* Half of them only where fields and lines end. */
		copy[at] = next_random() % 2 ? (uint8_t)next_random()
					     : (uint8_t)("\0\t\n\xff 09"[next_random() % 7]);
	}
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static void run_seed(uint8_t *data, size_t size, bool again)
{
	if (again) {
		unsigned changes = 1 + next_random() % 3;

		for (unsigned i = 0; i < changes && size > 0; i++)
			size = change_size(data, size);
	}
	run_copy(data, size, 0);
	for (unsigned i = 0; i < CUTS; i++)
		run_copy(data, size ? next_random() % size : 0, 0);
	for (unsigned i = 0; i < COPIES; i++)
		run_copy(data, size, 1 + next_random() % 8);
}

static bool run_file(const char *path, uint8_t *data, bool again)
{
	FILE *file = fopen(path, "rb");

	if (!file) {
		perror(path);
		return false;
	}
	run_seed(data, fread(data, 1, SIZE_MAX_SEED, file), again);
	fclose(file);
	return true;
}

int main(int argc, char **argv)
{
	/* What is changed may become longer. */
	uint8_t *data = malloc(SIZE_MAX_SEED + 1024);
	time_t until = 0;
	int first = 1;
	unsigned rounds = 0;
	bool ok = data != NULL;

	for (; first + 1 < argc && strncmp(argv[first], "--", 2) == 0; first += 2) {
		unsigned long value = strtoul(argv[first + 1], NULL, 10);

		if (strcmp(argv[first], "--seconds") == 0)
			until = time(NULL) + (time_t)value;
		else if (value != 0)
			random_state = (uint32_t)value;
	}
	if (!ok || first >= argc) {
		fprintf(stderr, "usage: %s [--seconds N] [--seed N] FILE...\n", argv[0]);
		free(data);
		return 2;
	}
	if (until && random_state == 1)
		random_state = (uint32_t)time(NULL);
	printf("--seed %u\n", random_state);
	fflush(stdout);
	do {
		for (int i = first; ok && i < argc && (rounds == 0 || time(NULL) < until); i++)
			ok = run_file(argv[i], data, rounds > 0);
		rounds++;
	} while (ok && time(NULL) < until);
	free(data);
	printf("%d seeds, %u rounds\n", argc - first, rounds);
	return ok ? 0 : 2;
}
