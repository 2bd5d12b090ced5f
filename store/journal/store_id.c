/* Which backing directory a state_dir belongs to. See store_id.h. */
#include "store/journal/store_id.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/guid.h"
#include "store/journal/slot_file.h"

#define SLOT_NAME "store-id"

/* In state_dir/journal/store-id. Between the two writes of a renewal the directory may have either
 * id. An empty id: none. */
struct known {
	struct guid current, next;
	bool accept;
};

static int open_journal_dir(const char *state_dir, struct error *err)
{
	char path[PATH_MAX];
	int fd;

	if (snprintf(path, sizeof path, "%s/journal", state_dir) >= (int)sizeof path)
		return error_errno(err, -ENAMETOOLONG, "%s/journal", state_dir);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? error_errno(err, -errno, "%s", path) : fd;
}

/* For reading and writing. */
static int open_slot(const char *state_dir, struct error *err)
{
	AUTO_CLOSE int dir = open_journal_dir(state_dir, err);
	int fd;

	if (dir < 0)
		return dir;
	fd = slot_open(dir, SLOT_NAME);
	return fd < 0 ? error_errno(err, fd, "%s/journal/" SLOT_NAME, state_dir) : fd;
}

static int read_known(const char *state_dir, struct known *known_r, struct error *err)
{
	AUTO_CLOSE int dir = open_journal_dir(state_dir, err);
	uint8_t payload[SLOT_PAYLOAD];
	int rc = dir < 0 ? dir : slot_read_at(dir, SLOT_NAME, payload);

	*known_r = (struct known){.accept = false};
	/* A damaged one knows nothing, as if state_dir had been lost. */
	if (rc == -ENOENT || rc == -ENODATA || rc == -EBADMSG)
		return 0;
	if (rc < 0)
		return dir < 0 ? rc : error_errno(err, rc, "%s/journal/" SLOT_NAME, state_dir);
	memcpy(known_r->current.bytes, payload, sizeof known_r->current.bytes);
	memcpy(known_r->next.bytes, payload + 16, sizeof known_r->next.bytes);
	known_r->accept = payload[32] == 1;
	return 0;
}

static int write_known(int fd, const char *state_dir, const struct known *known, struct error *err)
{
	uint8_t payload[33];
	int rc;

	memcpy(payload, known->current.bytes, sizeof known->current.bytes);
	memcpy(payload + 16, known->next.bytes, sizeof known->next.bytes);
	payload[32] = known->accept;
	rc = slot_write(fd, payload, sizeof payload);
	return rc < 0 ? error_errno(err, rc, "%s/journal/" SLOT_NAME, state_dir) : 0;
}

/* Empty: there is none, or no valid one. */
static int read_carried(int root_fd, const char *root, struct guid *id_r, struct error *err)
{
	char text[GUID_HEX_SIZE] = "";
	ssize_t n = fgetxattr(root_fd, STORE_ID_XATTR, text, GUID_HEX_LEN);

	memset(id_r, 0, sizeof *id_r);
	if (n < 0 && errno != ENODATA && errno != ERANGE && errno != ENOTSUP)
		return error_errno(err, -errno, "%s: attribute " STORE_ID_XATTR, root);
	if (n != GUID_HEX_LEN || guid_from_hex(text, id_r) < 0)
		memset(id_r, 0, sizeof *id_r);
	return 0;
}

static int write_carried(int root_fd, const char *root, const struct guid *id, struct error *err)
{
	char text[GUID_HEX_SIZE];

	guid_to_hex(id, text);
	if (fsetxattr(root_fd, STORE_ID_XATTR, text, GUID_HEX_LEN, 0) < 0 || fsync(root_fd) < 0)
		return error_errno(err, -errno, "%s: attribute " STORE_ID_XATTR, root);
	return 0;
}

int store_id_check(const char *state_dir, int root_fd, const char *root, bool *accepted_r,
		   struct error *err)
{
	struct known known;
	struct guid carried;
	int rc = read_known(state_dir, &known, err);

	*accepted_r = false;
	if (rc == 0)
		rc = read_carried(root_fd, root, &carried, err);
	if (rc < 0)
		return rc;
	if (guid_is_empty(&known.current) && guid_is_empty(&known.next))
		return 0;
	if (!guid_is_empty(&carried) &&
	    (guid_equal(&carried, &known.current) || guid_equal(&carried, &known.next)))
		return 0;
	if (known.accept) {
		*accepted_r = true;
		return 0;
	}
	if (guid_is_empty(&carried))
		return error_set(
			err, -ESTALE,
			"%s is not the directory that state_dir %s belongs to: it has no "
			"attribute %s. Is its disk mounted? If the mail is lost and this directory "
			"takes its place, say so with \"dsyncctl accept-store\" and start "
			"again: the peer's mail is put there",
			root, state_dir, STORE_ID_XATTR);
	return error_set(err, -ESTALE,
			 "%s is not the directory that state_dir %s belongs to: its %s is another "
			 "one's, or that of an older copy. If this is the mail to go on with, say "
			 "so with \"dsyncctl accept-store\" and start again: it is merged with the "
			 "peer's, and nothing is removed because it is missing here",
			 root, state_dir, STORE_ID_XATTR);
}

int store_id_renew(const char *state_dir, int root_fd, const char *root, struct error *err)
{
	AUTO_CLOSE int slot = open_slot(state_dir, err);
	struct known known, renewed = {.accept = false};
	struct guid carried;
	int rc;

	if (slot < 0)
		return slot;
	rc = read_known(state_dir, &known, err);
	if (rc == 0)
		rc = read_carried(root_fd, root, &carried, err);
	if (rc < 0)
		return rc;
	guid_generate(&renewed.next);
	renewed.current = carried;
	/* While the directory has none of its own yet, an accepted one stays accepted. */
	renewed.accept = known.accept;
	/* At a first start the directory is first: one that is known and carries nothing is not
	   taken. */
	if (!guid_is_empty(&carried) || known.accept)
		rc = write_known(slot, state_dir, &renewed, err);
	if (rc == 0)
		rc = write_carried(root_fd, root, &renewed.next, err);
	if (rc < 0)
		return rc;
	renewed.current = renewed.next;
	renewed.accept = false;
	return write_known(slot, state_dir, &renewed, err);
}

int store_id_accept(const char *state_dir, struct error *err)
{
	AUTO_CLOSE int slot = open_slot(state_dir, err);
	struct known known;
	int rc;

	if (slot < 0)
		return slot;
	rc = read_known(state_dir, &known, err);
	if (rc < 0)
		return rc;
	known.accept = true;
	return write_known(slot, state_dir, &known, err);
}

bool store_id_is_known(const char *state_dir)
{
	struct known known;

	return read_known(state_dir, &known, NULL) == 0 && !guid_is_empty(&known.current);
}
