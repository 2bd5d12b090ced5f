/* Places: the tree of known directories, and what names in them are. See place.h. */
#include "fs/place.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Deeper trees than this are not looked into for mail. */
#define PLACE_DEPTH_MAX 256

struct places {
	pthread_rwlock_t names; /* taken before `lock`: see places_names_lock() */
	pthread_mutex_t lock;	/* parents, names and reference counts of all places */
	struct place root;
	unsigned home_depth;
};

struct places *places_create(unsigned home_depth)
{
	struct places *places = calloc(1, sizeof *places);

	if (!places)
		return NULL;
	places->root.name = strdup("");
	if (!places->root.name) {
		free(places);
		return NULL;
	}
	pthread_rwlock_init(&places->names, NULL);
	pthread_mutex_init(&places->lock, NULL);
	places->root.refs = 1;
	places->home_depth = home_depth;
	return places;
}

void places_free(struct places **places)
{
	if (!*places)
		return;
	pthread_rwlock_destroy(&(*places)->names);
	pthread_mutex_destroy(&(*places)->lock);
	free((*places)->root.name);
	free(*places);
	*places = NULL;
}

unsigned places_home_depth(const struct places *places)
{
	return places->home_depth;
}

struct place *place_root(struct places *places)
{
	return &places->root;
}

struct place *place_child(struct places *places, struct place *parent, const char *name)
{
	struct place *place = calloc(1, sizeof *place);

	if (!place)
		return NULL;
	place->name = strdup(name);
	if (!place->name) {
		free(place);
		return NULL;
	}
	place->refs = 1;
	pthread_mutex_lock(&places->lock);
	place->parent = parent;
	parent->refs++;
	pthread_mutex_unlock(&places->lock);
	return place;
}

void place_ref(struct places *places, struct place *place)
{
	pthread_mutex_lock(&places->lock);
	place->refs++;
	pthread_mutex_unlock(&places->lock);
}

static void unref_locked(struct places *places, struct place *place)
{
	while (place && place != &places->root && --place->refs == 0) {
		struct place *parent = place->parent;

		free(place->name);
		free(place);
		place = parent;
	}
	if (place == &places->root)
		place->refs--;
}

void place_unref(struct places *places, struct place *place)
{
	if (!place)
		return;
	pthread_mutex_lock(&places->lock);
	unref_locked(places, place);
	pthread_mutex_unlock(&places->lock);
}

void places_names_lock(struct places *places)
{
	pthread_rwlock_rdlock(&places->names);
}

void places_names_unlock(struct places *places)
{
	pthread_rwlock_unlock(&places->names);
}

void places_rename_begin(struct places *places)
{
	pthread_rwlock_wrlock(&places->names);
}

void places_rename_end(struct places *places)
{
	pthread_rwlock_unlock(&places->names);
}

int place_move(struct places *places, struct place *place, struct place *new_parent,
	       const char *new_name)
{
	char *name = strdup(new_name);
	struct place *old_parent;

	if (!name)
		return -ENOMEM;
	pthread_mutex_lock(&places->lock);
	free(place->name);
	place->name = name;
	old_parent = place->parent;
	new_parent->refs++;
	place->parent = new_parent;
	unref_locked(places, old_parent);
	pthread_mutex_unlock(&places->lock);
	return 0;
}

void place_swap(struct places *places, struct place *a, struct place *b)
{
	struct place *parent;
	char *name;

	pthread_mutex_lock(&places->lock);
	parent = a->parent;
	a->parent = b->parent;
	b->parent = parent;
	name = a->name;
	a->name = b->name;
	b->name = name;
	pthread_mutex_unlock(&places->lock);
}

bool place_is_below(struct places *places, const struct place *place, const struct place *top)
{
	bool below = false;

	pthread_mutex_lock(&places->lock);
	for (; place && !below; place = place->parent)
		below = place == top;
	pthread_mutex_unlock(&places->lock);
	return below;
}

bool place_role_is_mailbox(enum place_role role)
{
	return role == PLACE_CUR || role == PLACE_MAILS;
}

bool place_role_is_part(enum place_role role)
{
	return role == PLACE_CUR || role == PLACE_NEW || role == PLACE_TMP || role == PLACE_MAILS;
}

static bool is_mails(const char *name)
{
	return strcmp(name, "dbox-Mails") == 0;
}

static bool is_maildir_part(const char *name)
{
	return strcmp(name, "cur") == 0 || strcmp(name, "new") == 0 || strcmp(name, "tmp") == 0;
}

static enum place_role part_role(const char *name)
{
	return name[0] == 'c'	? PLACE_CUR
	       : name[0] == 'n' ? PLACE_NEW
	       : name[0] == 't' ? PLACE_TMP
				: PLACE_MAILS;
}

/* The first of names[from..to) that is a part of a mailbox, else `to`. In dbox a mailbox may have
 * the name of a part of Maildir: then its own part tells. */
static unsigned find_part(const char *const *names, unsigned from, unsigned to)
{
	unsigned part = from;

	while (part < to && !is_mails(names[part]))
		part++;
	if (part < to)
		return part;
	for (part = from; part < to && !is_maildir_part(names[part]);)
		part++;
	return part;
}

/* Joins names[from..to) with '/' at *pos. Returns false when it does not fit. */
static bool join(struct place_path *path, size_t *pos, const char *const *names, unsigned from,
		 unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		size_t len = strlen(names[i]);

		if (*pos + len + 2 > sizeof path->text)
			return false;
		if (i > from)
			path->text[(*pos)++] = '/';
		memcpy(path->text + *pos, names[i], len);
		*pos += len;
	}
	if (*pos >= sizeof path->text)
		return false;
	path->text[(*pos)++] = '\0';
	return true;
}

/* extra: the name of a directory below place that is asked about, or NULL for place itself. */
static void locate(struct places *places, struct place *place, const char *extra,
		   struct place_path *path)
{
	const char *names[PLACE_DEPTH_MAX];
	const struct place *up;
	unsigned count = 0, home = places->home_depth, part;
	size_t pos = 1, dir;

	path->box = NULL;
	path->depth = 0;
	path->text[0] = '\0';
	path->home = path->dir = path->text;
	pthread_mutex_lock(&places->lock);
	for (up = place; up->parent; up = up->parent)
		count++;
	if (extra)
		count++;
	path->role = PLACE_INSIDE;
	if (count > PLACE_DEPTH_MAX)
		goto out;
	part = count;
	if (extra)
		names[--part] = extra;
	for (up = place; up->parent; up = up->parent)
		names[--part] = up->name;
	if (count < home) {
		if (join(path, &pos, names, 0, count)) {
			path->role = PLACE_ABOVE;
			path->home = path->text + 1;
		}
		goto out;
	}
	path->depth = count - home;
	part = find_part(names, home, count);
	if (part + 1 < count)
		goto out;
	/* part is now the end of the mailbox directory's path */
	if (!join(path, &pos, names, 0, home))
		goto out;
	dir = pos;
	if (!join(path, &pos, names, home, part))
		goto out;
	path->home = path->text + 1;
	path->dir = path->text + dir;
	path->role = part < count ? part_role(names[part]) : PLACE_DIR;
	path->box = path->role == PLACE_DIR || extra ? place : place->parent;
	path->box->refs++;
out:
	pthread_mutex_unlock(&places->lock);
}

void place_locate(struct places *places, struct place *place, struct place_path *path_r)
{
	locate(places, place, NULL, path_r);
}

void place_locate_child(struct places *places, struct place *parent, const char *name,
			struct place_path *path_r)
{
	locate(places, parent, name, path_r);
}

void place_release(struct places *places, struct place_path *path)
{
	place_unref(places, path->box);
	path->box = NULL;
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static enum place_file dovecot_file_kind(const char *name)
{
	if (strcmp(name, "dovecot-uidlist") == 0)
		return PLACE_FILE_UIDLIST;
	if (strcmp(name, "dovecot-uidlist.lock") == 0)
		return PLACE_FILE_UIDLIST_LOCK;
	if (strcmp(name, "dovecot-keywords") == 0)
		return PLACE_FILE_KEYWORDS;
	if (starts_with(name, "dovecot.index.log"))
		return PLACE_FILE_INDEX_LOG;
	if (starts_with(name, "dovecot.mailbox.log"))
		return PLACE_FILE_MAILBOX_LOG;
	if (strstr(name, ".index.log"))
		return PLACE_FILE_OTHER_LOG;
	return PLACE_FILE_OTHER;
}

/* "m.17", or ".temp.1795.P44Q1M2.host", which is renamed to that while it is open. */
static bool is_shared(const char *name)
{
	if (starts_with(name, ".temp."))
		return true;
	return starts_with(name, "m.") && name[2] &&
	       strspn(name + 2, "0123456789") == strlen(name + 2);
}

enum place_file place_file_kind(enum place_role role, const char *name)
{
	switch (role) {
	case PLACE_CUR:
	case PLACE_NEW:
		return name[0] == '.' ? PLACE_FILE_OTHER : PLACE_FILE_MESSAGE;
	case PLACE_TMP:
		return PLACE_FILE_TMP;
	case PLACE_DIR:
	case PLACE_MAILS:
		if (starts_with(name, "dovecot"))
			return dovecot_file_kind(name);
		if (strcmp(name, "subscriptions") == 0)
			return PLACE_FILE_SUBSCRIPTIONS;
		if (is_shared(name))
			return PLACE_FILE_SHARED;
		return PLACE_FILE_OTHER;
	case PLACE_ABOVE:
	case PLACE_INSIDE:
		break;
	}
	return PLACE_FILE_OTHER;
}

bool place_file_is_log(enum place_file kind)
{
	return kind == PLACE_FILE_INDEX_LOG || kind == PLACE_FILE_OTHER_LOG ||
	       kind == PLACE_FILE_MAILBOX_LOG;
}

bool place_file_is_ours(enum place_file kind)
{
	return place_file_is_log(kind) || place_file_is_watched(kind) || kind == PLACE_FILE_SHARED;
}

bool place_file_is_watched(enum place_file kind)
{
	return kind == PLACE_FILE_UIDLIST || kind == PLACE_FILE_KEYWORDS ||
	       kind == PLACE_FILE_INDEX_LOG || kind == PLACE_FILE_SUBSCRIPTIONS ||
	       kind == PLACE_FILE_MAILBOX_LOG;
}
