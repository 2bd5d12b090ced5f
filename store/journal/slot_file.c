/* Slots: small records overwritten in place. See slot_file.h. */
#include "store/journal/slot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "store/base/digest.h"
#include "store/base/file.h"

static const char slot_magic[8] = "dsyncfs1";

struct slot {
	char magic[8];
	uint8_t payload[SLOT_PAYLOAD];
	uint8_t sum[DIGEST_SHA1_SIZE];
};
_Static_assert(sizeof(struct slot) == 64, "a slot is one piece of a sector");

int slot_write(int fd, const void *payload, size_t len)
{
	struct slot slot = {0};
	int rc;

	if (len > sizeof slot.payload)
		return -EMSGSIZE;
	memcpy(slot.magic, slot_magic, sizeof slot.magic);
	memcpy(slot.payload, payload, len);
	digest_sha1(slot.payload, sizeof slot.payload, slot.sum);
	rc = file_pwrite_all(fd, &slot, sizeof slot, 0);
	if (rc < 0)
		return rc;
	return fdatasync(fd) < 0 ? -errno : 0;
}

int slot_open(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	uint8_t payload[SLOT_PAYLOAD] = {0};
	int rc;

	if (fd < 0)
		return -errno;
	rc = slot_read(fd, payload);
	if (rc == -ENODATA)
		rc = slot_write(fd, payload, sizeof payload);
	if (rc == 0)
		rc = file_sync_dir(dirfd, ".");
	if (rc < 0 && rc != -EBADMSG) {
		close(fd);
		return rc;
	}
	return fd;
}

int slot_read(int fd, uint8_t payload_r[SLOT_PAYLOAD])
{
	struct slot slot;
	uint8_t sum[DIGEST_SHA1_SIZE];
	int rc = file_pread_all(fd, &slot, sizeof slot, 0);

	if (rc < 0)
		return rc;
	digest_sha1(slot.payload, sizeof slot.payload, sum);
	if (memcmp(slot.magic, slot_magic, sizeof slot.magic) != 0 ||
	    memcmp(slot.sum, sum, sizeof sum) != 0)
		return -EBADMSG;
	memcpy(payload_r, slot.payload, SLOT_PAYLOAD);
	return 0;
}

int slot_read_at(int dirfd, const char *name, uint8_t payload_r[SLOT_PAYLOAD])
{
	AUTO_CLOSE int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : slot_read(fd, payload_r);
}
