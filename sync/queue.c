/* The replicator's memory: users and their events. What is owed and whose turn it is:
 * queue_owed.c. See queue.h. */
#include "sync/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define DISTRUST_MS                                                                                \
	5000	    /* events of a dead worker arrive within this: the journal commits sooner */
#define LOOK_BACK 8 /* events looked at for one that says the same */

void queue_init(struct queue *queue, unsigned peer_count)
{
	*queue = (struct queue){.peer_count = peer_count};
}

static void events_free(struct queue_event **events)
{
	struct queue_event *event, *next;

	DL_FOREACH_SAFE(*events, event, next)
	{
		DL_DELETE(*events, event);
		free(event);
	}
}

static void user_free(struct queue *queue, struct queue_user *user)
{
	for (unsigned i = 0; i < queue->peer_count; i++) {
		for (size_t j = 0; j < user->entries[i].box_count; j++)
			free(user->entries[i].boxes[j].name);
		free(user->entries[i].boxes);
	}
	events_free(&user->events);
	events_free(&user->taken);
	free(user->name);
	free(user->home);
	free(user);
}

void queue_free(struct queue *queue)
{
	struct queue_user *user, *next;

	HASH_ITER (hh_name, queue->by_name, user, next) {
		HASH_DELETE(hh_name, queue->by_name, user);
		if (user->home[0] != '\0')
			HASH_DELETE(hh_home, queue->by_home, user);
		user_free(queue, user);
	}
	*queue = (struct queue){0};
}

struct queue_user *queue_user_find(const struct queue *queue, const char *name)
{
	struct queue_user *user = NULL;

	HASH_FIND(hh_name, queue->by_name, name, strlen(name), user);
	return user;
}

struct queue_user *queue_user_find_home(const struct queue *queue, const char *home)
{
	struct queue_user *user = NULL;

	HASH_FIND(hh_home, queue->by_home, home, strlen(home), user);
	return user;
}

/* Knows the user by its home, too, unless another user has that home. */
static void set_home(struct queue *queue, struct queue_user *user, const char *home)
{
	char *copy;

	if (user->home[0] != '\0' || home[0] == '\0' || queue_user_find_home(queue, home))
		return;
	copy = strdup(home);
	if (!copy)
		return;
	free(user->home);
	user->home = copy;
	HASH_ADD_KEYPTR(hh_home, queue->by_home, user->home, strlen(user->home), user);
}

struct queue_user *queue_user_get(struct queue *queue, const char *name, const char *home)
{
	struct queue_user *user = queue_user_find(queue, name);

	if (!user) {
		user = calloc(1, sizeof *user + queue->peer_count * sizeof user->entries[0]);
		if (!user)
			return NULL;
		user->name = strdup(name);
		user->home = strdup("");
		if (!user->name || !user->home) {
			user_free(queue, user);
			return NULL;
		}
		HASH_ADD_KEYPTR(hh_name, queue->by_name, user->name, strlen(user->name), user);
	}
	if (home)
		set_home(queue, user, home);
	return user;
}

void queue_user_update(struct queue *queue, struct queue_user *user)
{
	bool active = user->events || user->taken || user->want_scan || user->scan_unsaved ||
		      user->job || user->slot != QUEUE_SLOT_FREE;

	for (unsigned i = 0; i < queue->peer_count && !active; i++)
		active = queue_entry_wants(&user->entries[i]) || user->entries[i].unsaved;
	if (active && !user->active)
		DL_APPEND(queue->active, user);
	else if (!active && user->active)
		DL_DELETE(queue->active, user);
	user->active = active;
}

/* ---- events ---- */

static struct queue_event *event_new(const struct mail_event *event, bool echo)
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
	event = event_new(&all, false);
	if (!event)
		return;
	queue->event_count -= user->event_count;
	events_free(&user->events);
	DL_APPEND(user->events, event);
	user->event_count = user->fresh_count = 1;
	queue->event_count++;
}

int queue_event_add(struct queue *queue, struct queue_user *user, const struct mail_event *event,
		    bool echo, int64_t now_ms)
{
	struct queue_event *copy;

	if (now_ms < user->distrust_until_ms)
		echo = false;
	if (is_repeated(user, event, echo))
		return 0;
	copy = event_new(event, echo);
	if (!copy)
		return -ENOMEM;
	DL_APPEND(user->events, copy);
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

void queue_events_in_index(struct queue_user *user, const char *dir)
{
	struct queue_event *event;

	DL_FOREACH (user->taken, event) {
		if (!event->in_index && strcmp(event->event.dir, dir) == 0)
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

static bool each_removal(const struct queue_event *events, const char *dir,
			 void (*each)(void *ctx, const struct mail_event *event), void *ctx)
{
	const struct queue_event *queued;
	bool all = true;

	DL_FOREACH (events, queued) {
		const struct mail_event *event = &queued->event;

		if (event->kind == MAIL_EVENT_RESCAN_HOME ||
		    (event->kind == MAIL_EVENT_RESCAN && strcmp(event->dir, dir) == 0))
			all = false;
		if (is_unsettled(queued) && strcmp(event->dir, dir) == 0)
			each(ctx, event);
	}
	return all;
}

bool queue_each_removal(const struct queue_user *user, const char *dir,
			void (*each)(void *ctx, const struct mail_event *event), void *ctx)
{
	bool taken = each_removal(user->taken, dir, each, ctx);

	return each_removal(user->events, dir, each, ctx) && taken;
}

void queue_events_done(struct queue *queue, struct queue_user *user)
{
	const struct queue_event *event;

	DL_FOREACH (user->taken, event)
		queue->event_count--;
	events_free(&user->taken);
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
		free(event);
		user->event_count--;
		queue->event_count--;
	}
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
