/* The mapped file: a header and slots of one size. See removal_ring.h. */
#include "store/journal/removal_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/buf.h"
#include "store/base/file.h"

#define RING_NAME  "removals"
#define RING_MAGIC "dsyncfs removals 1\n"
#define BOOT_ID	   "/proc/sys/kernel/random/boot_id"
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
	char magic[32];
	char boot_id[64];
	struct slot slots[SLOTS];
};

struct removal_ring {
	struct ring_file *file;
	uint64_t last_seq;
};

static int read_boot_id(char boot_id[64])
{
	AUTO_BUF struct buf text = BUF_INIT(63);
	int rc = file_read_at(AT_FDCWD, BOOT_ID, &text);

	memset(boot_id, 0, 64);
	if (rc < 0)
		return rc;
	if (text.data)
		memcpy(boot_id, text.data, text.len);
	return 0;
}

static bool is_of(const struct ring_file *file, const char boot_id[64])
{
	return memcmp(file->magic, RING_MAGIC, sizeof RING_MAGIC) == 0 &&
	       memcmp(file->boot_id, boot_id, sizeof file->boot_id) == 0;
}

/* All of it is allocated: a page that the disk had no room for would be a bus error. */
static int map(int dir_fd, struct ring_file **file_r)
{
	AUTO_CLOSE int fd =
		openat(dir_fd, RING_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	void *address;
	int rc;

	if (fd < 0)
		return -errno;
	rc = posix_fallocate(fd, 0, sizeof(struct ring_file));
	if (rc > 0)
		return -rc;
	address = mmap(NULL, sizeof(struct ring_file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (address == MAP_FAILED)
		return -errno;
	*file_r = address;
	return 0;
}

int removal_ring_open(int dir_fd, bool clean, struct removal_ring **ring_r, struct error *err)
{
	struct removal_ring *ring = calloc(1, sizeof *ring);
	char boot_id[64];
	int rc = ring ? read_boot_id(boot_id) : -ENOMEM;

	*ring_r = NULL;
	if (rc == 0)
		rc = map(dir_fd, &ring->file);
	if (rc == 0 && !ring->file)
		rc = -ENOMEM;
	if (rc != 0) {
		free(ring);
		return error_errno(err, rc, RING_NAME);
	}
	if (clean || !is_of(ring->file, boot_id)) {
		memset(ring->file, 0, sizeof *ring->file);
		memcpy(ring->file->boot_id, boot_id, sizeof boot_id);
		memcpy(ring->file->magic, RING_MAGIC, sizeof RING_MAGIC);
	}
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
