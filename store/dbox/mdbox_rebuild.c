/*
 * Rebuilding a damaged mdbox storage (reference 4.6): the messages are found by reading the files,
 * and map and mailboxes are made to agree with what is there.
 *
 *   1. every m.N is read; whatever can be read of a damaged one is copied out of it
 *   2. every mailbox's records are matched with the messages, by GUID, else by map UID
 *   3. the map is written: places, reference counts, new map UIDs for messages it did not know
 *   4. the mailboxes are written: records of messages that are nowhere go, and a message that no
 *      mailbox has, but that had references or was not in the map, is put into the one it was first
 *      saved to
 *
 * All of it under the lock of the map, also of a damaged one, so that what is delivered meanwhile
 * waits; what is being added to a file is left alone. A damaged map is replaced by one that is
 * complete. Whoever is killed before the end leaves a mark (mdbox_rebuild_mark.c), by which it is
 * done again. Memory: about a hundred bytes a message.
 */
#include "store/dbox/mdbox_rebuild.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/index_files.h"

/* ---- 1: the files ---- */

struct reading {
	struct rebuild *rebuild;
	uint32_t file_id;
	bool alt, move, busy;
};

static char *intern(struct rebuild *rebuild, const char *name)
{
	for (size_t i = 0; i < rebuild->name_count; i++) {
		if (strcmp(rebuild->names[i], name) == 0)
			return rebuild->names[i];
	}
	char **grown = reallocarray(rebuild->names, rebuild->name_count + 1, sizeof *grown);

	if (!grown)
		return NULL;
	rebuild->names = grown;
	grown[rebuild->name_count] = strdup(name);
	return grown[rebuild->name_count] ? grown[rebuild->name_count++] : NULL;
}

static int add_message(void *ctx, const struct dbox_message *message)
{
	struct reading *reading = ctx;
	struct rebuild *rebuild = reading->rebuild;
	struct found *found;

	if (rebuild->count == rebuild->room) {
		size_t room = rebuild->room ? rebuild->room * 2 : 256;
		struct found *grown = reallocarray(rebuild->found, room, sizeof *grown);

		if (!grown)
			return -ENOMEM;
		rebuild->found = grown;
		rebuild->room = room;
	}
	/* What the map cannot say. */
	if (message->end > UINT32_MAX)
		return 0;
	found = &rebuild->found[rebuild->count];
	*found = (struct found){
		.entry = {.file_id = reading->file_id,
			  .offset = (uint32_t)message->offset,
			  .size = (uint32_t)(message->end - message->offset)},
		.size = (uint32_t)(message->end - message->offset),
		.alt = reading->alt,
		.move = reading->move,
		.busy = reading->busy,
		.received = message->metadata.received,
		.mailbox = intern(rebuild, message->metadata.mailbox),
	};
	if (!found->mailbox)
		return -ENOMEM;
	found->nameless = *message->metadata.guid == '\0';
	if (found->nameless)
		guid_generate(&found->guid);
	else
		guid_from_message_guid(message->metadata.guid, &found->guid);
	rebuild->count++;
	return 0;
}

/* Keeps the descriptor. */
static int note_broken(struct rebuild *rebuild, uint32_t file_id, bool alt, int *fd)
{
	struct broken *grown =
		reallocarray(rebuild->broken, rebuild->broken_count + 1, sizeof *grown);

	if (!grown)
		return -ENOMEM;
	rebuild->broken = grown;
	grown[rebuild->broken_count++] = (struct broken){.file_id = file_id, .alt = alt, .fd = *fd};
	*fd = -1;
	return 0;
}

static int read_file(struct rebuild *rebuild, int dirfd, const char *dir, uint32_t file_id,
		     bool alt, bool conflict, struct error *err)
{
	struct reading reading = {
		.rebuild = rebuild, .file_id = file_id, .alt = alt, .move = conflict};
	char name[16], what[4300];
	AUTO_CLOSE int fd = -1;
	uint64_t damaged;
	size_t first = rebuild->count;
	int rc;

	mdbox_file_name(file_id, name);
	snprintf(what, sizeof what, "%s/%s", dir, name);
	fd = dbox_file_open(dirfd, name, O_RDONLY);
	if (fd == -ENXIO) {
		log_warning("%s: is no file: there is no mail in it", what);
		if (file_id > rebuild->highest_file)
			rebuild->highest_file = file_id;
		fd = -1;
		rc = note_broken(rebuild, file_id, alt, &fd);
		return rc < 0 ? error_errno(err, rc, "%s", what) : 0;
	}
	if (fd < 0)
		return fd == -ENOENT ? 0 : error_errno(err, fd, "%s", what);
	/* A file's lock comes before the map's, which we have: who adds to it now waits for us. */
	reading.busy = flock(fd, LOCK_EX | LOCK_NB) < 0;
	rc = dbox_file_each(fd, what, add_message, &reading, &damaged, err);
	if (rc < 0)
		return error_errno(err, rc, "%s", what);
	if (reading.busy)
		damaged = 0; /* what is at its end is not complete yet */
	if (damaged)
		log_warning("%s: %" PRIu64 " bytes belong to no message; the %zu messages that can "
			    "be read are kept",
			    what, damaged, rebuild->count - first);
	if (damaged || conflict) {
		for (size_t i = first; i < rebuild->count; i++)
			rebuild->found[i].move = true;
		rc = note_broken(rebuild, file_id, alt, &fd);
	}
	if (file_id > rebuild->highest_file)
		rebuild->highest_file = file_id;
	return rc < 0 ? error_errno(err, rc, "%s", what) : 0;
}

static bool has_file(int dirfd, uint32_t file_id)
{
	char name[16];

	mdbox_file_name(file_id, name);
	return faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int read_files(struct rebuild *rebuild, int dirfd, const char *path, bool alt,
		      struct error *err)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir) {
		rc = error_errno(err, -errno, "%s", path);
		file_close(&fd);
		return rc;
	}
	while (rc == 0 && (errno = 0, entry = readdir(dir)) != NULL) {
		uint32_t id = mdbox_file_id(entry->d_name);

		if (id)
			rc = read_file(rebuild, fd, path, id, alt,
				       alt && has_file(rebuild->storage->dirfd, id), err);
	}
	return rc == 0 && errno ? error_errno(err, -errno, "%s: readdir", path) : rc;
}

static int by_guid(const void *a, const void *b)
{
	const struct found *x = a, *y = b;
	int cmp = guid_cmp(&x->guid, &y->guid);

	if (cmp == 0 && x->size != y->size)
		cmp = x->size < y->size ? -1 : 1;
	if (cmp == 0)
		cmp = x->entry.file_id < y->entry.file_id ? -1
							  : x->entry.file_id > y->entry.file_id;
	return cmp ? cmp : x->entry.offset < y->entry.offset ? -1 : 1;
}

static int read_storage(struct rebuild *rebuild, struct error *err)
{
	struct mdbox_storage *storage = rebuild->storage;
	int rc = read_files(rebuild, storage->dirfd, storage->path, false, err);

	/* Not there: what is in it would be taken for lost. */
	if (rc == 0 && storage->alt_path && storage->alt_fd < 0)
		rc = error_set(
			err, -ENOENT,
			"%s: the alternative storage is not there (not mounted?); nothing is "
			"rebuilt without it",
			storage->alt_path);
	if (rc == 0 && storage->alt_fd >= 0)
		rc = read_files(rebuild, storage->alt_fd, storage->alt_path, true, err);
	if (rc == 0 && rebuild->count)
		qsort(rebuild->found, rebuild->count, sizeof *rebuild->found, by_guid);
	return rc;
}

/* ---- 2: what the map and the mailboxes say ---- */

static struct found *find_guid(const struct rebuild *rebuild, const struct guid *guid)
{
	size_t low = 0, high = rebuild->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (guid_cmp(&rebuild->found[middle].guid, guid) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < rebuild->count && guid_equal(&rebuild->found[low].guid, guid)
		       ? &rebuild->found[low]
		       : NULL;
}

static struct found *find_map_uid(const struct rebuild *rebuild, uint32_t map_uid)
{
	uint32_t pos = uid_table_get(&rebuild->by_map_uid, map_uid);

	return pos ? &rebuild->found[pos - 1] : NULL;
}

static int by_place(const void *a, const void *b)
{
	const struct found *const *x = a, *const *y = b;

	if ((*x)->entry.file_id != (*y)->entry.file_id)
		return (*x)->entry.file_id < (*y)->entry.file_id ? -1 : 1;
	if ((*x)->entry.offset != (*y)->entry.offset)
		return (*x)->entry.offset < (*y)->entry.offset ? -1 : 1;
	return (int)(*x)->alt - (int)(*y)->alt;
}

/* A record of the map is kept where exactly that message was found. */
static int match_map(struct rebuild *rebuild, const struct index *map, struct error *err)
{
	AUTO_FREE struct found **places = NULL;
	struct index_record record;
	struct index_iter iter;

	places = calloc(rebuild->count + 1, sizeof(struct found *));
	if (!places)
		return error_errno(err, -ENOMEM, "%s", rebuild->storage->path);
	for (size_t i = 0; i < rebuild->count; i++)
		places[i] = &rebuild->found[i];
	qsort(places, rebuild->count, sizeof(struct found *), by_place);
	index_iter_init(map, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		struct found wanted = {0}, *key = &wanted, **match;

		mdbox_map_entry_of(map, &record, &wanted.entry);
		match = bsearch(&key, places, rebuild->count, sizeof(struct found *), by_place);
		if (!match) {
			wanted.alt = true;
			match = bsearch(&key, places, rebuild->count, sizeof(struct found *),
					by_place);
		}
		if (!match || (*match)->entry.size != wanted.entry.size || (*match)->entry.map_uid)
			continue;
		(*match)->entry.map_uid = record.uid;
		(*match)->was_dead = wanted.entry.ref == 0;
		if (uid_table_put(&rebuild->by_map_uid, record.uid,
				  (uint32_t)(*match - rebuild->found) + 1) < 0)
			return error_errno(err, -ENOMEM, "%s", rebuild->storage->path);
	}
	return 0;
}

struct found *mdbox_rebuild_find(const struct rebuild *rebuild, const struct guid *guid,
				 uint32_t map_uid)
{
	struct found *found = guid_is_empty(guid) ? NULL : find_guid(rebuild, guid);
	struct found *mapped = find_map_uid(rebuild, map_uid);

	if (!found) /* or the index knows another message under this map UID */
		return mapped && !mapped->nameless && !guid_is_empty(guid) ? NULL : mapped;
	/* Another one with this GUID, and not a copy of it. */
	return mapped && guid_equal(&mapped->guid, guid) && mapped->size != found->size ? mapped
											: found;
}

/* ---- 3: the map ---- */

static int by_map_uid(const void *a, const void *b)
{
	const struct found *const *x = a, *const *y = b;

	return (*x)->entry.map_uid < (*y)->entry.map_uid
		       ? -1
		       : (*x)->entry.map_uid > (*y)->entry.map_uid;
}

/* Out of a damaged file, or one whose number another has. */
static int move_message(struct rebuild *rebuild, struct mdbox_append *append, struct found *found,
			struct error *err)
{
	struct mdbox_storage *storage = rebuild->storage;
	struct dbox_message message;
	struct mdbox_entry moved;
	char name[16], what[4300];
	AUTO_CLOSE int fd = -1;
	int rc;

	mdbox_file_name(found->entry.file_id, name);
	snprintf(what, sizeof what, "%s/%s", found->alt ? storage->alt_path : storage->path, name);
	fd = openat(found->alt ? storage->alt_fd : storage->dirfd, name,
		    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, -errno, "%s", what);
	rc = dbox_message_read(fd, what, found->entry.offset, found->entry.size, &message, err);
	if (rc < 0)
		return rc;
	rc = mdbox_append_message(append, fd, message.body_offset, message.body_size,
				  &message.metadata, &moved, err);
	dbox_message_free(&message);
	moved.map_uid = found->entry.map_uid;
	moved.ref = found->entry.ref;
	found->entry = moved;
	return rc;
}

/* All found messages in the order of their map UIDs; new ones behind those that have one. */
static int order_by_map_uid(struct rebuild *rebuild, uint32_t next_uid, struct found ***order_r,
			    struct error *err)
{
	struct found **order = calloc(rebuild->count + 1, sizeof(struct found *));

	if (!order)
		return error_errno(err, -ENOMEM, "%s", rebuild->storage->path);
	for (size_t i = 0; i < rebuild->count; i++) {
		rebuild->found[i].is_new = rebuild->found[i].entry.map_uid == 0;
		if (rebuild->found[i].is_new)
			rebuild->found[i].entry.map_uid = next_uid++;
		order[i] = &rebuild->found[i];
	}
	qsort(order, rebuild->count, sizeof(struct found *), by_map_uid);
	*order_r = order;
	return 0;
}

/* fresh: the map is a new one, and has nothing yet. */
static int write_entries(struct rebuild *rebuild, struct index_txn *txn, bool fresh,
			 struct mdbox_append *append, struct found **order, struct error *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < rebuild->count; i++) {
		struct found *found = order[i];

		if (found->move)
			rc = move_message(rebuild, append, found, err);
		if (rc < 0)
			break;
		if (fresh || found->is_new)
			rc = mdbox_map_add(txn, &found->entry, err);
		else if (found->move)
			rc = mdbox_map_move(txn, &found->entry, err);
		if (rc == 0)
			rc = mdbox_map_set_ref(txn, found->entry.map_uid, found->entry.ref, err);
	}
	return rc;
}

static int expunge_unmatched(struct rebuild *rebuild, struct index_txn *txn, struct error *err)
{
	struct index_record record;
	struct index_iter iter;
	int rc = 0;

	index_iter_init(rebuild->storage->map, 1, &iter);
	while (rc == 0 && index_iter_next(&iter, &record)) {
		if (!find_map_uid(rebuild, record.uid))
			rc = index_expunge(txn, record.uid, NULL, err);
	}
	return rc;
}

int mdbox_rebuild_map(struct rebuild *rebuild, struct index_txn *txn, struct error *err)
{
	struct mdbox_storage *storage = rebuild->storage;
	AUTO_FREE struct found **order = NULL;
	struct mdbox_append *append = NULL;
	struct index_status status;
	bool fresh;
	uint32_t next_uid, highest = mdbox_map_highest_file(storage);
	bool committed = false;
	int rc;

	index_status(storage->map, &status);
	fresh = status.messages == 0;
	next_uid =
		status.next_uid > rebuild->next_map_uid ? status.next_uid : rebuild->next_map_uid;
	if (rebuild->highest_file > highest)
		highest = rebuild->highest_file;
	rc = order_by_map_uid(rebuild, next_uid, &order, err);
	if (rc == 0 && !fresh)
		rc = expunge_unmatched(rebuild, txn, err);
	if (rc == 0)
		rc = mdbox_append_begin(storage, txn, &append, err);
	if (rc == 0) {
		mdbox_append_only_new(append, highest);
		rc = write_entries(rebuild, txn, fresh, append, order, err);
	}
	if (rc == 0)
		rc = mdbox_map_set_highest_file(txn, highest, err);
	if (rc == 0)
		rc = mdbox_append_sync(append, err);
	if (rc == 0)
		rc = mdbox_map_set_rebuild_count(txn, rebuild->rebuild_count + 1, err);
	if (rc == 0)
		rc = index_commit_part(txn, true, err);
	committed = rc == 0;
	mdbox_append_end(&append, committed);
	return rc;
}

/* What could be read of them is elsewhere now. */
void mdbox_rebuild_set_aside(const struct rebuild *rebuild)
{
	const struct mdbox_storage *storage = rebuild->storage;

	for (size_t i = 0; i < rebuild->broken_count; i++) {
		int dirfd = rebuild->broken[i].alt ? storage->alt_fd : storage->dirfd;
		char name[16], broken[32];

		mdbox_file_name(rebuild->broken[i].file_id, name);
		snprintf(broken, sizeof broken, "%s.broken", name);
		if (renameat(dirfd, name, dirfd, broken) < 0)
			log_warning("%s/%s: rename: %s", storage->path, name, strerror(errno));
		else
			log_notice("%s/%s was damaged and is kept as %s", storage->path, name,
				   broken);
	}
}

/* ---- all of it ---- */

/* What is delivered from now on waits for us. *txn_r NULL: the map is damaged, and to be replaced.
 * One in which a writer has not finished is sound: ours finishes it. */
static int lock_map(struct rebuild *rebuild, struct index_txn **txn_r, struct error *err)
{
	struct mdbox_storage *storage = rebuild->storage;
	struct index_options options;
	int rc = storage->map ? index_begin(storage->map, -1, txn_r, err) : 0;

	if (rc == 0 && *txn_r && !mdbox_map_is_sound(storage))
		index_abort(txn_r);
	if ((rc < 0 && rc != -EUCLEAN) || *txn_r)
		return rc;
	mdbox_map_options(storage, &options);
	rebuild->lock_fd = index_lock_log(storage->index_fd, &options, err);
	return rebuild->lock_fd < 0 && rebuild->lock_fd != -ENOENT ? rebuild->lock_fd : 0;
}

/* In place of a damaged one, with what can be read of it. Its UIDVALIDITY is another: the map UIDs
 * that a mailbox knows are no longer what they were until it has been written, too. */
static int begin_new_map(struct rebuild *rebuild, struct index_txn **txn_r, struct error *err)
{
	struct mdbox_storage *storage = rebuild->storage;
	uint32_t uid_validity = (uint32_t)time(NULL);
	struct index_status status = {0};
	struct index_options options;
	struct index *old = NULL;
	int rc;

	log_warning("%s/%s: the map is made anew from the files", storage->index_path,
		    INDEX_NAME_MAP);
	mdbox_map_options(storage, &options);
	options.read_only = options.salvage = true;
	rc = index_open(storage->index_fd, &options, &old, err);
	if (rc < 0 && rc != -ENOENT && rc != -EUCLEAN)
		return rc;
	rc = 0;
	if (old) {
		index_status(old, &status);
		rebuild->next_map_uid = status.next_uid;
		rc = match_map(rebuild, old, err);
	}
	index_close(&old);
	if (status.uid_validity >= uid_validity)
		uid_validity = status.uid_validity + 1;
	if (rc == 0)
		rc = mdbox_map_begin_new(storage, uid_validity, err);
	return rc < 0 ? rc : mdbox_map_begin(storage, txn_r, err);
}

/* What somebody is about to add, and tells the map and a mailbox of when he gets the lock. */
static void leave_what_is_added(struct rebuild *rebuild)
{
	size_t kept = 0;

	for (size_t i = 0; i < rebuild->count; i++) {
		struct found *found = &rebuild->found[i];

		if (found->busy && !found->entry.map_uid)
			continue;
		if (found->entry.map_uid)
			uid_table_put(&rebuild->by_map_uid, found->entry.map_uid,
				      (uint32_t)kept + 1);
		rebuild->found[kept++] = *found;
	}
	rebuild->count = kept;
}

static int match(struct rebuild *rebuild, struct index_txn **txn, struct error *err)
{
	int rc;

	if (!*txn)
		return begin_new_map(rebuild, txn, err);
	rebuild->rebuild_count = mdbox_map_rebuild_count(rebuild->storage);
	rc = match_map(rebuild, rebuild->storage->map, err);
	if (rc == 0)
		leave_what_is_added(rebuild);
	return rc;
}

static int place_new_map(struct rebuild *rebuild, struct index_txn **txn, struct error *err)
{
	struct mdbox_storage *storage = rebuild->storage;
	int rc;

	index_abort(txn);
	rc = mdbox_map_place(storage, rebuild->lock_fd >= 0, err);
	if (rc == 0)
		rc = mdbox_map_begin(storage, txn, err);
	DBOX_STEP("rebuild: map placed");
	return rc;
}

static void rebuild_free(struct rebuild *rebuild)
{
	for (size_t i = 0; i < rebuild->name_count; i++)
		free(rebuild->names[i]);
	free(rebuild->names);
	for (size_t i = 0; i < rebuild->broken_count; i++)
		close(rebuild->broken[i].fd);
	free(rebuild->broken);
	free(rebuild->found);
	if (rebuild->lock_fd >= 0)
		close(rebuild->lock_fd);
	uid_table_free(&rebuild->by_map_uid);
	mdbox_storage_close(&rebuild->storage);
}

static int run(struct rebuild *rebuild, struct index_txn **txn, struct error *err)
{
	struct mdbox_storage *storage = rebuild->storage;
	int rc = lock_map(rebuild, txn, err);

	if (rc == 0)
		rc = read_storage(rebuild, err);
	if (rc == 0)
		rc = match(rebuild, txn, err);
	if (rc == 0)
		rc = mdbox_rebuild_count(rebuild, err);
	DBOX_STEP("rebuild: begun");
	if (rc == 0)
		rc = mdbox_rebuild_map(rebuild, *txn, err);
	DBOX_STEP("rebuild: map written");
	if (rc == 0 && storage->map_is_new)
		rc = place_new_map(rebuild, txn, err);
	if (rc == 0)
		rc = mdbox_rebuild_boxes(rebuild, err);
	DBOX_STEP("rebuild: mailboxes written");
	if (rc == 0)
		mdbox_rebuild_set_aside(rebuild);
	return rc;
}

int mdbox_rebuild(const struct mailbox_place *place, struct error *err)
{
	struct rebuild rebuild = {.place = place, .lock_fd = -1};
	struct index_txn *txn = NULL;
	int mark = -1, rc = dbox_storage_of_damaged(place, &rebuild.storage, err);

	if (rc < 0)
		return rc;
	rc = mdbox_rebuild_mark(rebuild.storage, &mark, err);
	if (rc == 1) {
		mdbox_storage_close(&rebuild.storage);
		return 0;
	}
	if (rc == 0)
		rc = run(&rebuild, &txn, err);
	index_abort(&txn);
	mdbox_map_discard_new(rebuild.storage);
	mdbox_rebuild_unmark(rebuild.storage, &mark, rc == 0);
	if (rc == 0)
		log_warning("%s: rebuilt: %zu messages, %zu of which no mailbox had",
			    rebuild.storage->path, rebuild.count, rebuild.orphans);
	rebuild_free(&rebuild);
	return rc;
}
