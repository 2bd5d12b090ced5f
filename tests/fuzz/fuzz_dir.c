/* A directory in memory. See fuzz_dir.h. */
#include "tests/fuzz/fuzz_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/base/file.h"

static int dir_fd = -1;
static char dir_path[] = "/dev/shm/dsyncfs-fuzz.XXXXXX";

static void remove_dir(void)
{
	DIR *dir = fdopendir(dir_fd);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) != NULL)
		(void)unlinkat(dir_fd, entry->d_name, 0); /* fails for "." and ".." */
	if (dir)
		closedir(dir);
	(void)rmdir(dir_path);
}

int fuzz_dir(void)
{
	if (dir_fd >= 0)
		return dir_fd;
	if (mkdtemp(dir_path) != NULL)
		dir_fd = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0 || atexit(remove_dir) != 0)
		abort();
	return dir_fd;
}

void fuzz_put_file(const char *name, const void *data, size_t len, bool present)
{
	int dirfd = fuzz_dir();
	int fd;

	(void)unlinkat(dirfd, name, 0);
	if (!present)
		return;
	fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || file_write_all(fd, data, len) < 0)
		abort();
	close(fd);
}
