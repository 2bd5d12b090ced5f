/* A map of which only so much is resident. See map_window.h. */
#include "store/base/map_window.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t seen_bytes(const struct map_window *window)
{
	return (window->skew + window->size) / MAP_WINDOW_PIECE / 8 + 1;
}

struct map_window *map_window_create(const void *map, size_t size, size_t max_bytes)
{
	/* Pieces are those of addresses, not of the file. */
	struct map_window head = {.map = map,
				  .size = size,
				  .skew = (uintptr_t)map % MAP_WINDOW_PIECE,
				  .max = max_bytes / MAP_WINDOW_PIECE,
				  .last = SIZE_MAX};
	struct map_window *window;

	if (size <= max_bytes)
		return NULL;
	window = calloc(1, sizeof(*window) + seen_bytes(&head));
	if (window != NULL)
		memcpy(window, &head, sizeof(head));
	return window;
}

void map_window_free(struct map_window **window)
{
	free(*window);
	*window = NULL;
}

void map_window_enter(struct map_window *window, size_t piece)
{
	uint8_t bit = (uint8_t)(1U << piece % 8);

	window->last = piece;
	if (piece / 8 >= seen_bytes(window) || (window->seen[piece / 8] & bit) != 0)
		return;
	if (window->count >= window->max) {
		madvise((void *)(uintptr_t)window->map, window->size, MADV_DONTNEED);
		memset(window->seen, 0, seen_bytes(window));
		window->count = 0;
	}
	window->seen[piece / 8] |= bit;
	window->count++;
}
