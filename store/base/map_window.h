/*
 * A mapped file of which only so much is in this process's memory at a time.
 *
 * Each page that is looked at stays a part of it for as long as the map is there: who has looked
 * through the lists of a million messages would keep all of them. When more than a maximum of the
 * map was looked at, all of it is given back; the system's cache has it for the next look.
 */
#ifndef DSYNCFS_BASE_MAP_WINDOW_H
#define DSYNCFS_BASE_MAP_WINDOW_H

#include <stddef.h>
#include <stdint.h>

/* What the system maps at a time around an address that is read. */
#define MAP_WINDOW_PIECE ((size_t)64 * 1024)

struct map_window {
	const void *map;
	size_t size, skew;
	size_t max, count; /* pieces */
	size_t last;	   /* the piece that was looked at last */
	uint8_t seen[];	   /* a bit each */
};

/* map: of a file, and only read. NULL where memory is short, or the map is not larger than
 * max_bytes: then nothing is given back. */
struct map_window *map_window_create(const void *map, size_t size, size_t max_bytes);
void map_window_free(struct map_window **window);

void map_window_enter(struct map_window *window, size_t piece);
/* What is at the offset is about to be read. window may be NULL. */
static inline void map_window_touch(struct map_window *window, size_t offset)
{
	size_t piece;

	if (window == NULL)
		return;
	piece = (window->skew + offset) / MAP_WINDOW_PIECE;
	if (piece != window->last)
		map_window_enter(window, piece);
}

#endif
