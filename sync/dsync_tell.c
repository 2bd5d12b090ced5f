/* What the dsync command says. See dsync_tell.h. */
#include "sync/dsync_tell.h"

#include <stdio.h>
#include <jansson.h>

#include "store/base/log.h"
#include "sync/tcp.h"

#define SHOW_MS	    200
#define FIRST_MS    1000 /* what is done by then needs no progress */
#define CLEAR_LINE  "\r\033[K"
#define MINUTE_SECS 60
#define HOUR_SECS   3600

static void print_object(json_t *object)
{
	if (object)
		(void)json_dumpf(object, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(object);
}

void dsync_tell_tree(const struct dsync_tell *tell, const char *what, const char *mailbox,
		     const char *new_name, const struct guid *guid)
{
	const char *to = new_name ? " to " : "", *name = new_name ? new_name : "";
	char hex[GUID_HEX_SIZE];

	if (tell->json)
		print_object(json_pack("{s:s,s:s,s:s,s:s?,s:s?}", "side", tell->side, "action",
				       what, "mailbox", mailbox, "new_name", new_name, "guid",
				       guid_is_empty(guid) ? NULL : guid_to_hex(guid, hex)));
	else if (tell->dry_run)
		printf("%s: would %s %s%s%s\n", tell->side, what, mailbox, to, name);
	else if (guid_is_empty(guid))
		log_info("%s: %s %s", tell->side, what, mailbox);
	else
		log_info("%s: %s %s%s%s guid=%s", tell->side, what, mailbox, to, name,
			 guid_to_hex(guid, hex));
}

static void print_plan(const struct dsync_tell *tell, const char *mailbox,
		       const struct sync_planned *planned)
{
	print_object(json_pack(
		"{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:b}", "side", tell->side, "action", "change",
		"mailbox", mailbox, "new_mails", (json_int_t)planned->new_mails, "expunges",
		(json_int_t)planned->expunges, "flag_changes", (json_int_t)planned->flag_changes,
		"uid_changes", (json_int_t)planned->uid_changes, "made_anew", planned->made_anew));
}

void dsync_tell_plan(const struct dsync_tell *tell, const char *mailbox,
		     const struct sync_planned *planned)
{
	bool anything = planned->made_anew || planned->new_mails + planned->expunges +
							      planned->flag_changes +
							      planned->uid_changes >
						      0;

	if (!anything)
		return;
	if (tell->json)
		print_plan(tell, mailbox, planned);
	else if (planned->made_anew)
		printf("%s: %s would be made anew\n", tell->side, mailbox);
	else
		printf("%s: %s would get %zu mails, lose %zu, change flags of %zu and UIDs of "
		       "%zu\n",
		       tell->side, mailbox, planned->new_mails, planned->expunges,
		       planned->flag_changes, planned->uid_changes);
}

static void print_left(int64_t secs)
{
	if (secs >= HOUR_SECS)
		fprintf(stderr, ", about %lld h %lld min left", (long long)(secs / HOUR_SECS),
			(long long)(secs % HOUR_SECS / MINUTE_SECS));
	else if (secs >= MINUTE_SECS)
		fprintf(stderr, ", about %lld min left", (long long)(secs / MINUTE_SECS));
	else
		fprintf(stderr, ", about %lld s left", (long long)secs);
}

void dsync_tell_progress(struct dsync_tell *tell, const struct sync_progress *progress)
{
	int64_t now_ms = tcp_now_ms(), passed_ms;

	if (!tell->progress)
		return;
	if (tell->start_ms == 0)
		tell->start_ms = now_ms;
	passed_ms = now_ms - tell->start_ms;
	if (passed_ms < FIRST_MS || now_ms - tell->shown_ms < SHOW_MS)
		return;
	tell->shown_ms = now_ms;
	fprintf(stderr, CLEAR_LINE "%u of %u mailboxes, %u mails, %lld/s", progress->boxes_done,
		progress->boxes_total, progress->mails,
		(long long)progress->mails * 1000 / (long long)passed_ms);
	if (progress->work_done > 0)
		print_left((int64_t)((double)passed_ms / 1000 *
				     (double)(progress->work_total - progress->work_done) /
				     (double)progress->work_done));
	fflush(stderr);
}

void dsync_tell_end(struct dsync_tell *tell)
{
	if (tell->shown_ms != 0)
		fputs(CLEAR_LINE, stderr);
	tell->shown_ms = 0;
}
