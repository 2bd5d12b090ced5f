#include "store/journal/boot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include "store/base/buf.h"
#include "store/base/file.h"

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static int make_header(struct boot_file *header_r, const char *magic)
{
	AUTO_BUF struct buf text = BUF_INIT(sizeof header_r->boot_id - 1);
	int rc = file_read_at(AT_FDCWD, BOOT_ID, &text);

	*header_r = (struct boot_file){0};
	if (rc < 0)
		return rc;
	strncpy(header_r->magic, magic, sizeof header_r->magic - 1);
	if (text.data)
		memcpy(header_r->boot_id, text.data, text.len);
	return 0;
}

/* All of it is allocated: a page that the disk had no room for would be a bus error. */
static int map(int dir_fd, const char *name, size_t size, struct boot_file **file_r)
{
	AUTO_CLOSE int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	void *address;
	int rc;

	if (fd < 0)
		return -errno;
	rc = posix_fallocate(fd, 0, (off_t)size);
	if (rc > 0)
		return -rc;
	address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (address == MAP_FAILED)
		return -errno;
	*file_r = address;
	return 0;
}

int boot_file_map(int dir_fd, const char *name, const char *magic, size_t size,
		  struct boot_file **file_r)
{
	struct boot_file header;
	int rc = make_header(&header, magic);

	if (rc == 0)
		rc = map(dir_fd, name, size, file_r);
	if (rc < 0)
		return rc;
	if (memcmp(*file_r, &header, sizeof header) != 0) {
		boot_file_clear(*file_r, size);
		**file_r = header;
	}
	return 0;
}

void boot_file_clear(struct boot_file *file, size_t size)
{
	memset(file + 1, 0, size - sizeof *file);
}
