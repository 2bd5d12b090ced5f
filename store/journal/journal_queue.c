/* The queue of the commit thread. See journal_queue.h. */
#include "store/journal/journal_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/journal/journal_codec.h"

void journal_queue_init(struct journal_queue *queue, size_t count_max, size_t bytes_max)
{
	memset(queue, 0, sizeof *queue);
	queue->tail = &queue->head;
	queue->count_max = count_max;
	queue->bytes_max = bytes_max;
}

void journal_queue_free(struct journal_queue *queue)
{
	HASH_CLEAR(hh, queue->merge);
	while (queue->head) {
		struct journal_op *op = queue->head;

		queue->head = op->next;
		free(op);
	}
	journal_queue_init(queue, queue->count_max, queue->bytes_max);
}

bool journal_event_is_evidence(enum mail_event_kind kind)
{
	return kind == MAIL_EVENT_REMOVED || kind == MAIL_EVENT_DIR_REMOVED ||
	       kind == MAIL_EVENT_DIR_RENAMED;
}

/* Says nothing that an equal one before it did not. */
static bool merges(enum mail_event_kind kind)
{
	return kind == MAIL_EVENT_TOUCHED || kind == MAIL_EVENT_RESCAN ||
	       kind == MAIL_EVENT_LIST_TOUCHED || kind == MAIL_EVENT_RESCAN_HOME;
}

/* After these a directory's name means another mailbox. */
static bool changes_names(enum mail_event_kind kind)
{
	return kind == MAIL_EVENT_DIR_RENAMED || kind == MAIL_EVENT_DIR_REMOVED;
}

static char *copy_str(char *to, const char *from, size_t len, const char **copy_r)
{
	memcpy(to, from, len);
	to[len] = '\0';
	*copy_r = to;
	return to + len + 1;
}

static struct journal_op *op_new(enum journal_op_kind kind, const struct mail_event *event)
{
	size_t home_len = strlen(event->home), dir_len = strlen(event->dir);
	size_t name_len = strlen(event->name), name2_len = strlen(event->name2);
	size_t size = sizeof(struct journal_op) + 1 + home_len + dir_len + name_len + name2_len + 4;
	struct journal_op *op = malloc(size);
	char *p;

	if (!op)
		return NULL;
	memset(op, 0, sizeof *op);
	op->kind = kind;
	op->size = size;
	op->event = *event;
	op->data[0] = (char)event->kind;
	p = copy_str(op->data + 1, event->home, home_len, &op->event.home);
	p = copy_str(p, event->dir, dir_len, &op->event.dir);
	op->key_len = (unsigned)(p - op->data);
	p = copy_str(p, event->name, name_len, &op->event.name);
	copy_str(p, event->name2, name2_len, &op->event.name2);
	return op;
}

static void append(struct journal_queue *queue, struct journal_op *op)
{
	*queue->tail = op;
	queue->tail = &op->next;
	queue->count++;
	queue->bytes += op->size;
}

static bool is_full(const struct journal_queue *queue, size_t times)
{
	return queue->count >= queue->count_max * times || queue->bytes >= queue->bytes_max * times;
}

static bool string_fits(const char *str)
{
	return strnlen(str, JOURNAL_STRING_MAX + 1) <= JOURNAL_STRING_MAX;
}

/* What is kept of the event. False: nothing can be. */
static bool reduce(const struct journal_queue *queue, const struct mail_event *event,
		   struct mail_event *kept_r)
{
	bool fits =
		string_fits(event->dir) && string_fits(event->name) && string_fits(event->name2);
	bool detail = event->kind == MAIL_EVENT_DELIVERED || event->kind == MAIL_EVENT_RENAMED ||
		      event->kind == MAIL_EVENT_TOUCHED;

	*kept_r = *event;
	if (!string_fits(event->home) || is_full(queue, 3))
		return false;
	if (!fits || is_full(queue, 2)) {
		kept_r->kind = MAIL_EVENT_RESCAN_HOME;
		kept_r->dir = kept_r->name = kept_r->name2 = "";
		kept_r->origin = 0;
	} else if (detail && is_full(queue, 1)) {
		kept_r->kind = MAIL_EVENT_RESCAN;
		kept_r->name = kept_r->name2 = "";
		kept_r->origin = 0;
	}
	return true;
}

uint64_t journal_queue_event(struct journal_queue *queue, const struct mail_event *event,
			     uint64_t ticket, uint64_t removal)
{
	struct mail_event kept;
	struct journal_op *op, *before = NULL;
	struct timespec now;

	if (!reduce(queue, event, &kept))
		goto lost;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	kept.time = now.tv_sec;
	op = op_new(JOURNAL_OP_EVENT, &kept);
	if (!op)
		goto lost;
	if (changes_names(kept.kind))
		HASH_CLEAR(hh, queue->merge);
	if (merges(kept.kind)) {
		HASH_FIND(hh, queue->merge, op->data, op->key_len, before);
		if (before && before->event.origin == kept.origin) {
			free(op);
			return before->ticket;
		}
		if (!before)
			HASH_ADD_KEYPTR(hh, queue->merge, op->data, op->key_len, op);
	}
	op->ticket = ticket;
	/* A scan in its place does not tell of it. */
	op->removal = kept.kind == event->kind ? removal : 0;
	append(queue, op);
	return ticket;
lost:
	queue->lost_all = true;
	return 0;
}

static int queue_box(struct journal_queue *queue, enum journal_op_kind kind, const char *home,
		     const char *dir, struct journal_op **op_r)
{
	struct mail_event event = {.home = home, .dir = dir, .name = "", .name2 = ""};
	struct journal_op *op;

	if (!string_fits(home) || !string_fits(dir))
		return -EMSGSIZE;
	op = op_new(kind, &event);
	if (!op)
		return -ENOMEM;
	append(queue, op);
	*op_r = op;
	return 0;
}

int journal_queue_dirty(struct journal_queue *queue, const char *home, const char *dir,
			uint64_t ticket)
{
	struct journal_op *op;
	int rc = queue_box(queue, JOURNAL_OP_DIRTY, home, dir, &op);

	if (rc == 0)
		op->ticket = ticket;
	return rc;
}

int journal_queue_clean(struct journal_queue *queue, const char *home, const char *dir,
			const struct journal_stamp *stamp)
{
	struct journal_op *op;
	int rc = queue_box(queue, JOURNAL_OP_CLEAN, home, dir, &op);

	if (rc == 0 && stamp) {
		op->has_stamp = true;
		op->stamp = *stamp;
	}
	return rc;
}

struct journal_op *journal_queue_take(struct journal_queue *queue, size_t max)
{
	struct journal_op *list = queue->head, **end = &list;

	HASH_CLEAR(hh, queue->merge);
	for (; *end && max; max--)
		end = &(*end)->next;
	queue->head = *end;
	*end = NULL;
	if (!queue->head)
		queue->tail = &queue->head;
	return list;
}

void journal_queue_done(struct journal_queue *queue, struct journal_op *ops)
{
	while (ops) {
		struct journal_op *op = ops;

		ops = op->next;
		queue->count--;
		queue->bytes -= op->size;
		free(op);
	}
}

void journal_queue_put_back(struct journal_queue *queue, struct journal_op *ops)
{
	struct journal_op **end = &ops;

	while (*end)
		end = &(*end)->next;
	*end = queue->head;
	queue->head = ops;
	/* What merges has to be known again, or every attempt would add to a full queue. */
	HASH_CLEAR(hh, queue->merge);
	queue->tail = &queue->head;
	for (struct journal_op *op = queue->head; op; op = op->next) {
		struct journal_op *before = NULL;

		queue->tail = &op->next;
		if (op->kind != JOURNAL_OP_EVENT)
			continue;
		if (changes_names(op->event.kind))
			HASH_CLEAR(hh, queue->merge);
		if (!merges(op->event.kind))
			continue;
		HASH_FIND(hh, queue->merge, op->data, op->key_len, before);
		if (!before)
			HASH_ADD_KEYPTR(hh, queue->merge, op->data, op->key_len, op);
	}
}
