/*
 * What the mount costs: the same work on a mounted directory and on a plain one of the same disk,
 * in turns, as a ratio of speeds (1.00: as fast).
 *
 *   bench_mount PLAIN MOUNTED [ROUNDS [WORK]]
 *
 * PLAIN and MOUNTED are directories where a home may be made (MOUNTED below a mount, PLAIN outside
 * of it on the same filesystem as the backing directory). WORK: only what has this in its name. As
 * root, since it empties the kernel's
 * caches for the cold figures. Nothing else should run on the machine.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"

#define DELIVERIES   400
#define WRITERS	     8
#define FILES	     2000
#define MAIL_BYTES   4096
#define LISTINGS     20
#define WARM_READS   4000
#define ROUNDS_MAX   31
#define KINDS	     9
#define HOME_PATTERN "bench-%d"

enum kind {
	DELIVER_1,
	DELIVER_8,
	RENAME,
	LIST_COLD,
	STAT_COLD,
	LIST_WARM,
	STAT_WARM,
	READ_COLD,
	READ_WARM
};

static const char *const kind_names[KINDS] = {
	"delivery with fsync, 1 writer",
	"delivery with fsync, 8 writers",
	"flag rename",
	"names, cold",
	"names and stat, cold",
	"names, warm",
	"names and stat, warm",
	"read, cold",
	"read, warm",
};

static void die(const char *what)
{
	fprintf(stderr, "bench_mount: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	sync();
	if (fd < 0 || write(fd, "3", 1) != 1)
		die("/proc/sys/vm/drop_caches");
	close(fd);
}

static void deliver(int box, const char *tag, int n)
{
	static char mail[MAIL_BYTES];
	char tmp[64], target[64];
	int fd, dir;

	snprintf(tmp, sizeof tmp, "tmp/%s%d.x", tag, n);
	snprintf(target, sizeof target, "new/%s%d.x", tag, n);
	fd = openat(box, tmp, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0 || write(fd, mail, sizeof mail) != sizeof mail || fsync(fd) < 0)
		die(tmp);
	close(fd);
	if (renameat(box, tmp, box, target) < 0)
		die(target);
	dir = openat(box, "new", O_RDONLY | O_DIRECTORY);
	if (dir < 0 || fsync(dir) < 0)
		die("new");
	close(dir);
}

static void deliver_8(int box, int round)
{
	int status, failed = 0;

	for (int writer = 0; writer < WRITERS; writer++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid == 0) {
			char tag[32];

			snprintf(tag, sizeof tag, "w%d.%d.", round, writer);
			for (int n = 0; n < DELIVERIES / WRITERS; n++)
				deliver(box, tag, n);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		failed |= status;
	if (failed)
		die("a writer failed");
}

static int list(int box, int with_stat)
{
	int fd = openat(box, "cur", O_RDONLY | O_DIRECTORY), count = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir)
		die("cur");
	while ((entry = readdir(dir)) != NULL) {
		struct stat st;

		if (with_stat && fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			die(entry->d_name);
		count++;
	}
	closedir(dir);
	return count;
}

static void read_mail(int box, int n)
{
	char name[64], data[MAIL_BYTES];
	int fd;

	snprintf(name, sizeof name, "cur/%d.x:2,S", n);
	fd = openat(box, name, O_RDONLY);
	if (fd < 0 || read(fd, data, sizeof data) != sizeof data)
		die(name);
	close(fd);
}

static void rename_all(int box)
{
	char old[64], name[64];

	/* There and back, so that each round finds the same names. */
	for (int there = 0; there < 2; there++) {
		for (int n = 0; n < FILES / 4; n++) {
			snprintf(old, sizeof old, "cur/%d.x:2,%s", n, there ? "FS" : "S");
			snprintf(name, sizeof name, "cur/%d.x:2,%s", n, there ? "S" : "FS");
			if (renameat(box, old, box, name) < 0)
				die(old);
		}
	}
}

/* Returns how long the work took. */
static double measure(enum kind kind, int box, int round)
{
	char tag[32];
	double start;

	if (kind == LIST_COLD || kind == STAT_COLD || kind == READ_COLD)
		drop_caches();
	else if (kind != DELIVER_1 && kind != DELIVER_8)
		list(box, 1);
	snprintf(tag, sizeof tag, "r%d.", round);
	start = now_s();
	switch (kind) {
	case DELIVER_1:
		for (int n = 0; n < DELIVERIES / 2; n++)
			deliver(box, tag, n);
		break;
	case DELIVER_8:
		deliver_8(box, round);
		break;
	case RENAME:
		rename_all(box);
		break;
	case LIST_COLD:
	case STAT_COLD:
		list(box, kind == STAT_COLD);
		break;
	case LIST_WARM:
	case STAT_WARM:
		for (int n = 0; n < LISTINGS; n++)
			list(box, kind == STAT_WARM);
		break;
	case READ_COLD:
		for (int n = 0; n < FILES / 2; n++)
			read_mail(box, n * 7 % FILES);
		break;
	case READ_WARM:
		for (int n = 0; n < WARM_READS; n++)
			read_mail(box, n % 200);
		break;
	}
	return now_s() - start;
}

static int make_box(const char *top)
{
	static char mail[MAIL_BYTES];
	char path[4096];
	int box;

	snprintf(path, sizeof path, "%s/" HOME_PATTERN, top, (int)getpid());
	if (mkdir(path, 0700) < 0)
		die(path);
	box = open(path, O_RDONLY | O_DIRECTORY);
	if (box < 0 || mkdirat(box, "cur", 0700) < 0 || mkdirat(box, "new", 0700) < 0 ||
	    mkdirat(box, "tmp", 0700) < 0)
		die(path);
	for (int n = 0; n < FILES; n++) {
		char name[64];
		int fd;

		snprintf(name, sizeof name, "cur/%d.x:2,S", n);
		fd = openat(box, name, O_CREAT | O_WRONLY, 0600);
		if (fd < 0 || write(fd, mail, sizeof mail) != sizeof mail)
			die(name);
		close(fd);
	}
	return box;
}

static void remove_box(const char *top)
{
	int fd = open(top, O_RDONLY | O_DIRECTORY);
	char name[64];

	snprintf(name, sizeof name, HOME_PATTERN, (int)getpid());
	if (fd < 0 || file_remove_tree(fd, name) < 0)
		die(top);
	close(fd);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof *values, compare);
	return values[count / 2];
}

int main(int argc, char **argv)
{
	static double ratio[KINDS][ROUNDS_MAX], plain_s[KINDS][ROUNDS_MAX],
		mount_s[KINDS][ROUNDS_MAX];
	int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 5;
	const char *work = argc > 4 ? argv[4] : "";
	int plain, mounted;

	if (argc < 3 || rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: bench_mount PLAIN MOUNTED [ROUNDS [WORK]]\n");
		return 64;
	}
	plain = make_box(argv[1]);
	mounted = make_box(argv[2]);
	for (int round = 0; round < rounds; round++) {
		for (int kind = 0; kind < KINDS; kind++) {
			if (!strstr(kind_names[kind], work))
				continue;
			plain_s[kind][round] = measure((enum kind)kind, plain, round);
			mount_s[kind][round] = measure((enum kind)kind, mounted, round);
			ratio[kind][round] = plain_s[kind][round] / mount_s[kind][round];
		}
	}
	printf("%-32s %8s %10s %10s\n", "", "ratio", "plain", "mount");
	for (int kind = 0; kind < KINDS; kind++) {
		if (!strstr(kind_names[kind], work))
			continue;
		printf("%-32s %8.2f %7.1f ms %7.1f ms\n", kind_names[kind],
		       median(ratio[kind], rounds), 1e3 * median(plain_s[kind], rounds),
		       1e3 * median(mount_s[kind], rounds));
	}
	remove_box(argv[1]);
	remove_box(argv[2]);
	return 0;
}
