/*
 * Preloaded into a program, gives it a machine whose clock is CLOCK_OFFSET seconds off: what time
 * it is, and the times that the kernel gives to files, which come from the same clock on a real
 * machine. (libfaketime leaves the times of files alone in fstatat(), or everywhere: a program then
 * finds each lock an hour old.)
 */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <utime.h>

static time_t offset(void)
{
	static time_t seconds;
	static int known;

	if (!known) {
		const char *text = getenv("CLOCK_OFFSET");

		seconds = text ? strtol(text, NULL, 10) : 0;
		known = 1;
	}
	return seconds;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* ---- what time it is ---- */

time_t time(time_t *where)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (where)
		*where = now.tv_sec;
	return now.tv_sec;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	REAL(clock_gettime);
	int rc = real(clock, now);

	if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += offset();
	return rc;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	REAL(gettimeofday);
	int rc = real(now, zone);

	if (rc == 0)
		now->tv_sec += offset();
	return rc;
}

/* ---- times of files that are read ---- */

#define DISPLACE(rc, st)                                                                           \
	do {                                                                                       \
		if ((rc) == 0) {                                                                   \
			(st)->st_atim.tv_sec += offset();                                          \
			(st)->st_mtim.tv_sec += offset();                                          \
			(st)->st_ctim.tv_sec += offset();                                          \
		}                                                                                  \
	} while (0)

#define STAT_FAMILY(suffix)                                                                        \
	int stat##suffix(const char *restrict path, struct stat##suffix *restrict st)              \
	{                                                                                          \
		REAL(stat##suffix);                                                                \
		int rc = real(path, st);                                                           \
		DISPLACE(rc, st);                                                                  \
		return rc;                                                                         \
	}                                                                                          \
	int lstat##suffix(const char *restrict path, struct stat##suffix *restrict st)             \
	{                                                                                          \
		REAL(lstat##suffix);                                                               \
		int rc = real(path, st);                                                           \
		DISPLACE(rc, st);                                                                  \
		return rc;                                                                         \
	}                                                                                          \
	int fstat##suffix(int fd, struct stat##suffix *st)                                         \
	{                                                                                          \
		REAL(fstat##suffix);                                                               \
		int rc = real(fd, st);                                                             \
		DISPLACE(rc, st);                                                                  \
		return rc;                                                                         \
	}                                                                                          \
	int fstatat##suffix(int fd, const char *restrict path, struct stat##suffix *restrict st,   \
			    int flags)                                                             \
	{                                                                                          \
		REAL(fstatat##suffix);                                                             \
		int rc = real(fd, path, st, flags);                                                \
		DISPLACE(rc, st);                                                                  \
		return rc;                                                                         \
	}

STAT_FAMILY()
STAT_FAMILY(64)

int statx(int fd, const char *restrict path, int flags, unsigned mask, struct statx *restrict st)
{
	REAL(statx);
	int rc = real(fd, path, flags, mask, st);

	if (rc == 0) {
		st->stx_atime.tv_sec += offset();
		st->stx_mtime.tv_sec += offset();
		st->stx_ctime.tv_sec += offset();
		st->stx_btime.tv_sec += offset();
	}
	return rc;
}

/* ---- times of files that are set ---- */

static const struct timespec *placed(const struct timespec times[2], struct timespec place[2])
{
	if (!times)
		return NULL;
	for (int i = 0; i < 2; i++) {
		place[i] = times[i];
		if (times[i].tv_nsec != UTIME_NOW && times[i].tv_nsec != UTIME_OMIT)
			place[i].tv_sec -= offset();
	}
	return place;
}

int utimensat(int fd, const char *path, const struct timespec times[2], int flags)
{
	REAL(utimensat);
	struct timespec place[2];

	return real(fd, path, placed(times, place), flags);
}

int futimens(int fd, const struct timespec times[2])
{
	REAL(futimens);
	struct timespec place[2];

	return real(fd, placed(times, place));
}

int utimes(const char *path, const struct timeval times[2])
{
	struct timespec set[2];

	for (int i = 0; times && i < 2; i++)
		set[i] = (struct timespec){.tv_sec = times[i].tv_sec,
					   .tv_nsec = times[i].tv_usec * 1000};
	return utimensat(AT_FDCWD, path, times ? set : NULL, 0);
}

int utime(const char *path, const struct utimbuf *times)
{
	struct timespec set[2];

	if (times) {
		set[0] = (struct timespec){.tv_sec = times->actime};
		set[1] = (struct timespec){.tv_sec = times->modtime};
	}
	return utimensat(AT_FDCWD, path, times ? set : NULL, 0);
}
