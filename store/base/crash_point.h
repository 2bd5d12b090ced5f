/*
 * Places where a test ends the process, as kill -9 or a power cut would (meson:
 * -Dcrash_points=true; otherwise they are nothing).
 *
 * The environment's DSYNCFS_CRASH names a file with a line "<program> <n>", the program as it calls
 * itself in the log. The first process of that program that comes to its n-th point removes the
 * file, writes the point's name to <file>.done, and kills itself. So a test arms a crash by making
 * the file, and sees by its being there still that there are fewer than n points.
 */
#ifndef DSYNCFS_BASE_CRASH_POINT_H
#define DSYNCFS_BASE_CRASH_POINT_H

#ifdef DSYNCFS_CRASH_POINTS
void crash_point(const char *name);
#else
static inline void crash_point(const char *name)
{
	(void)name;
}
#endif

#endif
