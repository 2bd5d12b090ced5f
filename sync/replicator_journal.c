/*
 * The replicator's reading of the mount's journal: events become work of their users.
 *
 * An event that carries the token of the only peer is an echo of what a worker applied: nothing has
 * to be done for it, unless that worker died. Which of those that lay in the journal before this
 * process started had a worker that ended well nobody knows, so none of them counts as an echo.
 */
#include "sync/replicator_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/file.h"
#include "store/mail_user.h"

#define EVENTS_A_TURN	  2000
#define START_DISTRUST_MS 3000 /* events of workers that died with the dsyncd before us */

static void set_trouble(struct replicator *r, const char *text)
{
	if (strcmp(r->trouble, text) != 0 && text[0] != '\0')
		log_notice("no events are read: %s", text);
	else if (r->trouble[0] != '\0' && text[0] == '\0')
		log_notice("events are read");
	snprintf(r->trouble, sizeof r->trouble, "%s", text);
}

void replicator_check_mount(struct replicator *r)
{
	if (r->away || journal_has_writer(r->set->state_dir))
		return;
	r->away = true;
	set_trouble(r, REPLICATOR_AWAY);
}

static bool mount_is_back(struct replicator *r)
{
	if (!journal_has_writer(r->set->state_dir))
		return false;
	r->away = false;
	r->list_not_before_ms = 0;
	replicator_kick(r);
	replicator_sessions_wake(r);
	return true;
}

static void on_wake(evutil_socket_t fd, short what, void *ctx)
{
	struct replicator *r = ctx;

	journal_reader_drain(r->reader);
	replicator_read_journal(r);
}

void replicator_close_reader(struct replicator *r)
{
	if (r->wake_event)
		event_free(r->wake_event);
	r->wake_event = NULL;
	journal_reader_close(&r->reader);
}

void replicator_open_reader(struct replicator *r)
{
	struct error err = {0};
	int fd, rc = journal_reader_open(r->set->state_dir, &r->reader, &err);

	if (rc < 0) {
		set_trouble(r, rc == -ENOENT ? "dsyncfs has not run with this state_dir yet"
					     : err.text);
		return;
	}
	fd = journal_reader_wake_fd(r->reader);
	if (fd >= 0) {
		r->wake_event = event_new(r->base, fd, EV_READ | EV_PERSIST, on_wake, r);
		if (r->wake_event)
			event_add(r->wake_event, NULL);
	}
}

/* Finds out whether what was consumed belongs to this journal. */
static int check_id(struct replicator *r, struct error *err)
{
	struct guid id, consumed_id;
	uint64_t seq = 0;
	int rc = journal_reader_id(r->reader, &id, err);

	if (rc < 0)
		return rc;
	if (guid_equal(&id, &r->reader_id))
		return 0;
	rc = peer_journal_get_consumed(r->journal, &consumed_id, &seq, err);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	r->reader_id = id;
	if (rc == 0 && guid_equal(&id, &consumed_id)) {
		r->read_seq = r->consumed_seq = seq;
		r->consumed_known = true;
		return 0;
	}
	/* A first start, or the journal was lost: every mailbox is compared. */
	log_notice("the mount's journal is new: all users are queued for a full sync");
	r->read_seq = r->consumed_seq = 0;
	r->consumed_known = false;
	r->list_wanted = true;
	return 0;
}

struct turn {
	struct replicator *r;
	size_t count;
	int64_t now_ms;
};

static struct queue_user *user_of(struct replicator *r, const char *home)
{
	struct queue_user *user = queue_user_find_home(&r->queue, home);
	char *name = NULL;

	if (user)
		return user;
	if (mail_user_name_from_home(r->set, home, &name) < 0)
		return NULL;
	user = replicator_user(r, name, home);
	free(name);
	return user;
}

/* Which mailbox an event about messages or a directory itself is of: by the time a worker hears of
 * it another may be there. */
static void mailbox_of(struct replicator *r, const struct queue_user *user,
		       const struct mail_event *event, struct guid *guid_r)
{
	AUTO_FREE char *dir = NULL;
	struct peer_place place;

	*guid_r = (struct guid){0};
	switch (event->kind) {
	case MAIL_EVENT_DELIVERED:
	case MAIL_EVENT_RENAMED:
	case MAIL_EVENT_REMOVED:
	case MAIL_EVENT_DIR_RENAMED:
	case MAIL_EVENT_DIR_REMOVED:
	case MAIL_EVENT_RESCAN:
		if (queue_dir_before(user, event->dir, &dir) == 0 &&
		    peer_journal_get_place(r->journal, user->name, dir, &place, NULL) == 0)
			*guid_r = place.guid;
		break;
	case MAIL_EVENT_TOUCHED:
	case MAIL_EVENT_DIR_CREATED:
	case MAIL_EVENT_LIST_TOUCHED:
	case MAIL_EVENT_RESCAN_HOME:
		break;
	}
}

static int add_event(const struct turn *turn, struct queue_user *user,
		     const struct mail_event *event, bool echo)
{
	struct replicator *r = turn->r;
	struct guid guid;

	mailbox_of(r, user, event, &guid);
	return queue_event_add(&r->queue, user, event, &guid, echo, turn->now_ms);
}

static int on_event(void *ctx, const struct mail_event *event)
{
	struct turn *turn = ctx;
	struct replicator *r = turn->r;
	struct queue_user *user;
	bool echo;

	turn->count++;
	echo = r->queue.peer_count == 1 && event->origin == r->peers[0].token &&
	       event->origin != 0 && !r->first_pass &&
	       turn->now_ms >= r->start_ms + START_DISTRUST_MS;
	user = echo ? queue_user_find_home(&r->queue, event->home) : user_of(r, event->home);
	/* Not a user's home (lost+found, a domain's own directory), or out of memory: with the
	 * latter nothing else would work either. */
	if (user &&
	    !(echo && !user->job && user->slot == QUEUE_SLOT_FREE &&
	      turn->now_ms >= user->distrust_until_ms) &&
	    add_event(turn, user, event, echo) < 0)
		return -ENOMEM;
	r->read_seq = event->seq;
	return r->queue.event_count >= QUEUE_EVENTS_MAX;
}

bool replicator_read_journal(struct replicator *r)
{
	struct turn turn = {.r = r, .now_ms = tcp_now_ms()};
	struct error err = {0};
	int rc;

	if (r->away && !mount_is_back(r))
		return false;
	if (!r->reader || r->draining || r->queue.event_count >= QUEUE_EVENTS_MAX)
		return false;
	rc = check_id(r, &err);
	if (rc == 0)
		rc = journal_reader_each(r->reader, r->read_seq, EVENTS_A_TURN, on_event, &turn,
					 &err);
	if (rc < 0) {
		/* Damaged and made anew, perhaps: opened again at the next poll. */
		set_trouble(r, err.text[0] != '\0' ? err.text : strerror(-rc));
		replicator_close_reader(r);
		return false;
	}
	set_trouble(r, "");
	if (turn.count < EVENTS_A_TURN)
		r->first_pass = false;
	if (turn.count > 0) {
		replicator_dirty(r);
		replicator_kick(r);
	}
	if (turn.count >= EVENTS_A_TURN && r->wake_event)
		event_active(r->wake_event, EV_READ, 0);
	return turn.count < EVENTS_A_TURN && r->queue.event_count < QUEUE_EVENTS_MAX;
}
