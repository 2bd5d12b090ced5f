/*
 * The worker's first half of a job: what the mount saw goes into uidlist, index log and mailbox
 * log.
 *
 * Directories that were removed or renamed come first, since the events of a mailbox only mean
 * something where it is now: dsyncd has named that place where it knew of the rename, and where it
 * did not, it says which mailbox is meant, and that one is looked for. Each mailbox is on its own:
 * one that fails is counted and named, the others go on. A damaged one is rebuilt, once.
 */
#include "sync/worker_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/mail_purge.h"
#include "store/mailbox_list.h"
#include "store/mailbox_log.h"
#include "store/mailbox_name.h"
#include "sync/worker_groups.h"

#define LOGGED_WITHIN_SECS 10 /* Dovecot writes its log record just before or after the rename */

struct catch_up {
	struct worker_process *w;
	struct worker_groups groups;
	struct worker_caught_up *result;
	struct error *err;
};

static void note_failure(struct catch_up *c, const struct error *err)
{
	if (c->result->failed++ == 0)
		*c->err = *err;
	log_warning("%s", err->text);
}

char *worker_dir_of(const struct worker_process *w, const char *name)
{
	size_t home = strlen(w->user->home);
	struct mailbox_paths paths;
	char *dir = NULL;

	if (mailbox_dirs_get(&w->user->location, name, &paths) < 0)
		return NULL;
	if (strncmp(paths.mail, w->user->home, home) == 0) {
		if (paths.mail[home] == '\0')
			dir = strdup("");
		else if (paths.mail[home] == '/')
			dir = strdup(paths.mail + home + 1);
	}
	mailbox_paths_free(&paths);
	return dir;
}

static void report_box(struct worker_process *w, const struct mailbox *box, bool incomplete)
{
	const struct mailbox_status *status = mailbox_status(box);
	AUTO_FREE char *dir = worker_dir_of(w, mailbox_name(box));
	struct worker_box message = {
		.dir = dir ? dir : "",
		.name = mailbox_name(box),
		.guid = status->guid,
		.uid_validity = status->uid_validity,
		.uid_next = status->uid_next,
		.messages = status->messages,
		.highest_modseq = status->highest_modseq,
		.incomplete = incomplete,
	};

	worker_put_box(&w->out, &message);
	worker_reply(w);
}

void worker_report_place(struct worker_process *w, const char *dir, const struct guid *guid,
			 bool moved)
{
	worker_put_begin(&w->out, WORKER_PLACED);
	worker_put_str(&w->out, dir);
	worker_put_guid(&w->out, guid);
	worker_put_u8(&w->out, moved);
	worker_reply(w);
}

/* removed: not only from this place. */
static void report_gone(struct worker_process *w, const char *dir, const struct guid *guid,
			bool removed)
{
	worker_put_begin(&w->out, WORKER_BOX_GONE);
	worker_put_str(&w->out, dir);
	worker_put_guid(&w->out, guid);
	worker_put_u8(&w->out, removed);
	worker_reply(w);
}

/* ---- mailboxes ---- */

static bool is_another(const struct mailbox *box, const struct guid *guid)
{
	return guid && !guid_is_empty(guid) && !guid_equal(&mailbox_status(box)->guid, guid);
}

/* guid: of the mailbox that is meant, NULL or empty: whichever has the name. -EXDEV: it is another.
 */
static int take_in(struct worker_process *w, const char *name, const struct worker_group *group,
		   const struct guid *guid, struct error *err)
{
	struct mailbox *box = NULL;
	size_t missing = 0;
	bool changed;
	int rc = box_cache_take(&w->boxes, w->user, name, &box, err);

	if (rc < 0)
		return rc;
	if (is_another(box, guid)) {
		box_cache_put(&w->boxes, w->user, &box);
		return -EXDEV;
	}
	if (group && group->count)
		rc = mailbox_catch_up(box, group->events, group->count, &changed, err);
	/* What was seen to go is not missing. */
	if (rc == 0 && (!group || group->scan)) {
		rc = mailbox_scan(box, &changed, &missing, err);
		if (rc == 0 && missing)
			log_notice("%zu messages have no file; a peer is asked for them user=%s "
				   "mailbox=%s",
				   missing, w->user->name, name);
	}
	if (rc == 0) {
		crash_point("catch-up: a mailbox done");
		report_box(w, box, missing > 0);
		box_cache_put(&w->boxes, w->user, &box);
	}
	mailbox_close(&box);
	return rc;
}

/* A damaged mailbox is rebuilt. */
static int take_in_mended(struct worker_process *w, const char *name,
			  const struct worker_group *group, const struct guid *guid,
			  struct error *err)
{
	int rc = take_in(w, name, group, guid, err);

	if (rc == -ESTALE) /* replaced while we looked */
		rc = take_in(w, name, group, guid, err);
	if (rc != -EUCLEAN)
		return rc;
	log_warning("rebuilding a damaged mailbox: %s user=%s mailbox=%s", err->text, w->user->name,
		    name);
	rc = mailbox_rebuild(w->user, name, err);
	/* What the events brought may not be in the index that was rebuilt. */
	if (rc == 0)
		rc = take_in(w, name, NULL, NULL, err);
	if (rc == 0 && group)
		rc = take_in(w, name, group, guid, err);
	return rc;
}

static void note_end(struct catch_up *c, int rc, const struct error *err)
{
	if (rc == -ENOENT || rc == -ESTALE)
		c->result->tree_changed = true; /* gone meanwhile: its own event tells the rest */
	else if (rc < 0)
		note_failure(c, err);
}

/* group NULL: compares the whole mailbox. */
static void process_box(struct catch_up *c, const char *name, const struct worker_group *group)
{
	struct error err = {0};
	int rc = take_in_mended(c->w, name, group, NULL, &err);

	note_end(c, rc, &err);
}

/* NULL: there is none, or nobody can say. */
static char *name_of(struct worker_process *w, const struct guid *guid)
{
	struct mailbox_tree tree;
	struct error err = {0};
	char *name = NULL;
	bool incomplete;

	if (mailbox_list_read(w->user, &tree, &incomplete, &err) < 0) {
		log_warning("%s", err.text);
		return NULL;
	}
	for (size_t i = 0; i < tree.node_count && !name; i++) {
		if (tree.nodes[i].exists && guid_equal(&tree.nodes[i].guid, guid))
			name = strdup(tree.nodes[i].name);
	}
	mailbox_tree_free(&tree);
	return name;
}

/* The mount died between a rename and the word of it, or the rename was done behind it. Not for a
 * mailbox that a session moves at this moment, the word of which is to come: logged by what else
 * has its old name by then, it would be newer than what the peer has, whose next rename would be
 * undone. */
static void log_found_renamed(struct catch_up *c, const char *from, const char *to)
{
	struct error err = {0};

	if (strcmp(from, "INBOX") != 0 && strcmp(to, "INBOX") != 0 &&
	    mailbox_list_log_renamed(c->w->user, from, to, 0, &err) < 0)
		note_failure(c, &err);
}

/* What was seen in a directory goes into the mailbox that it was then, wherever that is now. One
 * that is nowhere got another GUID where it is, or is gone. */
static void process_group(struct catch_up *c, const struct worker_group *group)
{
	const struct guid *guid = guid_is_empty(&group->guid) ? NULL : &group->guid;
	AUTO_FREE char *elsewhere = NULL;
	struct error err = {0};
	int rc = take_in_mended(c->w, group->name, group, guid, &err);
	const bool left = rc == -ENOENT;

	if (guid && (rc == -EXDEV || rc == -ENOENT)) {
		elsewhere = name_of(c->w, guid);
		if (elsewhere) {
			c->result->tree_changed = true;
			log_debug("what was seen in %s is of %s user=%s", group->dir, elsewhere,
				  c->w->user->name);
			if (left && group->unseen)
				log_found_renamed(c, group->name, elsewhere);
			rc = take_in_mended(c->w, elsewhere, group, guid, &err);
		}
		if (rc == -EXDEV)
			rc = take_in_mended(c->w, group->name, group, NULL, &err);
	}
	note_end(c, rc, &err);
}

static void scan_home(struct catch_up *c)
{
	struct worker_process *w = c->w;
	struct mailbox_tree tree;
	struct error err = {0};
	bool incomplete = false;

	if (mailbox_list_read(w->user, &tree, &incomplete, &err) < 0) {
		note_failure(c, &err);
		return;
	}
	c->result->tree_changed = true;
	for (size_t i = 0; i < tree.node_count; i++) {
		if (tree.nodes[i].exists && !guid_is_empty(&tree.nodes[i].guid))
			process_box(c, tree.nodes[i].name, NULL);
	}
	mailbox_tree_free(&tree);
	if (incomplete) {
		error_set(&err, -EIO, "user %s: some mailboxes could not be read", w->user->name);
		note_failure(c, &err);
	}
}

void worker_look_for_unclaimed(const struct worker_process *w)
{
	struct error err = {0};
	uint32_t count;

	if (mail_look_for_unclaimed(w->user, &count, &err) < 0)
		log_debug("%s", err.text);
}

/* ---- the tree ---- */

/* Whether Dovecot (or a sync) has put this into the mailbox log itself. */
static bool deletion_is_logged(struct worker_process *w, const struct guid *id, int64_t time)
{
	struct mailbox_log_record *records = NULL;
	struct error err = {0};
	bool found = false;
	size_t count = 0;

	if (mailbox_log_read(w->user, &records, &count, &err) < 0) {
		log_warning("%s", err.text);
		return false;
	}
	for (size_t i = 0; i < count && !found; i++)
		found = records[i].type == MAILBOX_LOG_DELETE_MAILBOX &&
			guid_equal(&records[i].id, id) &&
			records[i].time >= time - LOGGED_WITHIN_SECS;
	free(records);
	return found;
}

/* Whether the mailbox is there after all: where it was, unless another has the name by now, or
 * elsewhere. */
static bool is_there(struct worker_process *w, const char *name, const struct guid *guid)
{
	AUTO_FREE char *now = NULL;

	if (!mailbox_list_has(w->user, name))
		return false;
	if (guid_is_empty(guid))
		return true;
	now = name_of(w, guid);
	return now != NULL;
}

/* An inbox that is missing is never a deletion: it is a lost disk, or comes back with the next
 * mail. */
static void log_removed(struct catch_up *c, const char *name, const struct worker_event *event)
{
	struct worker_process *w = c->w;
	struct error err = {0};

	box_cache_forget(&w->boxes, w->user, name);
	if (strcmp(name, "INBOX") == 0 || is_there(w, name, &event->guid))
		return;
	report_gone(w, event->event.dir, &event->guid, true);
	if (!guid_is_empty(&event->guid) &&
	    mailbox_log_keep(w->user, &event->guid, event->event.time, &err) < 0)
		note_failure(c, &err);
	if (guid_is_empty(&event->guid) || deletion_is_logged(w, &event->guid, event->event.time))
		return;
	if (mailbox_list_log_deleted(w->user, name, &event->guid, event->event.time, &err) < 0)
		note_failure(c, &err);
}

/*
 * A worker's own is logged by itself, with the time of who did it. By now others may have had these
 * names since, so that it would be logged again, as newer than what the peer has: and the peer's
 * next rename would be undone. Where the worker was killed before it logged it, both have this
 * name.
 *
 * And it has told where it puts the mailbox; where it was another may be since, for which the event
 * may be taken.
 */
static void see_renamed_by_worker(struct catch_up *c, const char *to,
				  const struct worker_event *event)
{
	const struct worker_group group = {.scan = false};
	struct error err = {0};
	int rc = take_in_mended(c->w, to, &group, &event->guid, &err);

	if (rc == 0 && !guid_is_empty(&event->guid))
		report_gone(c->w, event->event.dir, &event->guid, false);
	if (rc == -EXDEV)
		rc = take_in_mended(c->w, to, &group, NULL, &err);
	note_end(c, rc, &err);
}

static void log_renamed(struct catch_up *c, const char *from, const char *to,
			const struct worker_event *event)
{
	struct worker_process *w = c->w;
	struct error err = {0};

	box_cache_forget(&w->boxes, w->user, from);
	box_cache_forget(&w->boxes, w->user, to);
	if (event->event.origin != 0) {
		see_renamed_by_worker(c, to, event);
		return;
	}
	report_gone(w, event->event.dir, &event->guid, false);
	/* By the time it is looked at it may be gone, and then which one it was counts. */
	if (!guid_is_empty(&event->guid))
		worker_report_place(w, event->event.name, &event->guid, true);
	if (mailbox_list_log_renamed(w->user, from, to, event->event.time, &err) < 0)
		note_failure(c, &err);
	process_box(c, to, &(struct worker_group){.scan = false});
}

static void process_tree_event(struct catch_up *c, const struct worker_event *event)
{
	AUTO_FREE char *from = NULL;
	AUTO_FREE char *to = NULL;

	c->result->tree_changed = true;
	if (event->event.kind == MAIL_EVENT_LIST_TOUCHED ||
	    event->event.kind == MAIL_EVENT_DIR_CREATED)
		return;
	if (mailbox_name_from_dir(c->w->user, event->event.dir, &from) < 0)
		from = NULL;
	if (event->event.kind == MAIL_EVENT_DIR_RENAMED &&
	    mailbox_name_from_dir(c->w->user, event->event.name, &to) < 0)
		to = NULL; /* the trash, or out of the mail root */
	if (from && to)
		log_renamed(c, from, to, event);
	else if (from)
		log_removed(c, from, event);
	else if (to)
		process_box(c, to, NULL);
}

static bool is_tree_event(enum mail_event_kind kind)
{
	return kind == MAIL_EVENT_DIR_CREATED || kind == MAIL_EVENT_DIR_RENAMED ||
	       kind == MAIL_EVENT_DIR_REMOVED || kind == MAIL_EVENT_LIST_TOUCHED;
}

void worker_catch_up(struct worker_process *w, const struct worker_events *events, bool scan,
		     struct worker_caught_up *result_r, struct error *err)
{
	struct catch_up c = {.w = w, .result = result_r, .err = err};
	bool scanned = false;

	*result_r = (struct worker_caught_up){.reason = ""};
	for (size_t i = 0; i < events->count; i++) {
		const struct worker_event *event = &events->list[i];

		log_debug("event %llu kind=%u dir=%s name=%s name2=%s origin=%u user=%s",
			  (unsigned long long)event->event.seq, event->event.kind, event->event.dir,
			  event->event.name, event->event.name2, event->event.origin,
			  w->user->name);
		if (event->event.kind == MAIL_EVENT_RESCAN_HOME)
			scan = true;
		scanned = scanned || event->event.kind == MAIL_EVENT_RESCAN;
		if (is_tree_event(event->event.kind))
			process_tree_event(&c, event);
		if ((!is_tree_event(event->event.kind) ||
		     event->event.kind == MAIL_EVENT_DIR_CREATED) &&
		    event->event.kind != MAIL_EVENT_RESCAN_HOME &&
		    worker_groups_add(&c.groups, w->user, event) < 0) {
			error_errno(err, -ENOMEM, "user %s", w->user->name);
			result_r->failed++;
		}
	}
	for (size_t i = 0; i < c.groups.count; i++) {
		const struct worker_group *group = &c.groups.list[i];

		if (group->name && (group->scan || group->count))
			process_group(&c, group);
	}
	if (scan)
		scan_home(&c);
	/* It counts all that the user has: not for each new mailbox. */
	if (scanned || scan)
		worker_look_for_unclaimed(w);
	worker_groups_free(&c.groups);
	if (result_r->failed)
		result_r->reason = err->text;
}
