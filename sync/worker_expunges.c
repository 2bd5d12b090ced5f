/*
 * The worker's part in tombstones: it tells dsyncd of the expunges that a mailbox's index log still
 * has, and gets from dsyncd those that it has no more.
 */
#include "sync/worker_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/log.h"

#define EXPUNGES_MAX 50000000

/* ---- to dsyncd ---- */

static void begin_list(struct worker_process *w, const struct mailbox_status *status, bool more)
{
	struct worker_expunges head = {
		.guid = status->guid,
		.more = more,
		.uid_validity = status->uid_validity,
		.uid_next = status->uid_next,
		.messages = status->messages,
		.highest_modseq = status->highest_modseq,
	};

	worker_put_expunges(&w->out, &head);
}

static void send_list(struct worker_process *w, const struct mailbox_status *status,
		      const struct mailbox_changes *changes)
{
	size_t i = 0;

	for (;;) {
		size_t end = i, count = 0;

		/* What fits into one message. */
		for (; end < changes->count && count < WORKER_EXPUNGES_A_MESSAGE; end++)
			count += changes->change[end].expunged;
		begin_list(w, status, end < changes->count);
		for (; i < end; i++) {
			const struct mailbox_change *change = &changes->change[i];
			struct sync_expunge expunge = {.uid = change->uid,
						       .modseq = change->modseq};

			if (!change->expunged)
				continue;
			if (change->has_guid)
				expunge.guid = change->guid;
			worker_put_expunge(&w->out, &expunge);
		}
		worker_reply(w);
		if (end == changes->count)
			return;
	}
}

/* Not to be listed now: dsyncd asks again when the mailbox has changed again. */
static void send_failure(struct worker_process *w, const struct guid *guid)
{
	struct worker_expunges head = {.guid = *guid, .failed = true};

	worker_put_expunges(&w->out, &head);
	worker_reply(w);
}

void worker_list_expunges(struct worker_process *w, struct worker_reader *reader)
{
	struct mailbox_changes changes = {0};
	struct worker_list_expunges task;
	struct mailbox *box = NULL;
	struct error err = {0};
	int rc;

	if (worker_get_list_expunges(reader, &task) < 0)
		worker_broken("a malformed message");
	rc = box_cache_take(&w->boxes, w->user, task.name, &box, &err);
	if (rc == 0 && !guid_equal(&mailbox_status(box)->guid, &task.guid))
		rc = -ESTALE;
	if (rc == 0)
		rc = mailbox_changes(box, task.since, &changes, &err);
	/* What the log does tell counts, too. */
	if (rc == 0 || rc == -ERANGE) {
		send_list(w, mailbox_status(box), &changes);
		box_cache_put(&w->boxes, w->user, &box);
	} else {
		if (rc != -ENOENT && rc != -ESTALE)
			log_warning("expunges cannot be listed: %s user=%s mailbox=%s", err.text,
				    w->user->name, task.name);
		send_failure(w, &task.guid);
	}
	mailbox_changes_free(&changes);
	mailbox_close(&box);
}

/* ---- from dsyncd ---- */

static int append_expunge(struct sync_expunge **list, size_t *count, size_t *size,
			  const struct sync_expunge *expunge)
{
	if (*count == *size) {
		size_t grown_size = *size ? *size * 2 : 64;
		struct sync_expunge *grown = grown_size > EXPUNGES_MAX
						     ? NULL
						     : realloc(*list, grown_size * sizeof *grown);

		if (!grown)
			return -ENOMEM;
		*list = grown;
		*size = grown_size;
	}
	(*list)[(*count)++] = *expunge;
	return 0;
}

int worker_host_expunged(void *ctx, const struct guid *mailbox, struct sync_expunge **list_r,
			 size_t *count_r, struct error *err)
{
	struct worker_process *w = ctx;
	struct worker_reader reader;
	bool more = true, failed = false;
	size_t size = 0;
	int rc = 0;

	*list_r = NULL;
	*count_r = 0;
	worker_put_begin(&w->out, WORKER_WANT_TOMBSTONES);
	worker_put_guid(&w->out, mailbox);
	worker_reply(w);
	while (more) {
		worker_expect(w, WORKER_TOMBSTONES, &reader);
		more = worker_get_u8(&reader) != 0;
		failed = worker_get_u8(&reader) != 0;
		while (reader.left && !reader.failed) {
			struct sync_expunge expunge;

			if (worker_get_expunge(&reader, &expunge) == 0 && rc == 0)
				rc = append_expunge(list_r, count_r, &size, &expunge);
		}
		if (worker_get_end(&reader) < 0)
			worker_broken("a malformed message");
	}
	if (failed)
		return error_set(err, -EIO, "user %s: dsyncd's tombstones cannot be read",
				 w->user->name);
	return rc < 0 ? error_errno(err, rc, "user %s: tombstones", w->user->name) : 0;
}
