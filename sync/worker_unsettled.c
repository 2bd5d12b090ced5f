/*
 * Mailboxes of which the mount saw removals or flags that could not be taken into their index (a
 * full disk): the peer, which has the mail, would undo them. They wait; the others are synced.
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
