/*
 * The replicator's memory: what the mount saw and no worker has taken in yet. See queue.h.
 *
 * An event says in which directory something happened. By the time a worker hears of it the mailbox
 * may be elsewhere, and another in its place; so a directory's rename takes the events before it
 * along, and each event knows which mailbox it was about where that was certain.
 */
#include "sync/queue.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define DISTRUST_MS                                                                                \
	5000	    /* events of a dead worker arrive within this: the journal commits sooner */
#define LOOK_BACK 8 /* events looked at for one that says the same */

static void event_free(struct queue_event *event)
{
	free(event->moved_dir);
	free(event);
}

static void list_free(struct queue_event **events)
{
	struct queue_event *event, *next;

	DL_FOREACH_SAFE(*events, event, next)
	{
		DL_DELETE(*events, event);
		event_free(event);
	}
}

void queue_events_free(struct queue_user *user)
{
	list_free(&user->events);
	list_free(&user->taken);
	user->tree_count = 0;
}

/* ---- where a mailbox is now ---- */

static bool is_tree_event(const struct queue_event *event)
{
	return event->event.kind == MAIL_EVENT_RESCAN_HOME ||
	       event->event.kind == MAIL_EVENT_DIR_CREATED ||
	       event->event.kind == MAIL_EVENT_DIR_RENAMED ||
	       event->event.kind == MAIL_EVENT_DIR_REMOVED;
}

/* What follows base in path where that is base or below it; else NULL. */
static const char *below(const char *path, const char *base)
{
	size_t len = strlen(base);

	if (strncmp(path, base, len) != 0 || (path[len] != '\0' && path[len] != '/'))
		return NULL;
	return path + len;
}

static int move_event(struct queue_event *event, const char *to, const char *rest)
{
	size_t len = strlen(to), rest_len = strlen(rest);
	char *dir = malloc(len + rest_len + 1);

	if (!dir)
		return -ENOMEM;
	memcpy(dir, to, len);
	memcpy(dir + len, rest, rest_len + 1);
	free(event->moved_dir);
	event->event.dir = event->moved_dir = dir;
	return 0;
}

static int move_list(struct queue_event *events, const char *from, const char *to)
{
	struct queue_event *event;

	DL_FOREACH (events, event) {
		const char *rest = below(event->event.dir, from);

		/* What happened to directories happened in this order. */
		if (!rest || event->event.kind == MAIL_EVENT_DIR_RENAMED ||
		    event->event.kind == MAIL_EVENT_DIR_REMOVED)
			continue;
		if (move_event(event, to, rest) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int move_events(struct queue_user *user, const struct mail_event *renamed)
{
	int rc = move_list(user->taken, renamed->dir, renamed->name);

	return rc < 0 ? rc : move_list(user->events, renamed->dir, renamed->name);
}

/* One step back: where what is at *path was before this event; 1: a worker brought it there.
 * -ENOENT: not at all, or nobody knows: what a look at the whole home stands for may have moved
 * anything. */
static int step_back(const struct queue_event *event, char **path)
{
	const bool renamed = event->event.kind == MAIL_EVENT_DIR_RENAMED;
	const char *rest = renamed ? below(*path, event->event.name) : NULL;
	char *before;

	if (event->event.kind == MAIL_EVENT_RESCAN_HOME)
		return -ENOENT;
	if (rest && event->event.origin != 0)
		return 1;
	if (rest) {
		if (asprintf(&before, "%s%s", event->event.dir, rest) < 0)
			return -ENOMEM;
		free(*path);
		*path = before;
		return 0;
	}
	return is_tree_event(event) && below(*path, event->event.dir) ? -ENOENT : 0;
}

static int list_back(const struct queue_event *events, char **path)
{
	const struct queue_event *event = events ? events->prev : NULL;
	int rc = 0;

	for (; event && rc == 0; event = event == events ? NULL : event->prev)
		rc = step_back(event, path);
	return rc;
}

int queue_dir_before(const struct queue_user *user, const char *dir, char **dir_r)
{
	int rc;

	*dir_r = strdup(dir);
	if (!*dir_r)
		return -ENOMEM;
	rc = user->tree_count ? list_back(user->events, dir_r) : 0;
	if (rc == 0 && user->tree_count)
		rc = list_back(user->taken, dir_r);
	if (rc >= 0)
		return 0;
	free(*dir_r);
	*dir_r = NULL;
	return rc;
}

static void count_tree_events(struct queue_user *user)
{
	const struct queue_event *event;

	user->tree_count = 0;
	DL_FOREACH (user->taken, event)
		user->tree_count += is_tree_event(event);
	DL_FOREACH (user->events, event)
		user->tree_count += is_tree_event(event);
}

static bool list_changes_places(const struct queue_event *events)
{
	const struct queue_event *event;

	DL_FOREACH (events, event) {
		if (event->event.origin == 0 && (event->event.kind == MAIL_EVENT_DIR_RENAMED ||
						 event->event.kind == MAIL_EVENT_DIR_REMOVED ||
						 event->event.kind == MAIL_EVENT_RESCAN ||
						 event->event.kind == MAIL_EVENT_RESCAN_HOME))
			return true;
	}
	return false;
}

bool queue_tree_is_told(const struct queue_user *user)
{
	return !list_changes_places(user->taken) && !list_changes_places(user->events);
}

/* ---- the list ---- */

static struct queue_event *event_new(const struct mail_event *event, const struct guid *guid,
				     bool echo)
{
	size_t dir = strlen(event->dir) + 1, name = strlen(event->name) + 1;
	size_t name2 = strlen(event->name2) + 1;
	struct queue_event *copy = calloc(1, sizeof *copy + dir + name + name2);
	char *strings;

	if (!copy)
		return NULL;
	strings = (char *)(copy + 1);
	memcpy(strings, event->dir, dir);
	memcpy(strings + dir, event->name, name);
	memcpy(strings + dir + name, event->name2, name2);
	copy->event = *event;
	copy->event.home = "";
	copy->event.dir = strings;
	copy->event.name = strings + dir;
	copy->event.name2 = strings + dir + name;
	copy->echo = echo;
	if (guid)
		copy->guid = *guid;
	return copy;
}

/* "Look at dir" said once more shortly after. */
static bool is_repeated(const struct queue_user *user, const struct mail_event *event, bool echo)
{
	const struct queue_event *last = user->events ? user->events->prev : NULL;

	if (event->kind != MAIL_EVENT_TOUCHED && event->kind != MAIL_EVENT_LIST_TOUCHED &&
	    event->kind != MAIL_EVENT_RESCAN && event->kind != MAIL_EVENT_RESCAN_HOME)
		return false;
	for (unsigned i = 0; last && i < LOOK_BACK; i++, last = last->prev) {
		if (last->event.kind == event->kind && last->echo == echo &&
		    strcmp(last->event.dir, event->dir) == 0)
			return true;
		if (last == user->events)
			break;
	}
	return false;
}

/* Too many for one user: the whole home is compared instead. What the dropped events knew of
 * removals is lost, so such mail comes back from the peer rather than going. */
static void coalesce(struct queue *queue, struct queue_user *user)
{
	struct mail_event all = {
		.kind = MAIL_EVENT_RESCAN_HOME, .home = "", .dir = "", .name = "", .name2 = ""};
	struct queue_event *event;

	all.seq = user->events->event.seq;
	all.time = user->events->event.time;
	event = event_new(&all, NULL, false);
	if (!event)
		return;
	queue->event_count -= user->event_count;
	list_free(&user->events);
	DL_APPEND(user->events, event);
	user->event_count = user->fresh_count = 1;
	queue->event_count++;
	count_tree_events(user);
}

int queue_event_add(struct queue *queue, struct queue_user *user, const struct mail_event *event,
		    const struct guid *guid, bool echo, int64_t now_ms)
{
	struct queue_event *copy;

	if (now_ms < user->distrust_until_ms)
		echo = false;
	if (is_repeated(user, event, echo))
		return 0;
	if (event->kind == MAIL_EVENT_DIR_RENAMED && move_events(user, event) < 0)
		return -ENOMEM;
	copy = event_new(event, guid, echo);
	if (!copy)
		return -ENOMEM;
	DL_APPEND(user->events, copy);
	user->tree_count += is_tree_event(copy);
	user->event_count++;
	queue->event_count++;
	if (!echo)
		user->fresh_count++;
	if (user->event_count > QUEUE_USER_EVENTS_MAX)
		coalesce(queue, user);
	queue_user_update(queue, user);
	return 0;
}

void queue_events_take(struct queue *queue, struct queue_user *user, size_t max)
{
	for (size_t i = 0; user->events && i < max; i++) {
		struct queue_event *event = user->events;

		DL_DELETE(user->events, event);
		DL_APPEND(user->taken, event);
		user->event_count--;
		if (!event->echo)
			user->fresh_count--;
	}
}

uint64_t queue_events_pending(const struct queue_user *user)
{
	const struct queue_event *event;
	uint64_t last = 0;

	DL_FOREACH (user->taken, event) {
		if (event->event.origin == 0)
			last = event->event.seq;
	}
	DL_FOREACH (user->events, event) {
		if (event->event.origin == 0)
			last = event->event.seq;
	}
	return last;
}

bool queue_events_pend_until(const struct queue_user *user, uint64_t seq)
{
	const struct queue_event *event;

	DL_FOREACH (user->taken, event) {
		if (event->event.origin == 0 && event->event.seq <= seq)
			return true;
	}
	DL_FOREACH (user->events, event) {
		if (event->event.seq > seq)
			return false;
		if (event->event.origin == 0)
			return true;
	}
	return false;
}

static bool is_listed(const char *const *dirs, size_t count, const char *dir)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(dirs[i], dir) == 0)
			return true;
	}
	return false;
}

static bool is_unsettled(const struct queue_event *queued)
{
	const struct mail_event *event = &queued->event;

	return event->origin == 0 && !queued->in_index &&
	       (event->kind == MAIL_EVENT_REMOVED || event->kind == MAIL_EVENT_RENAMED);
}

static size_t list_unsettled(const struct queue_event *events, uint64_t seq, const char **dirs,
			     size_t count, size_t max)
{
	const struct queue_event *queued;

	DL_FOREACH (events, queued) {
		const struct mail_event *event = &queued->event;

		if (event->seq > seq || count > max)
			break;
		if (!is_unsettled(queued) || is_listed(dirs, count, event->dir))
			continue;
		if (count < max)
			dirs[count] = event->dir;
		count++;
	}
	return count;
}

/* Whether the event is about this mailbox. */
static bool is_about(const struct queue_event *event, const char *dir, const struct guid *guid)
{
	if (!guid_is_empty(&event->guid) && !guid_is_empty(guid))
		return guid_equal(&event->guid, guid);
	return strcmp(event->event.dir, dir) == 0;
}

void queue_events_in_index(struct queue_user *user, const char *dir, const struct guid *guid)
{
	struct queue_event *event;

	DL_FOREACH (user->taken, event) {
		if (!event->in_index && is_about(event, dir, guid))
			event->in_index = true;
	}
}

size_t queue_unsettled_dirs(const struct queue_user *user, uint64_t seq, const char **dirs,
			    size_t max)
{
	size_t count;

	if (seq < user->failed_seq)
		seq = user->failed_seq;
	count = list_unsettled(user->taken, seq, dirs, 0, max);
	return list_unsettled(user->events, seq, dirs, count, max);
}

static bool each_removal(const struct queue_event *events, const char *dir, const struct guid *guid,
			 void (*each)(void *ctx, const struct mail_event *event), void *ctx)
{
	const struct queue_event *queued;
	bool all = true;

	DL_FOREACH (events, queued) {
		const struct mail_event *event = &queued->event;

		if (event->kind == MAIL_EVENT_RESCAN_HOME ||
		    (event->kind == MAIL_EVENT_RESCAN && strcmp(event->dir, dir) == 0))
			all = false;
		if (is_unsettled(queued) && is_about(queued, dir, guid))
			each(ctx, event);
	}
	return all;
}

bool queue_each_removal(const struct queue_user *user, const char *dir, const struct guid *guid,
			void (*each)(void *ctx, const struct mail_event *event), void *ctx)
{
	bool taken = each_removal(user->taken, dir, guid, each, ctx);

	return each_removal(user->events, dir, guid, each, ctx) && taken;
}

void queue_events_done(struct queue *queue, struct queue_user *user)
{
	const struct queue_event *event;

	DL_FOREACH (user->taken, event)
		queue->event_count--;
	list_free(&user->taken);
	count_tree_events(user);
	queue_user_update(queue, user);
}

void queue_events_put_back(struct queue *queue, struct queue_user *user)
{
	const struct queue_event *event;

	DL_FOREACH (user->taken, event) {
		user->event_count++;
		if (!event->echo)
			user->fresh_count++;
		user->failed_seq = event->event.seq;
	}
	DL_CONCAT(user->taken, user->events);
	user->events = user->taken;
	user->taken = NULL;
	queue_user_update(queue, user);
}

void queue_echoes_settle(struct queue *queue, struct queue_user *user, bool trusted, int64_t now_ms)
{
	struct queue_event *event, *next;

	if (!trusted)
		user->distrust_until_ms = now_ms + DISTRUST_MS;
	DL_FOREACH_SAFE(user->events, event, next)
	{
		if (!event->echo)
			continue;
		if (!trusted) {
			event->echo = false;
			user->fresh_count++;
			continue;
		}
		DL_DELETE(user->events, event);
		event_free(event);
		user->event_count--;
		queue->event_count--;
	}
	count_tree_events(user);
	queue_user_update(queue, user);
}

uint64_t queue_consumed(const struct queue *queue, uint64_t read_seq)
{
	const struct queue_user *user;
	uint64_t consumed = read_seq;

	DL_FOREACH (queue->active, user) {
		const struct queue_event *first = user->taken ? user->taken : user->events;

		if (first && first->event.seq <= consumed)
			consumed = first->event.seq - 1;
	}
	return consumed;
}
