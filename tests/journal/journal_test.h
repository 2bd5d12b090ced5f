/* What the journal's tests share: a state_dir of their own, events, and a reader's view of them. */
#ifndef DSYNCFS_TESTS_JOURNAL_TEST_H
#define DSYNCFS_TESTS_JOURNAL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/journal/journal.h"
#include "store/journal/peer_journal.h"

struct seen_event {
	uint64_t seq;
	enum mail_event_kind kind;
	uint32_t origin;
	char home[64], dir[64], name[64], name2[64];
};

struct seen {
	struct seen_event *events;
	size_t count;
	struct guid id;
};

static inline void state_dir_make(char path_r[64])
{
	strcpy(path_r, "/tmp/dsyncfs-journal.XXXXXX");
	assert_non_null(mkdtemp(path_r));
}

static inline void state_dir_remove(const char *path)
{
	const char *base = strrchr(path, '/') + 1;
	int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(file_remove_tree(tmp, base), 0);
	close(tmp);
}

static inline int see_event(void *ctx, const struct mail_event *event)
{
	struct seen *seen = ctx;
	struct seen_event *e;

	seen->events = realloc(seen->events, (seen->count + 1) * sizeof *seen->events);
	assert_non_null(seen->events);
	e = &seen->events[seen->count++];
	e->seq = event->seq;
	e->kind = event->kind;
	e->origin = event->origin;
	snprintf(e->home, sizeof e->home, "%s", event->home);
	snprintf(e->dir, sizeof e->dir, "%s", event->dir);
	snprintf(e->name, sizeof e->name, "%s", event->name);
	snprintf(e->name2, sizeof e->name2, "%s", event->name2);
	return 0;
}

/* All events behind a position, as dsyncd would read them. The writer must not be open in this
 * process. */
static inline void read_all(const char *state_dir, uint64_t after, struct seen *seen_r)
{
	struct journal_reader *reader;
	struct error err = {0};
	size_t before;

	memset(seen_r, 0, sizeof *seen_r);
	if (journal_reader_open(state_dir, &reader, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(journal_reader_id(reader, &seen_r->id, &err), 0);
	do {
		before = seen_r->count;
		if (before)
			after = seen_r->events[before - 1].seq;
		if (journal_reader_each(reader, after, 100, see_event, seen_r, &err) != 0)
			fail_msg("%s", err.text);
	} while (seen_r->count > before);
	journal_reader_close(&reader);
	assert_null(reader);
}

static inline struct mail_event event_of(enum mail_event_kind kind, const char *home,
					 const char *dir, const char *name)
{
	return (struct mail_event){
		.kind = kind, .home = home, .dir = dir, .name = name, .name2 = ""};
}

static inline void push(struct journal *journal, enum mail_event_kind kind, const char *home,
			const char *dir, const char *name)
{
	struct mail_event event = event_of(kind, home, dir, name);

	journal_push(journal, &event, 0);
}

/* Returns when all that was pushed before is durable, or the marker stands in. */
static inline void barrier(struct journal *journal)
{
	static unsigned count;
	char dir[32];

	snprintf(dir, sizeof dir, "barrier%u.%d", count++, (int)getpid());
	journal_wait(journal, journal_dirty_begin(journal, "barrier", dir));
}

static inline struct journal *open_journal(const char *state_dir, bool *clean_r)
{
	struct journal *journal;
	struct error err = {0};

	if (journal_open(state_dir, &journal, clean_r, &err) != 0)
		fail_msg("%s", err.text);
	return journal;
}

/* How many names in state_dir/journal start so. */
static inline unsigned count_names(const char *state_dir, const char *prefix)
{
	char path[128];
	unsigned count = 0;
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof path, "%s/journal", state_dir);
	dir = opendir(path);
	assert_non_null(dir);
	while ((entry = readdir(dir)) != NULL)
		count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
	closedir(dir);
	return count;
}

#endif
