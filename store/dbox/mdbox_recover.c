/*
 * What a killed writer leaves: temporary files, and reference counts that are too high. See
 * mdbox_storage.h.
 *
 * An intent is a file "storage/.temp.dsyncfs.<pid>.<number>.<host>" with the map's UIDVALIDITY and
 * map UIDs, a number a line. It is not synced: a kill does not lose it, and after a power cut
 * counts that are too high are put right by the next purge.
 */
#include "store/dbox/mdbox_storage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/base/process.h"

#define INTENT_PREFIX ".temp.dsyncfs."
#define INTENT_MAX    (16UL << 20)

static void host_name(char host_r[65])
{
	if (gethostname(host_r, 64) < 0)
		snprintf(host_r, 65, "localhost");
	host_r[64] = '\0';
	for (char *p = host_r; *p; p++) {
		if (*p == '/')
			*p = '_';
	}
}

int mdbox_intent_write(struct mdbox_storage *storage, const uint32_t *map_uids, size_t count,
		       char **intent_r, struct error *err)
{
	static unsigned counter;
	AUTO_BUF struct buf text = BUF_INIT(INTENT_MAX);
	AUTO_CLOSE int fd = -1;
	char host[65];
	int rc;

	*intent_r = NULL;
	host_name(host);
	buf_printf(&text, "%" PRIu32 "\n", mdbox_storage_uid_validity(storage));
	for (size_t i = 0; i < count; i++)
		buf_printf(&text, "%" PRIu32 "\n", map_uids[i]);
	if (text.failed)
		return error_errno(err, text.failed, "%s", storage->path);
	if (asprintf(intent_r, INTENT_PREFIX "%ld.%u.%s", (long)getpid(),
		     __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED), host) < 0) {
		*intent_r = NULL;
		return error_errno(err, -ENOMEM, "%s", storage->path);
	}
	fd = owned_file_create(storage->dirfd, *intent_r, O_WRONLY | O_TRUNC);
	rc = fd < 0 ? fd : file_write_all(fd, text.data, text.len);
	if (rc == 0)
		return 0;
	error_errno(err, rc, "%s/%s", storage->path, *intent_r);
	if (fd >= 0)
		unlinkat(storage->dirfd, *intent_r, 0);
	free(*intent_r);
	*intent_r = NULL;
	return rc;
}

void mdbox_intent_remove(struct mdbox_storage *storage, char **intent)
{
	if (!*intent)
		return;
	if (unlinkat(storage->dirfd, *intent, 0) < 0 && errno != ENOENT)
		log_warning("%s/%s: unlink: %s", storage->path, *intent, strerror(errno));
	free(*intent);
	*intent = NULL;
}

/* ---- recovery ---- */

/* "<number>.<...>.<host>" of this host, whose process is dead. */
static bool is_dead(const char *pid_text, const char *name)
{
	char host[65], *end;
	size_t len, host_len;
	long pid = strtol(pid_text, &end, 10);

	host_name(host);
	len = strlen(name);
	host_len = strlen(host);
	if (end == pid_text || pid <= 0 || pid > INT_MAX || len < host_len + 1 ||
	    strcmp(name + len - host_len, host) != 0 || name[len - host_len - 1] != '.')
		return false;
	return !process_is_alive((pid_t)pid);
}

static bool is_dead_intent(const char *name)
{
	return strncmp(name, INTENT_PREFIX, strlen(INTENT_PREFIX)) == 0 &&
	       is_dead(name + strlen(INTENT_PREFIX), name);
}

/* ".temp.<seconds>.P<pid>Q...": a new file that was not named yet, ours or Dovecot's. */
static bool is_dead_file(const char *name)
{
	const char *pid;

	if (strncmp(name, ".temp.", 6) != 0 || name[6] < '0' || name[6] > '9')
		return false;
	pid = strstr(name, ".P");
	return pid && is_dead(pid + 2, name);
}

static int uid_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

struct uids {
	uint32_t *list;
	size_t count, room;
};

static int add_uid(struct uids *uids, uint32_t uid)
{
	if (uids->count == uids->room) {
		size_t room = uids->room ? uids->room * 2 : 64;
		uint32_t *grown = reallocarray(uids->list, room, sizeof *grown);

		if (!grown)
			return -ENOMEM;
		uids->list = grown;
		uids->room = room;
	}
	uids->list[uids->count++] = uid;
	return 0;
}

static int read_intent(struct mdbox_storage *storage, const char *name, struct uids *uids)
{
	AUTO_BUF struct buf text = BUF_INIT(INTENT_MAX);
	char *line, *save = NULL;
	int rc = file_read_at(storage->dirfd, name, &text);
	bool first = true;

	if (rc < 0 || !text.data)
		return rc == -ENOENT ? 0 : rc;
	for (line = strtok_r(text.data, "\n", &save); rc == 0 && line;
	     line = strtok_r(NULL, "\n", &save)) {
		unsigned long value = strtoul(line, NULL, 10);

		/* Of a storage that was begun afresh since: nothing to correct. */
		if (first && value != mdbox_storage_uid_validity(storage))
			return 0;
		if (!first && value > 0 && value < UINT32_MAX)
			rc = add_uid(uids, (uint32_t)value);
		first = false;
	}
	return rc;
}

static void sort_uids(struct uids *uids)
{
	size_t kept = 0;

	if (uids->count)
		qsort(uids->list, uids->count, sizeof *uids->list, uid_cmp);
	for (size_t i = 0; i < uids->count; i++) {
		if (kept == 0 || uids->list[kept - 1] != uids->list[i])
			uids->list[kept++] = uids->list[i];
	}
	uids->count = kept;
}

/* Under the map's lock: nobody adds or drops a reference meanwhile. */
static int correct_refs(struct mdbox_storage *storage, struct index_txn *txn, struct uids *uids,
			struct error *err)
{
	AUTO_FREE uint32_t *refs = NULL;
	size_t corrected = 0;
	int rc;

	sort_uids(uids);
	refs = calloc(uids->count ? uids->count : 1, sizeof *refs);
	if (!refs)
		return error_errno(err, -ENOMEM, "%s", storage->path);
	rc = mdbox_count_refs(storage, uids->list, uids->count, refs, err);
	for (size_t i = 0; rc == 0 && i < uids->count; i++) {
		struct mdbox_entry entry;

		if (mdbox_map_find(storage, uids->list[i], &entry) < 0 || entry.ref == refs[i] ||
		    refs[i] > MDBOX_REF_MAX)
			continue;
		rc = mdbox_map_set_ref(txn, entry.map_uid, (uint16_t)refs[i], err);
		corrected++;
	}
	if (rc == 0 && corrected)
		log_notice("%s: corrected %zu reference counts that a dead writer left",
			   storage->path, corrected);
	return rc;
}

static int collect(struct mdbox_storage *storage, struct uids *uids, struct buf *intents,
		   struct error *err)
{
	int fd = openat(storage->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	int rc = 0;

	if (!dir) {
		rc = error_errno(err, -errno, "%s", storage->path);
		file_close(&fd);
		return rc;
	}
	while (rc == 0 && (entry = readdir(dir)) != NULL) {
		if (is_dead_intent(entry->d_name)) {
			rc = read_intent(storage, entry->d_name, uids);
			buf_append(intents, entry->d_name, strlen(entry->d_name) + 1);
		} else if (is_dead_file(entry->d_name) &&
			   unlinkat(storage->dirfd, entry->d_name, 0) == 0) {
			log_debug("%s: removed %s, which was left over", storage->path,
				  entry->d_name);
		}
	}
	if (rc == 0)
		rc = intents->failed;
	return rc < 0 ? error_errno(err, rc, "%s", storage->path) : 0;
}

int mdbox_recover(struct mdbox_storage *storage, struct error *err)
{
	AUTO_BUF struct buf intents = BUF_INIT(1UL << 20);
	struct uids uids = {0};
	struct index_txn *txn = NULL;
	int rc;

	if (storage->recovered)
		return 0;
	rc = collect(storage, &uids, &intents, err);
	if (rc == 0 && intents.len) {
		rc = mdbox_map_begin(storage, &txn, err);
		if (rc == 0)
			rc = correct_refs(storage, txn, &uids, err);
		if (rc == 0)
			rc = index_commit(&txn, true, err);
		else
			index_abort(&txn);
	}
	for (size_t i = 0; rc == 0 && i < intents.len; i += strlen(intents.data + i) + 1)
		unlinkat(storage->dirfd, intents.data + i, 0);
	free(uids.list);
	storage->recovered = rc == 0;
	return rc;
}
