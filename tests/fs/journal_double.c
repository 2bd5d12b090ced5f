/* A journal that remembers. See journal_double.h. */
#include "tests/fs/journal_double.h"

#include <stdio.h>
#include <string.h>

#define TICKETS 256

static char said[65536], taken[65536];
static char tickets[TICKETS][256];
static unsigned ticket_count, removal_count, last_wait_ms;

const char *journal_double_dirty_home;
const char *journal_double_dirty_dir;
const char *journal_double_stamp_home;
const char *journal_double_stamp_dir;

static const char *const kind_names[] = {
	[MAIL_EVENT_DELIVERED] = "DELIVERED",
	[MAIL_EVENT_RENAMED] = "RENAMED",
	[MAIL_EVENT_REMOVED] = "REMOVED",
	[MAIL_EVENT_TOUCHED] = "TOUCHED",
	[MAIL_EVENT_RESCAN] = "RESCAN",
	[MAIL_EVENT_DIR_CREATED] = "DIR_CREATED",
	[MAIL_EVENT_DIR_RENAMED] = "DIR_RENAMED",
	[MAIL_EVENT_DIR_REMOVED] = "DIR_REMOVED",
	[MAIL_EVENT_LIST_TOUCHED] = "LIST_TOUCHED",
	[MAIL_EVENT_RESCAN_HOME] = "RESCAN_HOME",
};

static void say(const char *line)
{
	size_t used = strlen(said);

	snprintf(said + used, sizeof said - used, "%s\n", line);
}

void journal_double_number_removals(void)
{
	removal_count = 0;
}

const char *journal_double_take(void)
{
	memcpy(taken, said, sizeof taken);
	said[0] = '\0';
	return taken;
}

const char *journal_double_take_events(void)
{
	char *line, *rest = said;

	taken[0] = '\0';
	while ((line = strsep(&rest, "\n")) != NULL) {
		if (line[0] >= 'A' && line[0] <= 'Z') {
			size_t used = strlen(taken);

			snprintf(taken + used, sizeof taken - used, "%s\n", line);
		}
	}
	said[0] = '\0';
	return taken;
}

unsigned journal_double_last_wait(void)
{
	return last_wait_ms;
}

static uint64_t new_ticket(const char *home, const char *dir)
{
	snprintf(tickets[ticket_count % TICKETS], sizeof tickets[0], "%s|%s", home, dir);
	return ++ticket_count;
}

uint64_t journal_push(struct journal *journal, const struct mail_event *event, unsigned wait_ms)
{
	char line[16384];

	last_wait_ms = wait_ms;
	int len = snprintf(line, sizeof line, "%s %s|%s|%s|%s", kind_names[event->kind],
			   event->home, event->dir, event->name, event->name2);

	if (event->origin)
		snprintf(line + len, sizeof line - (size_t)len, " origin=%u", event->origin);
	say(line);
	return new_ticket(event->home, event->dir);
}

uint64_t journal_push_removal(struct journal *journal, const struct mail_event *event,
			      unsigned wait_ms, uint64_t removal)
{
	if (removal) {
		char line[64];

		snprintf(line, sizeof line, "told %u", (unsigned)removal);
		say(line);
	}
	return journal_push(journal, event, wait_ms);
}

uint64_t journal_removal_ahead(struct journal *journal, const struct mail_event *event)
{
	char line[512];

	snprintf(line, sizeof line, "ahead %u %s|%s|%s", ++removal_count, event->home, event->dir,
		 event->name);
	say(line);
	return removal_count;
}

void journal_removal_failed(struct journal *journal, uint64_t removal)
{
	char line[64];

	snprintf(line, sizeof line, "failed %u", (unsigned)removal);
	say(line);
}

void journal_each_removal(const struct journal *journal, journal_removal_fn *each, void *ctx)
{
}

uint64_t journal_dirty_begin(struct journal *journal, const char *home, const char *dir)
{
	uint64_t ticket = new_ticket(home, dir);
	char line[512];

	snprintf(line, sizeof line, "dirty %s|%s", home, dir);
	say(line);
	return ticket;
}

void journal_wait(struct journal *journal, uint64_t ticket)
{
	char line[512];

	if (ticket == 0)
		return;
	snprintf(line, sizeof line, "wait %s", tickets[(ticket - 1) % TICKETS]);
	say(line);
}

void journal_clean(struct journal *journal, const char *home, const char *dir,
		   const struct journal_stamp *stamp)
{
	char line[512];

	snprintf(line, sizeof line, "clean %s|%s", home, dir);
	say(line);
}

int journal_each_dirty(struct journal *journal, journal_dirty_fn *each, void *ctx,
		       struct error *err)
{
	if (!journal_double_dirty_home)
		return 0;
	return each(ctx, journal_double_dirty_home, journal_double_dirty_dir);
}

int journal_open(const char *state_dir, struct journal **journal_r, bool *clean_r,
		 struct error *err)
{
	*journal_r = NULL;
	*clean_r = true;
	return 0;
}

void journal_renew(struct journal *journal)
{
	say("renew");
}

void journal_recovered(struct journal *journal)
{
}

void journal_close(struct journal **journal)
{
	*journal = NULL;
}

int journal_each_stamp(struct journal *journal, journal_stamp_fn *each, void *ctx)
{
	static const struct journal_stamp stamp;

	if (!journal_double_stamp_home)
		return 0;
	return each(ctx, journal_double_stamp_home, journal_double_stamp_dir, &stamp);
}
