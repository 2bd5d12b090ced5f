/*
 * Mailboxes of which the mount saw removals or flags that could not be taken into their index (a
 * full disk): the peer, which has the mail, would undo them. They wait; the others are synced.
 *
 * And of which it has seen some since: what is missing there now may be no loss.
 */
#include "sync/worker_private.h"

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

/* One message of events; their strings point into it. */
static int explain_some(struct worker_process *w, struct worker_reader *reader,
			struct mailbox *mailbox, struct error *err)
{
	struct mail_event *events = NULL;
	size_t count = 0, room = 0;
	int rc = 0;

	while (rc == 0 && reader->left && !reader->failed) {
		struct worker_event event;

		if (worker_get_event(reader, &event) < 0)
			break;
		if (count == room) {
			struct mail_event *grown;

			room = room ? room * 2 : 16;
			grown = reallocarray(events, room, sizeof *events);
			if (!grown) {
				rc = error_errno(err, -ENOMEM, "user %s: removals", w->user->name);
				break;
			}
			events = grown;
		}
		events[count++] = event.event;
	}
	if (rc == 0 && worker_get_end(reader) < 0)
		worker_broken("a malformed message");
	if (rc == 0 && count)
		rc = mailbox_explain_missing(mailbox, events, count, err);
	free(events);
	return rc;
}

int worker_host_explain_missing(void *ctx, const char *name, struct mailbox *mailbox,
				struct error *err)
{
	struct worker_process *w = ctx;
	AUTO_FREE char *dir = worker_dir_of(w, name);
	bool more = true, unknown = false;
	int rc = 0;

	if (!dir || strlen(dir) > WORKER_NAME_MAX)
		return 1;
	worker_put_begin(&w->out, WORKER_WANT_REMOVALS);
	worker_put_str(&w->out, dir);
	worker_reply(w);
	while (more) {
		struct worker_reader reader;
		struct error some_err = {0};
		int some;

		worker_expect(w, WORKER_REMOVALS, &reader);
		more = worker_get_u8(&reader) != 0;
		unknown |= worker_get_u8(&reader) != 0;
		some = explain_some(w, &reader, mailbox, &some_err);
		if (rc == 0 && some < 0) {
			rc = some;
			*err = some_err;
		}
	}
	return rc < 0 ? rc : unknown;
}
