/* See process.h. */
#include "store/base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"

bool process_is_alive(pid_t pid)
{
	AUTO_CLOSE int fd = -1;
	char path[64], text[512];
	const char *name_end;
	ssize_t n;

	if (kill(pid, 0) < 0 && errno == ESRCH)
		return false;
	snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true; /* /proc may hide the processes of others */
	n = read(fd, text, sizeof text - 1);
	if (n < 0)
		return errno != ESRCH;
	text[n] = '\0';
	/* pid (name) state: the name may hold anything but is the last with a parenthesis */
	name_end = strrchr(text, ')');
	return !name_end || strncmp(name_end, ") Z", 3) != 0;
}
