/*
 * libFuzzer over an mdbox: the input is cut into the map's log, INBOX's log and m.1. What can be
 * read is read; then the storage is rebuilt, and must be sound: every message that the mailbox has
 * can be read.
 *
 * Input: u16 length of the map's log, u16 length of the mailbox's log, the bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/dbox/dbox_private.h"
#include "store/mail_location.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char root[64], mail[128];

/* Nobody else is at work here, so there is nothing to wait for. */
int nanosleep(const struct timespec *wait, struct timespec *left)
{
	return 0;
}

int usleep(useconds_t wait)
{
	return 0;
}

static int uid_validity(void *ctx, uint32_t *uid_validity_r, struct error *err)
{
	*uid_validity_r = 1;
	return 0;
}

static int wait_for_creator(void *ctx, struct error *err)
{
	return 0;
}

static void put_file(const char *path, const uint8_t *data, size_t size)
{
	int fd = openat(fuzz_dir(), path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || file_write_all(fd, data, size) < 0)
		abort();
	close(fd);
}

static void make_dirs(void)
{
	int dirfd = fuzz_dir();

	file_remove_tree(dirfd, "box");
	if (mkdirat(dirfd, "box", 0700) < 0 || mkdirat(dirfd, "box/storage", 0700) < 0 ||
	    mkdirat(dirfd, "box/mailboxes", 0700) < 0 ||
	    mkdirat(dirfd, "box/mailboxes/INBOX", 0700) < 0 ||
	    mkdirat(dirfd, "box/mailboxes/INBOX/dbox-Mails", 0700) < 0)
		abort();
}

static int read_mail(void *ctx, const struct mail *message)
{
	struct mailbox *box = ctx;
	struct mail_body_info info;
	struct mail_body *body = NULL;
	struct error err;
	char data[4096];

	if (box->format->body_open(box, message->uid, &body, &info, &err) < 0)
		return 0;
	while (box->format->body_read(body, data, sizeof data, &err) > 0)
		continue;
	box->format->body_close(body);
	return 0;
}

/* How many can be read; negative: the mailbox cannot. */
struct counting {
	struct mailbox *box;
	int count;
};

static int count_mail(void *ctx, const struct mail *message)
{
	struct counting *counting = ctx;

	counting->count++;
	return read_mail(counting->box, message);
}

static int read_box(const struct mailbox_place *place, uint32_t *messages_r, bool *deleted_r)
{
	struct counting counting = {0};
	struct index_status status;
	struct error err = {0};
	int rc = mailbox_format_mdbox.open(place, &counting.box, &err);

	if (rc < 0)
		return rc;
	/* Nobody may write to it any more: a rebuild leaves it as it is. */
	index_status(dbox_of(counting.box)->index, &status);
	*deleted_r = status.deleted;
	counting.box->format = &mailbox_format_mdbox;
	*messages_r = counting.box->status.messages;
	rc = counting.box->format->each(counting.box, 1, UINT32_MAX, count_mail, &counting, &err);
	counting.box->format->close(counting.box);
	return rc < 0 ? rc : counting.count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mail_location location = {.driver = MAIL_DRIVER_MDBOX,
					 .layout = MAIL_LAYOUT_FS,
					 .root = root,
					 .index = root,
					 .control = root,
					 .inbox = root};
	const struct mailbox_place place = {.name = "INBOX",
					    .storage_name = "INBOX",
					    .mail = mail,
					    .control = mail,
					    .index = mail,
					    .location = &location,
					    .uid_validity = uid_validity,
					    .wait_for_creator = wait_for_creator};
	size_t map, log;
	uint32_t messages = 0;
	bool deleted = false;
	struct error err = {0};
	int count;

	if (size < 4)
		return 0;
	log_open("fuzz", LOG_TARGET_STDERR, getenv("FUZZ_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	snprintf(root, sizeof root, "/proc/self/fd/%d/box", fuzz_dir());
	snprintf(mail, sizeof mail, "%s/mailboxes/INBOX/dbox-Mails", root);
	map = index_get16(data);
	log = index_get16(data + 2);
	data += 4;
	size -= 4;
	map = map < size ? map : size;
	log = log < size - map ? log : size - map;
	make_dirs();
	put_file("box/storage/dovecot.map.index.log", data, map);
	put_file("box/mailboxes/INBOX/dbox-Mails/dovecot.index.log", data + map, log);
	put_file("box/storage/m.1", data + map + log, size - map - log);
	(void)read_box(&place, &messages, &deleted);
	if (mdbox_rebuild(&place, &err) < 0)
		return 0;
	count = read_box(&place, &messages, &deleted);
	if (!deleted && (count < 0 || (uint32_t)count != messages)) {
		fprintf(stderr, "after a rebuild %d of %u messages\n", count, messages);
		abort();
	}
	file_remove_tree(fuzz_dir(), "box");
	return 0;
}
