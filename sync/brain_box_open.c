/*
 * One mailbox: opening it, what it says of itself in B, and its failures.
 *
 * One that is damaged is rebuilt, but for the source of a backup: a rebuild would leave nothing by
 * which the next backup could tell lost from expunged.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/log.h"
#include "sync/box_cache.h"
#include "sync/brain_private.h"

void box_again(struct box *box, const char *why)
{
	box->again = true;
	brain_again(box->brain, box->name, why);
}

/* Where what is not in our list is removed: a mailbox that has lost mail is not to be copied, and a
 * rebuild would leave nothing by which the next backup could tell lost from expunged. */
static bool is_backup_source(const struct brain *brain)
{
	return brain->way == SYNC_TO_PEER && !brain->keeps;
}

static int refuse_to_copy(int code, struct error *err)
{
	error_prefix(err,
		     "damaged, and a backup does not mend its source (dsync mirror and doveadm "
		     "force-resync do); the copy stays as it is");
	return code;
}

static int check_whole(struct box *box, struct error *err)
{
	size_t count = 0;
	bool changed;
	int ret = mailbox_scan(box->mailbox, &changed, &count, err);

	if (ret < 0 || count == 0)
		return ret;
	return refuse_to_copy(error_set(err, -EIO,
					"%zu messages have no file that can be read, "
					"the first is UID %u",
					count, *mailbox_missing(box->mailbox, &count)),
			      err);
}

void box_fail(struct box *box, int code, const struct error *err)
{
	struct error rebuild_err = {0};

	if (box->failed != 0)
		return;
	box->failed = code;
	if (code == -EUCLEAN && is_backup_source(box->brain)) {
		rebuild_err = *err;
		brain_failed(box->brain, box->name, refuse_to_copy(code, &rebuild_err),
			     &rebuild_err);
		return;
	}
	if (code == -EUCLEAN) {
		log_warning("%s: rebuilding it user=%s mailbox=%s", err->text,
			    box->brain->user->name, box->name);
		/* The object shows what was damaged; the next session opens it anew. */
		int ret = mailbox_rebuild(box->brain->user, box->name, &rebuild_err);
		if (ret == 0) {
			box_again(box, "it was damaged and has been rebuilt");
			return;
		}
		brain_failed(box->brain, box->name, ret, &rebuild_err);
		return;
	}
	if (code == -ESTALE) {
		box_again(box, "it was replaced or deleted meanwhile");
		return;
	}
	brain_failed(box->brain, box->name, code, err);
}

static int open_mailbox(struct box *box, struct error *err)
{
	const struct mail_user *user = box->brain->user;
	struct mailbox *mailbox = NULL;
	int ret = box_cache_take(box->brain->options->cache, user, box->name, &mailbox, err);

	if (ret == -EUCLEAN && !is_backup_source(box->brain)) {
		log_warning("%s: rebuilding it user=%s mailbox=%s",
			    err != NULL ? err->text : "damaged", user->name, box->name);
		ret = mailbox_rebuild(user, box->name, err);
		if (ret == 0)
			ret = mailbox_open(user, box->name, &mailbox, err);
	}
	if (ret == 0)
		ret = mailbox_settle(mailbox, err);
	if (ret < 0)
		mailbox_close(&mailbox);
	box->mailbox = mailbox;
	return ret;
}

void box_close(struct box *box, int ret)
{
	export_free(&box->export);
	import_free(&box->import);
	blocks_free(&box->blocks);
	box_attributes_free(&box->attributes);
	mailbox_changes_free(&box->changes);
	if (ret == 0 && box->failed == 0)
		box_cache_put(box->brain->options->cache, box->brain->user, &box->mailbox);
	else
		mailbox_close(&box->mailbox);
	free(box->name);
}

int box_open(struct box *box, struct brain *brain, const char *name, const struct guid *guid,
	     struct error *err)
{
	*box = (struct box){.brain = brain, .name = strdup(name)};
	if (box->name == NULL)
		return error_errno(err, -ENOMEM, "mailbox %s", name);
	const struct sync_host *host = brain->host;
	if (host->may_sync != NULL && !host->may_sync(host->ctx, name)) {
		box->held = true;
		return error_set(err, -EBUSY,
				 "what happened to its mail could not be taken in yet");
	}
	int ret = open_mailbox(box, err);
	if (ret < 0)
		return ret;
	box->status = *mailbox_status(box->mailbox);
	box->guid = box->status.guid;
	/* Where nothing is changed it may be the one that it would take. */
	if (guid != NULL && brain->check_only)
		box->guid = *guid;
	if (guid != NULL && !guid_equal(guid, &box->guid))
		return error_set(err, -ESTALE, "mailbox %s has another GUID now", name);
	return 0;
}

static int use_saved_state(struct box *box, struct error *err)
{
	const struct sync_host *host = box->brain->host;
	const struct sync_mailbox_state *saved = brain_saved_state(box->brain, &box->status.guid);

	box->has_saved = saved != NULL && saved->uid_validity == box->status.uid_validity &&
			 saved->common_uid < box->status.uid_next &&
			 saved->acked_modseq <= box->status.highest_modseq;
	if (box->has_saved)
		box->saved = *saved;
	if (box->has_saved || saved == NULL || box->brain->check_only)
		return 0;
	/* Of a mailbox that has gone back since. By the time that this session has filled it up, in
	 * part perhaps, nothing would show that any more. */
	host->forget(host->ctx, &box->brain->peer, &box->status.guid, false);
	return host->settle != NULL ? host->settle(host->ctx, err) : 0;
}

static void fill_own_item(struct box *box)
{
	const struct mailbox_status *status = &box->status;

	box->own = (struct item_mailbox){
		.mailbox_guid = box->guid,
		.uid_validity = status->uid_validity,
		.uid_next = status->uid_next,
		.messages_count = status->messages,
		.first_recent_uid = status->first_recent_uid,
		.highest_modseq = status->highest_modseq,
		.have_guids = true,
		.have_save_guids = true,
	};
	box->import.expected_uid_next = status->uid_next;
	box->import.expected_uid_validity = status->uid_validity;
	box->import.expected_modseq = status->highest_modseq;
}

/* Messages without a file are found where everything is compared. */
static int scan(struct box *box, struct error *err)
{
	size_t missing;
	bool changed;
	int ret = mailbox_scan(box->mailbox, &changed, &missing, err);

	box->status = *mailbox_status(box->mailbox);
	if (ret < 0)
		return ret;
	/* A file that somebody has just removed is not to be put back. */
	const struct sync_host *host = box->brain->host;
	if (missing == 0 || host->explain_missing == NULL)
		return 0;
	ret = host->explain_missing(host->ctx, box->name, box->mailbox, err);
	if (ret > 0)
		box_again(box, "files are missing, and what happened to them is not known yet");
	box->scanned = ret == 0;
	return ret < 0 ? ret : 0;
}

static uint32_t reached_uid(const struct sync_mailbox_state *saved, uint32_t uid_next)
{
	bool reached = saved->common_uid > 0 && saved->reached_uid > saved->common_uid &&
		       saved->reached_uid < uid_next;

	return reached ? saved->reached_uid : 0;
}

/* Between two dsyncfs nodes. The state is said in B, and counts when the peer's fits. */
static int prepare_dsyncfs(struct box *box, struct error *err)
{
	/* Where nothing is agreed on, be it that the state is in doubt, everything is compared. */
	bool use_state =
		box->has_saved && box->saved.common_uid > 0 && box->brain->type != SYNC_FULL;
	bool reaches = false;

	if (!use_state) {
		int ret = scan(box, err);
		if (ret < 0)
			return ret;
	}
	box->since = use_state ? box->saved.acked_modseq : 0;
	/* Of a whole mailbox they are many, and not wanted where it fills the peer's. */
	box->has_changes = use_state;
	int ret = use_state ? box_load_changes(box, &reaches, err) : 0;
	if (ret < 0)
		return ret;
	fill_own_item(box);
	box->own.common_uid = use_state && reaches ? box->saved.common_uid : 0;
	if (box->has_saved) {
		box->own.acked_modseq = box->saved.acked_modseq;
		box->own.peer_modseq = box->saved.peer_modseq;
		box->own.agreed_uid = box->saved.common_uid;
		box->own.reached_uid = reached_uid(&box->saved, box->status.uid_next);
	}
	box->own.owed = !box->has_saved || box->status.highest_modseq != box->saved.acked_modseq ||
			box->status.uid_next != box->saved.common_uid + 1;
	box->own.fill_from = fill_from(box);
	box->own.block_uids = blocks_uids(box->brain);
	return 0;
}

/* With Dovecot. -ERANGE: the state that went over the wire cannot be used here. */
static int prepare_dovecot(struct box *box, struct error *err)
{
	const struct item_state *wire = brain_wire_state(box->brain, &box->status.guid);
	bool reaches;

	box->has_changes = true;
	fill_own_item(box);
	if (wire != NULL) {
		bool master = box->brain->role == SYNC_MASTER;

		if (wire->last_uidvalidity != box->status.uid_validity ||
		    wire->last_common_uid >= box->status.uid_next || (master && !box->has_saved))
			return -ERANGE;
		box->since = master ? box->saved.acked_modseq : wire->last_common_modseq;
		if (box->since > box->status.highest_modseq)
			return -ERANGE;
		box->common_uid = wire->last_common_uid;
		box->stateful = wire->last_common_uid != 0 || wire->last_common_modseq != 0;
	}
	int ret = box_load_changes(box, &reaches, err);
	if (ret == 0 && box->stateful && !reaches)
		return -ERANGE;
	return ret;
}

int box_prepare(struct box *box, struct error *err)
{
	int ret = is_backup_source(box->brain) ? check_whole(box, err) : 0;

	if (ret == 0)
		ret = use_saved_state(box, err);
	if (ret < 0)
		return ret;
	return brain_mode(box->brain) == MERGE_DSYNCFS ? prepare_dsyncfs(box, err)
						       : prepare_dovecot(box, err);
}

int box_make_anew(struct box *box, struct error *err)
{
	const struct mail_user *user = box->brain->user;
	const struct guid guid = box->status.guid;

	mailbox_close(&box->mailbox);
	int ret = mailbox_list_delete(user, box->name, &guid, err);
	if (ret == 0)
		ret = mailbox_list_create(user, box->name, &guid, box->peer.uid_validity, err);
	if (ret == 0)
		ret = mailbox_open(user, box->name, &box->mailbox, err);
	if (ret < 0)
		return ret;
	box->status = *mailbox_status(box->mailbox);
	box->guid = box->status.guid;
	mailbox_changes_free(&box->changes);
	export_free(&box->export);
	fill_own_item(box);
	return 0;
}
