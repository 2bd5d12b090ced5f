/* See dbox_intent.h. */
#include "store/dbox/dbox_intent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/base/process.h"

#define INTENT_PREFIX ".temp.dsyncfs."
#define INTENT_FILE   "m."
#define INTENT_MAX    (64UL << 20)

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

int64_t dbox_now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + 1; /* never 0 */
}

void dbox_temporary_name(char *name_r, size_t size)
{
	static unsigned counter;
	struct timespec now;
	char host[65];

	host_name(host);
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(name_r, size, ".temp.%lld.P%ldQ%uM%ld.%s", (long long)now.tv_sec, (long)getpid(),
		 __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED), now.tv_nsec / 1000, host);
}

int dbox_intent_write(int dirfd, const char *path, const struct dbox_intent *intent,
		      char **intent_r, struct error *err)
{
	static unsigned counter;
	AUTO_BUF struct buf text = BUF_INIT(INTENT_MAX);
	AUTO_CLOSE int fd = -1;
	char host[65];
	int rc;

	*intent_r = NULL;
	host_name(host);
	buf_printf(&text, "%" PRIu32 "\n", intent->uid_validity);
	for (size_t i = 0; i < intent->count; i++)
		buf_printf(&text, "%" PRIu32 "\n", intent->uids[i]);
	for (size_t i = 0; i < intent->file_count; i++)
		buf_printf(&text, INTENT_FILE "%" PRIu32 "\n", intent->files[i]);
	if (text.failed)
		return error_errno(err, text.failed, "%s", path);
	if (asprintf(intent_r, INTENT_PREFIX "%ld.%u.%s", (long)getpid(),
		     __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED), host) < 0) {
		*intent_r = NULL;
		return error_errno(err, -ENOMEM, "%s", path);
	}
	fd = owned_file_create(dirfd, *intent_r, O_WRONLY | O_TRUNC);
	rc = fd < 0 ? fd : file_write_all(fd, text.data, text.len);
	/* Files are made rarely enough. */
	if (rc == 0 && intent->file_count && fdatasync(fd) < 0)
		rc = -errno;
	if (rc == 0)
		return 0;
	error_errno(err, rc, "%s/%s", path, *intent_r);
	if (fd >= 0)
		unlinkat(dirfd, *intent_r, 0);
	free(*intent_r);
	*intent_r = NULL;
	return rc;
}

void dbox_intent_remove(int dirfd, const char *path, char **intent)
{
	if (!*intent)
		return;
	if (unlinkat(dirfd, *intent, 0) < 0 && errno != ENOENT)
		log_warning("%s/%s: unlink: %s", path, *intent, strerror(errno));
	free(*intent);
	*intent = NULL;
}

/* ---- what dead writers left ---- */

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

static int add_number(struct dbox_numbers *numbers, unsigned long value)
{
	if (value == 0 || value >= UINT32_MAX)
		return 0;
	if (numbers->count == numbers->room) {
		size_t room = numbers->room ? numbers->room * 2 : 64;
		uint32_t *grown = reallocarray(numbers->list, room, sizeof *grown);

		if (!grown)
			return -ENOMEM;
		numbers->list = grown;
		numbers->room = room;
	}
	numbers->list[numbers->count++] = (uint32_t)value;
	return 0;
}

static int read_intent(int dirfd, const char *name, uint32_t uid_validity,
		       struct dbox_leftovers *left)
{
	AUTO_BUF struct buf text = BUF_INIT(INTENT_MAX);
	char *line, *save = NULL;
	int rc = file_read_at(dirfd, name, &text);
	bool first = true;

	if (rc == 0)
		rc = buf_append_byte(&text, '\0');
	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	for (line = strtok_r(text.data, "\n", &save); rc == 0 && line;
	     line = strtok_r(NULL, "\n", &save)) {
		bool file = strncmp(line, INTENT_FILE, strlen(INTENT_FILE)) == 0;
		unsigned long value = strtoul(file ? line + strlen(INTENT_FILE) : line, NULL, 10);

		/* Of one that was begun afresh since: nothing to correct. */
		if (first && (file || value != uid_validity))
			return 0;
		if (!first)
			rc = add_number(file ? &left->files : &left->uids, value);
		first = false;
	}
	return rc;
}

static void sort_numbers(struct dbox_numbers *numbers)
{
	size_t kept = 0;

	if (numbers->count)
		qsort(numbers->list, numbers->count, sizeof *numbers->list, uid_cmp);
	for (size_t i = 0; i < numbers->count; i++) {
		if (kept == 0 || numbers->list[kept - 1] != numbers->list[i])
			numbers->list[kept++] = numbers->list[i];
	}
	numbers->count = kept;
}

int dbox_leftovers_find(int dirfd, const char *path, uint32_t uid_validity,
			struct dbox_leftovers *leftovers_r, struct error *err)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	int rc = 0;

	*leftovers_r = (struct dbox_leftovers){0};
	buf_init(&leftovers_r->intents, 1UL << 20);
	if (!dir) {
		rc = error_errno(err, -errno, "%s", path);
		file_close(&fd);
		return rc;
	}
	while (rc == 0 && (entry = readdir(dir)) != NULL) {
		if (is_dead_intent(entry->d_name)) {
			rc = read_intent(dirfd, entry->d_name, uid_validity, leftovers_r);
			buf_append(&leftovers_r->intents, entry->d_name, strlen(entry->d_name) + 1);
		} else if (is_dead_file(entry->d_name) && unlinkat(dirfd, entry->d_name, 0) == 0) {
			log_debug("%s: removed %s, which was left over", path, entry->d_name);
		}
	}
	if (rc == 0)
		rc = leftovers_r->intents.failed;
	sort_numbers(&leftovers_r->uids);
	sort_numbers(&leftovers_r->files);
	return rc < 0 ? error_errno(err, rc, "%s", path) : 0;
}

void dbox_leftovers_done(int dirfd, struct dbox_leftovers *leftovers)
{
	for (size_t i = 0; i < leftovers->intents.len; i += strlen(leftovers->intents.data + i) + 1)
		unlinkat(dirfd, leftovers->intents.data + i, 0);
}

void dbox_leftovers_free(struct dbox_leftovers *leftovers)
{
	free(leftovers->uids.list);
	free(leftovers->files.list);
	buf_free(&leftovers->intents);
}
