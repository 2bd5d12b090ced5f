/* The mapped file: a header and slots of one size. See removal_ring.h. */
#include "store/journal/removal_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "store/journal/boot_file.h"

#define RING_NAME  "removals"
#define RING_MAGIC "dsyncfs removals 1\n"
#define SLOTS	   1024
#define TEXT_SIZE  752

/* seq is written last, and is 0 while a slot is being written: a slot that the end of the process
 * cut short is none. */
struct slot {
	uint64_t seq;
	uint32_t kind;
	uint32_t unused;
	char text[TEXT_SIZE]; /* home NUL dir NUL name NUL */
};

struct ring_file {
	struct boot_file header;
	struct slot slots[SLOTS];
};

struct removal_ring {
	struct ring_file *file;
	uint64_t last_seq;
};

int removal_ring_open(int dir_fd, bool clean, struct removal_ring **ring_r, struct error *err)
{
	struct removal_ring *ring = calloc(1, sizeof *ring);
	struct boot_file *file;
	int rc = ring ? boot_file_map(dir_fd, RING_NAME, RING_MAGIC, sizeof *ring->file, &file)
		      : -ENOMEM;

	*ring_r = NULL;
	if (rc != 0) {
		free(ring);
		return error_errno(err, rc, RING_NAME);
	}
	if (clean)
		boot_file_clear(file, sizeof *ring->file);
	ring->file = (struct ring_file *)file;
	for (size_t i = 0; i < SLOTS; i++) {
		if (ring->file->slots[i].seq > ring->last_seq)
			ring->last_seq = ring->file->slots[i].seq;
	}
	*ring_r = ring;
	return 0;
}

void removal_ring_close(struct removal_ring **ring)
{
	if (!*ring)
		return;
	munmap((*ring)->file, sizeof *(*ring)->file);
	free(*ring);
	*ring = NULL;
}

static char *put_string(char *to, const char *end, const char *text)
{
	size_t size = strlen(text) + 1;

	if (!to || size > (size_t)(end - to))
		return NULL;
	memcpy(to, text, size);
	return to + size;
}

uint64_t removal_ring_put(struct removal_ring *ring, const struct mail_event *event)
{
	struct slot *slot;
	uint64_t seq;
	char *to;

	if (!ring)
		return 0;
	seq = __atomic_add_fetch(&ring->last_seq, 1, __ATOMIC_RELAXED);
	slot = &ring->file->slots[seq % SLOTS];
	__atomic_store_n(&slot->seq, 0, __ATOMIC_SEQ_CST);
	slot->kind = event->kind;
	to = put_string(slot->text, slot->text + TEXT_SIZE, event->home);
	to = put_string(to, slot->text + TEXT_SIZE, event->dir);
	to = put_string(to, slot->text + TEXT_SIZE, event->name);
	if (to)
		__atomic_store_n(&slot->seq, seq, __ATOMIC_SEQ_CST);
	return seq;
}

void removal_ring_forget(struct removal_ring *ring, uint64_t removal)
{
	if (ring && removal)
		__atomic_compare_exchange_n(&ring->file->slots[removal % SLOTS].seq, &removal, 0,
					    false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* False: there is none, or it is damaged. */
static bool read_slot(const struct slot *slot, struct mail_event *event_r)
{
	const char *at = slot->text, *end = slot->text + TEXT_SIZE, *strings[3];

	for (size_t i = 0; i < 3; i++) {
		const char *nul = memchr(at, '\0', (size_t)(end - at));

		if (!nul)
			return false;
		strings[i] = at;
		at = nul + 1;
	}
	*event_r = (struct mail_event){
		.kind = (enum mail_event_kind)slot->kind,
		.home = strings[0],
		.dir = strings[1],
		.name = strings[2],
		.name2 = "",
	};
	return slot->kind == MAIL_EVENT_REMOVED || slot->kind == MAIL_EVENT_DIR_REMOVED;
}

void removal_ring_each(const struct removal_ring *ring, removal_ring_fn *each, void *ctx)
{
	uint64_t last = ring ? ring->last_seq : 0;

	for (uint64_t seq = last > SLOTS ? last - SLOTS + 1 : 1; seq <= last; seq++) {
		const struct slot *slot = &ring->file->slots[seq % SLOTS];
		struct mail_event event;

		/* The commit thread forgets those that were told already. */
		if (__atomic_load_n(&slot->seq, __ATOMIC_SEQ_CST) == seq && read_slot(slot, &event))
			each(ctx, &event, seq);
	}
}
