/*
 * Runs a fuzzer's function without libFuzzer: run_fuzz_X FILE..., each file as it is, cut off at
 * some places, and in copies with some bytes changed. The changes are the same in each run.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void run_seed(const uint8_t *data, size_t size)
{
	run_copy(data, size, 0);
	for (unsigned i = 0; i < CUTS; i++)
		run_copy(data, size ? next_random() % size : 0, 0);
	for (unsigned i = 0; i < COPIES; i++)
		run_copy(data, size, 1 + next_random() % 8);
}

int main(int argc, char **argv)
{
	uint8_t *data = malloc(SIZE_MAX_SEED);

	if (!data || argc < 2) {
		fprintf(stderr, "usage: %s FILE...\n", argv[0]);
		free(data);
		return 2;
	}
	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");

		if (!file) {
			perror(argv[i]);
			free(data);
			return 2;
		}
		run_seed(data, fread(data, 1, SIZE_MAX_SEED, file));
		fclose(file);
	}
	free(data);
	printf("%d seeds\n", argc - 1);
	return 0;
}
