/*
 * Mailboxes of which the mount saw removals or flags that could not be taken into their index (a
 * full disk): the peer, which has the mail, would undo them. They wait; the others are synced.
 *
 * And of which it has seen some since: what is missing there now may be no loss, and what the peer
 * has may be what somebody has just removed. The same of directories: a mailbox that is elsewhere,
 * or nowhere, may be so by somebody's wish.
 */
#include "sync/worker_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/file.h"

#define UNSETTLED_MAX 100000

void worker_clear_unsettled(struct worker_process *w)
{
	for (size_t i = 0; i < w->unsettled_count; i++)
		free(w->unsettled[i]);
	free(w->unsettled);
	w->unsettled = NULL;
	w->unsettled_count = 0;
	w->all_unsettled = false;
}

static void add(struct worker_process *w, const char *dir)
{
	char **grown = w->unsettled_count < UNSETTLED_MAX
			       ? realloc(w->unsettled, (w->unsettled_count + 1) * sizeof *grown)
			       : NULL;

	if (grown) {
		w->unsettled = grown;
		grown[w->unsettled_count] = strdup(dir);
	}
	if (!grown || !grown[w->unsettled_count])
		w->all_unsettled = true;
	else
		w->unsettled_count++;
}

void worker_add_unsettled(struct worker_process *w, struct worker_reader *reader)
{
	if (worker_get_u8(reader))
		w->all_unsettled = true;
	while (reader->left && !reader->failed)
		add(w, worker_get_str(reader, WORKER_NAME_MAX));
	if (worker_get_end(reader) < 0)
		worker_broken("a malformed message");
}

bool worker_host_may_sync(void *ctx, const char *mailbox)
{
	const struct worker_process *w = ctx;
	AUTO_FREE char *dir = NULL;

	if (w->all_unsettled)
		return false;
	if (w->unsettled_count == 0)
		return true;
	dir = worker_dir_of(w, mailbox);
	for (size_t i = 0; dir && i < w->unsettled_count; i++) {
		if (strcmp(w->unsettled[i], dir) == 0)
			return false;
	}
	return true;
}

/* What is done with removals of one message: 0, 1: enough is known; negative. */
typedef int removals_fn(void *ctx, struct mailbox *mailbox, const struct mail_event *events,
			size_t count, struct error *err);

static int read_some(struct worker_process *w, struct worker_reader *reader,
		     struct mailbox *mailbox, removals_fn *fn, void *ctx, struct error *err)
{
	struct worker_events read = {0};
	struct mail_event *events = NULL;
	int rc = worker_append_events(reader, &read);

	if (rc == -EPROTO)
		worker_broken("a malformed event");
	if (rc == 0 && read.count) {
		events = calloc(read.count, sizeof *events);
		rc = events ? 0 : -ENOMEM;
	}
	if (rc < 0)
		error_errno(err, rc, "user %s: removals", w->user->name);
	for (size_t i = 0; events && i < read.count; i++)
		events[i] = read.list[i].event;
	if (events)
		rc = fn(ctx, mailbox, events, read.count, err);
	free(events);
	free(read.list);
	return rc;
}

/* Those of the mailbox that are not in its index yet. *known_r: they are all. */
static int each_removal(struct worker_process *w, const char *name, struct mailbox *mailbox,
			removals_fn *fn, void *ctx, bool *known_r, struct error *err)
{
	AUTO_FREE char *dir = worker_dir_of(w, name);
	struct worker_reader reader;
	int rc = 0;

	*known_r = false;
	if (!dir || strlen(dir) > WORKER_NAME_MAX)
		return 0;
	worker_put_begin(&w->out, WORKER_WANT_REMOVALS);
	worker_put_str(&w->out, dir);
	worker_put_guid(&w->out, &mailbox_status(mailbox)->guid);
	worker_reply(w);
	/* All are read, also after a failure. */
	for (worker_next(w, &reader); reader.type == WORKER_EVENTS; worker_next(w, &reader)) {
		if (rc == 0)
			rc = read_some(w, &reader, mailbox, fn, ctx, err);
	}
	*known_r = worker_get_u8(&reader) != 0;
	if (reader.type != WORKER_REMOVALS || worker_get_end(&reader) < 0)
		worker_broken("a message out of order");
	return rc;
}

static int explain_some(void *ctx, struct mailbox *mailbox, const struct mail_event *events,
			size_t count, struct error *err)
{
	(void)ctx;
	return mailbox_explain_missing(mailbox, events, count, err);
}

int worker_host_explain_missing(void *ctx, const char *name, struct mailbox *mailbox,
				struct error *err)
{
	bool known;
	int rc = each_removal(ctx, name, mailbox, explain_some, NULL, &known, err);

	return rc < 0 ? rc : !known;
}

struct wanted {
	const char *const *guids;
	size_t count;
};

static int look_for_wanted(void *ctx, struct mailbox *mailbox, const struct mail_event *events,
			   size_t count, struct error *err)
{
	const struct wanted *wanted = ctx;

	return mailbox_has_removal(mailbox, events, count, wanted->guids, wanted->count, err);
}

int worker_host_was_removed(void *ctx, const char *name, struct mailbox *mailbox,
			    const char *const *guids, size_t count, struct error *err)
{
	struct wanted wanted = {guids, count};
	bool known;

	return each_removal(ctx, name, mailbox, look_for_wanted, &wanted, &known, err);
}

/* The mount has told of everything when a directory was synced in it. */
int worker_host_tree_is_told(void *ctx, bool makes_again, struct error *err)
{
	struct worker_process *w = ctx;
	const char *root = w->user->location.root;
	struct worker_reader reader;
	bool told;
	int rc = file_sync_dir(AT_FDCWD, root);

	if (rc < 0 && rc != -ENOENT)
		return error_errno(err, rc, "user %s: fsync of %s", w->user->name, root);
	worker_put_begin(&w->out, WORKER_WANT_TREE_TOLD);
	worker_put_u8(&w->out, makes_again);
	worker_reply(w);
	worker_next(w, &reader);
	told = worker_get_u8(&reader) != 0;
	if (reader.type != WORKER_TREE_TOLD || worker_get_end(&reader) < 0)
		worker_broken("a message out of order");
	return !told;
}
