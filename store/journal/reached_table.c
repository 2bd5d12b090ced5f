#include "store/journal/reached_table.h"

#include <string.h>
#include <sys/mman.h>
#include "store/base/digest.h"
#include "store/journal/boot_file.h"

#define TABLE_NAME  "reached"
#define TABLE_MAGIC "dsyncfs reached 1\n"
#define PLACES	    4096
#define HASH_SIZE   16

/* `whole` is 0 while a place is being written: one that the end of the process cut short is none.
 */
struct place {
	uint8_t hash[HASH_SIZE];
	struct reached reached;
	uint64_t whole;
};

struct reached_table {
	struct boot_file header;
	struct place places[PLACES];
};

int reached_table_open(int dir_fd, struct reached_table **table_r, struct error *err)
{
	struct boot_file *file;
	int rc = boot_file_map(dir_fd, TABLE_NAME, TABLE_MAGIC, sizeof **table_r, &file);

	*table_r = rc < 0 ? NULL : (struct reached_table *)file;
	return rc < 0 ? error_errno(err, rc, TABLE_NAME) : 0;
}

void reached_table_close(struct reached_table **table)
{
	if (*table)
		munmap(*table, sizeof **table);
	*table = NULL;
}

static size_t hash_of(const void *key, size_t key_len, uint8_t hash_r[HASH_SIZE])
{
	uint8_t sha1[DIGEST_SHA1_SIZE];

	digest_sha1(key, key_len, sha1);
	memcpy(hash_r, sha1, HASH_SIZE);
	return (hash_r[0] | (size_t)hash_r[1] << 8) % PLACES;
}

void reached_table_put(struct reached_table *table, const void *key, size_t key_len,
		       const struct reached *reached)
{
	uint8_t hash[HASH_SIZE];
	struct place *place;

	if (!table)
		return;
	place = &table->places[hash_of(key, key_len, hash)];
	__atomic_store_n(&place->whole, 0, __ATOMIC_SEQ_CST);
	memcpy(place->hash, hash, sizeof hash);
	place->reached = *reached;
	__atomic_store_n(&place->whole, 1, __ATOMIC_SEQ_CST);
}

void reached_table_get(const struct reached_table *table, const void *key, size_t key_len,
		       struct reached *reached_r)
{
	uint8_t hash[HASH_SIZE];
	const struct place *place;

	*reached_r = (struct reached){0};
	if (!table)
		return;
	place = &table->places[hash_of(key, key_len, hash)];
	if (place->whole == 1 && memcmp(place->hash, hash, sizeof hash) == 0)
		*reached_r = place->reached;
}
