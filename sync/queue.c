/* The replicator's memory: users. Their events: queue_events.c; what is owed and whose turn it is:
 * queue_owed.c. See queue.h. */
#include "sync/queue.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

void queue_init(struct queue *queue, unsigned peer_count)
{
	*queue = (struct queue){.peer_count = peer_count};
}

static void user_free(struct queue *queue, struct queue_user *user)
{
	for (unsigned i = 0; i < queue->peer_count; i++) {
		for (size_t j = 0; j < user->entries[i].box_count; j++)
			free(user->entries[i].boxes[j].name);
		free(user->entries[i].boxes);
	}
	queue_events_free(user);
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
