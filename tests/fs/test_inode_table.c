/* The inode table: one slot an inode, by handle; descriptors within their budget; places let go of.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/inode_private.h"
#include "fs/inode_table.h"
#include "store/base/file.h"

#define DIRS 300

struct fixture {
	char dir[64];
	int fd;
	struct inode_table *table;
	struct places *places;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct error err;

	strcpy(f->dir, "/tmp/test_inode_table.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->fd = open(f->dir, O_RDONLY | O_DIRECTORY);
	assert_true(f->fd >= 0);
	f->places = places_create(2);
	assert_int_equal(inode_table_create(f->fd, 0, &f->table, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int tmp = open("/tmp", O_RDONLY | O_DIRECTORY);

	inode_table_free(&f->table, f->places);
	places_free(&f->places);
	close(f->fd);
	file_remove_tree(tmp, f->dir + strlen("/tmp/"));
	close(tmp);
	free(f);
	return 0;
}

static uint64_t count(struct fixture *f)
{
	struct inode_table_stats stats;

	inode_table_stats(f->table, &stats);
	return stats.inodes;
}

/* A million files that the kernel knows: the handle has the room that this filesystem's need. */
static void slots_are_small(void **state)
{
	struct fixture *f = *state;
	struct inode_table_stats stats;
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} buf = {.handle.handle_bytes = MAX_HANDLE_SZ};
	unsigned handle_bytes = 8; /* else an inode's number */
	int mount_id;

	if (inode_table_has_handles(f->table))
		assert_int_equal(
			name_to_handle_at(f->fd, "", &buf.handle, &mount_id, AT_EMPTY_PATH), 0);
	else
		buf.handle.handle_bytes = 0;
	if (buf.handle.handle_bytes > handle_bytes)
		handle_bytes = (buf.handle.handle_bytes + 7) & ~7U;
	inode_table_stats(f->table, &stats);
	assert_int_equal(stats.slot_bytes, 32 + handle_bytes);
}

static void make_file(struct fixture *f, const char *name, const char *text)
{
	int fd = openat(f->fd, name, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void links_are_one_inode(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a, b;

	make_file(f, "a", "x");
	assert_int_equal(linkat(f->fd, "a", f->fd, "b", 0), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "b", &b), 0);
	assert_int_equal(a.nodeid, b.nodeid);
	assert_int_equal(a.generation, b.generation);
	assert_int_equal(a.stat.st_nlink, 2);
	assert_int_equal(inode_peek(f->table, f->fd, "b"), a.nodeid);
	assert_int_equal(count(f), 2); /* with the root */
	assert_null(inode_forget(f->table, a.nodeid, 1));
	assert_int_equal(count(f), 2);
	assert_null(inode_forget(f->table, a.nodeid, 1));
	assert_int_equal(count(f), 1);
	assert_int_equal(inode_peek(f->table, f->fd, "b"), 0);
}

static void used_again_is_another_generation(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a, b;

	make_file(f, "a", "x");
	make_file(f, "b", "y");
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	inode_forget(f->table, a.nodeid, 1);
	assert_int_equal(inode_lookup(f->table, f->fd, "b", &b), 0);
	assert_int_equal(a.nodeid, b.nodeid);
	assert_int_not_equal(a.generation, b.generation);
}

static void missing_is_an_error(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a;

	assert_int_equal(inode_lookup(f->table, f->fd, "none", &a), -ENOENT);
	assert_int_equal(inode_peek(f->table, f->fd, "none"), 0);
	assert_int_equal(inode_open(f->table, 77, O_RDONLY), -ESTALE);
}

static void opens_by_handle_after_a_rename(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a;
	char text[8] = "";
	int fd;

	if (!inode_table_has_handles(f->table))
		skip();
	make_file(f, "a", "hello");
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	assert_int_equal(renameat(f->fd, "a", f->fd, "b"), 0);
	make_file(f, "a", "other");
	fd = inode_open(f->table, a.nodeid, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, text, sizeof text), 5);
	assert_string_equal(text, "hello");
	close(fd);
	assert_int_equal(unlinkat(f->fd, "b", 0), 0);
	assert_int_equal(inode_open(f->table, a.nodeid, O_RDONLY), -ESTALE);
}

static void symbolic_links_are_not_followed(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a;
	char target[64] = "";
	int fd;

	assert_int_equal(symlinkat("/etc/passwd", f->fd, "s"), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "s", &a), 0);
	assert_true(S_ISLNK(a.stat.st_mode));
	fd = inode_open(f->table, a.nodeid, O_PATH);
	assert_true(fd >= 0);
	assert_int_equal(readlinkat(fd, "", target, sizeof target), 11);
	close(fd);
}

static void directories_stay_within_the_budget(void **state)
{
	struct fixture *f = *state;
	struct inode_table_stats stats;
	struct inode_entry dirs[DIRS];
	char name[32];

	if (!inode_table_has_handles(f->table))
		skip();
	for (int i = 0; i < DIRS; i++) {
		snprintf(name, sizeof name, "d%d", i);
		assert_int_equal(mkdirat(f->fd, name, 0700), 0);
		assert_int_equal(inode_lookup(f->table, f->fd, name, &dirs[i]), 0);
	}
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < DIRS; i++) {
			unsigned ref;
			struct stat st;
			int fd = inode_dir_get(f->table, dirs[i].nodeid, &ref);

			assert_true(fd >= 0);
			assert_int_equal(fstat(fd, &st), 0);
			assert_int_equal(st.st_ino, dirs[i].stat.st_ino);
			inode_dir_put(f->table, ref);
		}
	}
	inode_table_stats(f->table, &stats);
	assert_int_equal(stats.dir_fds, 64);
	for (int i = 0; i < DIRS; i++)
		inode_forget(f->table, dirs[i].nodeid, 1);
	inode_table_stats(f->table, &stats);
	assert_int_equal(stats.dir_fds, 0);
	assert_int_equal(stats.inodes, 1);
}

static void forgotten_while_in_use(void **state)
{
	struct fixture *f = *state;
	struct inode_entry d;
	struct stat st;
	unsigned ref;
	int fd;

	assert_int_equal(mkdirat(f->fd, "d", 0700), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "d", &d), 0);
	fd = inode_dir_get(f->table, d.nodeid, &ref);
	assert_true(fd >= 0);
	inode_forget(f->table, d.nodeid, 1);
	assert_int_equal(fstat(fd, &st), 0);
	inode_dir_put(f->table, ref);
}

static int make_backing(void *ctx)
{
	int *id = ctx;

	return (*id)++;
}

/* Files and directories keep different things in the same room. */
static void a_file_is_no_directory(void **state)
{
	struct fixture *f = *state;
	struct inode_entry file, dir;
	int next = 5;
	unsigned ref;

	make_file(f, "a", "x");
	assert_int_equal(mkdirat(f->fd, "d", 0700), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &file), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "d", &dir), 0);
	assert_int_equal(inode_backing_open(f->table, file.nodeid, make_backing, &next), 5);
	assert_false(inode_listing_open(f->table, file.nodeid));
	inode_dir_changed(f->table, file.nodeid);
	inode_listing_close(f->table, file.nodeid);
	if (inode_table_has_handles(f->table))
		assert_int_equal(inode_dir_get(f->table, file.nodeid, &ref), -ENOTDIR);
	assert_int_equal(inode_backing_open(f->table, file.nodeid, make_backing, &next), 5);
	assert_int_equal(inode_backing_release(f->table, file.nodeid), 0);
	assert_int_equal(inode_backing_release(f->table, file.nodeid), 5);

	assert_true(inode_dir_get(f->table, dir.nodeid, &ref) >= 0);
	assert_int_equal(inode_backing_open(f->table, dir.nodeid, make_backing, &next), 0);
	assert_int_equal(inode_backing_release(f->table, dir.nodeid), 0);
	inode_dir_put(f->table, ref);
	assert_true(inode_dir_get(f->table, dir.nodeid, &ref) >= 0);
	inode_dir_put(f->table, ref);
	inode_forget(f->table, file.nodeid, 1);
	inode_forget(f->table, dir.nodeid, 1);
	assert_int_equal(count(f), 1);
}

/* The kernel puts together what it keeps of two. */
static void one_opener_at_a_time_has_its_listing_kept(void **state)
{
	struct fixture *f = *state;
	struct inode_entry d;

	assert_int_equal(mkdirat(f->fd, "d", 0700), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "d", &d), 0);
	assert_true(inode_listing_open(f->table, d.nodeid));
	assert_false(inode_listing_open(f->table, d.nodeid));
	inode_listing_close(f->table, d.nodeid);
	assert_true(inode_listing_open(f->table, d.nodeid));
	inode_listing_close(f->table, d.nodeid);
	inode_dir_changed(f->table, d.nodeid);
	assert_false(inode_listing_open(f->table, d.nodeid));
}

static void what_cannot_be_counted_stays(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a, again;

	make_file(f, "a", "x");
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	inode_slot_of(f->table, a.nodeid)->lookups = LOOKUPS_MAX - 1;
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	assert_null(inode_forget(f->table, a.nodeid, LOOKUPS_MAX));
	assert_null(inode_forget(f->table, a.nodeid, 1ULL << 40));
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &again), 0);
	assert_int_equal(a.nodeid, again.nodeid);
	assert_int_equal(a.generation, again.generation);
}

/* A filesystem may have handles of more than one kind. */
static void other_handles_than_the_roots(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a, b, again;
	char text[8] = "";
	int fd;

	if (!inode_table_has_handles(f->table))
		skip();
	make_file(f, "a", "hello");
	make_file(f, "b", "other");
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	f->table->handle_type++;
	assert_int_equal(inode_lookup(f->table, f->fd, "b", &b), 0);
	assert_int_not_equal(a.nodeid, b.nodeid);
	assert_int_equal(inode_lookup(f->table, f->fd, "b", &again), 0);
	assert_int_equal(b.nodeid, again.nodeid);
	assert_int_equal(inode_peek(f->table, f->fd, "b"), b.nodeid);
	assert_int_equal(renameat(f->fd, "b", f->fd, "c"), 0);
	fd = inode_open(f->table, b.nodeid, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, text, sizeof text), 5);
	assert_string_equal(text, "other");
	close(fd);
	inode_forget(f->table, b.nodeid, 2);
	assert_int_equal(inode_open(f->table, b.nodeid, O_RDONLY), -ESTALE);
	f->table->handle_type--;
	assert_int_equal(inode_peek(f->table, f->fd, "a"), a.nodeid);
	inode_forget(f->table, a.nodeid, 1);
	assert_int_equal(count(f), 1);
}

/* proc has no handles: an inode is known by its number, and held by a descriptor. */
static void without_handles(void **state)
{
	struct places *places = places_create(2);
	struct inode_table *table = NULL;
	struct inode_entry a, b, dir;
	struct error err;
	char text[64];
	unsigned ref;
	int root = open("/proc/sys", O_RDONLY | O_DIRECTORY), fd;

	assert_true(root >= 0);
	assert_int_equal(inode_table_create(root, 0, &table, &err), 0);
	if (inode_table_has_handles(table)) {
		inode_table_free(&table, places);
		places_free(&places);
		close(root);
		skip();
	}
	assert_int_equal(inode_lookup(table, root, "kernel", &dir), 0);
	fd = inode_dir_get(table, dir.nodeid, &ref);
	assert_true(fd >= 0);
	assert_int_equal(inode_lookup(table, fd, "ostype", &a), 0);
	assert_int_equal(inode_lookup(table, fd, "osrelease", &b), 0);
	assert_int_not_equal(a.nodeid, b.nodeid);
	assert_int_equal(inode_lookup(table, fd, "ostype", &b), 0);
	assert_int_equal(a.nodeid, b.nodeid);
	assert_int_equal(inode_peek(table, fd, "ostype"), a.nodeid);
	inode_dir_put(table, ref);
	fd = inode_open(table, a.nodeid, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, text, 5), 5);
	assert_memory_equal(text, "Linux", 5);
	close(fd);
	inode_table_free(&table, places);
	places_free(&places);
	close(root);
}

static void place_belongs_to_the_slot(void **state)
{
	struct fixture *f = *state;
	struct inode_entry d;
	struct place *place = place_child(f->places, place_root(f->places), "d"), *watched;
	enum place_file kind;

	assert_int_equal(mkdirat(f->fd, "d", 0700), 0);
	assert_int_equal(inode_lookup(f->table, f->fd, "d", &d), 0);
	assert_true(inode_is_dir(f->table, d.nodeid));
	assert_true(inode_set_place(f->table, d.nodeid, place, PLACE_FILE_OTHER));
	assert_false(inode_set_place(f->table, d.nodeid, place, PLACE_FILE_OTHER));
	assert_ptr_equal(inode_place(f->table, d.nodeid), place);
	/* Only files are watched. */
	watched = inode_watch_get(f->table, f->places, d.nodeid, &kind);
	assert_null(watched);
	assert_ptr_equal(inode_forget(f->table, d.nodeid, 1), place);
	place_unref(f->places, place);
}

static void many_inodes(void **state)
{
	struct fixture *f = *state;
	static uint64_t nodeids[20000];
	struct inode_entry entry;
	char name[32];

	for (int i = 0; i < 20000; i++) {
		snprintf(name, sizeof name, "f%d", i);
		assert_int_equal(mknodat(f->fd, name, S_IFREG | 0600, 0), 0);
		assert_int_equal(inode_lookup(f->table, f->fd, name, &entry), 0);
		nodeids[i] = entry.nodeid;
	}
	assert_int_equal(count(f), 20001);
	for (int i = 0; i < 20000; i += 7) {
		snprintf(name, sizeof name, "f%d", i);
		assert_int_equal(inode_peek(f->table, f->fd, name), nodeids[i]);
	}
	for (int i = 0; i < 20000; i++)
		inode_forget(f->table, nodeids[i], 1);
	assert_int_equal(count(f), 1);
}

static void openers_share_a_backing_id(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a;
	int next = 5;

	make_file(f, "a", "x");
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 5);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 5);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 5);
	/* The next first one gets another. */
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 6);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 6);
}

/* The kernel refuses to mix openers that are passed through with such as are copied. */
static void the_first_opener_decides_for_all(void **state)
{
	struct fixture *f = *state;
	struct inode_entry a;
	int next = 5, none = -1;

	make_file(f, "a", "x");
	assert_int_equal(inode_lookup(f->table, f->fd, "a", &a), 0);
	/* It became a log's name while it is open. */
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 5);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, NULL, NULL), 5);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 5);
	/* It was one. */
	assert_int_equal(inode_backing_open(f->table, a.nodeid, NULL, NULL), 0);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	/* The kernel refused. */
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &none), 0);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	/* Suid, as the last attributes said. */
	inode_note_mode(f->table, a.nodeid, 04755);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 0);
	inode_note_mode(f->table, a.nodeid, 0755);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
	assert_int_equal(inode_backing_open(f->table, a.nodeid, make_backing, &next), 6);
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 6);
	/* More closed than opened. */
	assert_int_equal(inode_backing_release(f->table, a.nodeid), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(slots_are_small),
		TEST(links_are_one_inode),
		TEST(used_again_is_another_generation),
		TEST(missing_is_an_error),
		TEST(opens_by_handle_after_a_rename),
		TEST(symbolic_links_are_not_followed),
		TEST(directories_stay_within_the_budget),
		TEST(forgotten_while_in_use),
		TEST(a_file_is_no_directory),
		TEST(one_opener_at_a_time_has_its_listing_kept),
		TEST(what_cannot_be_counted_stays),
		TEST(other_handles_than_the_roots),
		cmocka_unit_test(without_handles),
		TEST(place_belongs_to_the_slot),
		TEST(many_inodes),
		TEST(openers_share_a_backing_id),
		TEST(the_first_opener_decides_for_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
