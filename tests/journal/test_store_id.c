/* Which backing directory a state_dir belongs to: its own, whatever was cut short; not an empty
 * one, not an older copy, unless an admin says so. */
#include "tests/journal/journal_test.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "store/journal/store_id.h"

struct fixture {
	char top[64], state[80], root[80];
	int root_fd;
};

static int setup(void **state)
{
	static struct fixture fx;
	char journal[96];

	state_dir_make(fx.top);
	snprintf(fx.state, sizeof fx.state, "%s/state", fx.top);
	snprintf(fx.root, sizeof fx.root, "%s/root", fx.top);
	snprintf(journal, sizeof journal, "%s/journal", fx.state);
	assert_int_equal(mkdir(fx.root, 0700), 0);
	assert_int_equal(mkdir(fx.state, 0700), 0);
	assert_int_equal(mkdir(journal, 0700), 0);
	fx.root_fd = open(fx.root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fx.root_fd >= 0);
	*state = &fx;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	close(fx->root_fd);
	state_dir_remove(fx->top);
	return 0;
}

static int check(struct fixture *fx, bool *accepted_r)
{
	struct error err = {0};

	return store_id_check(fx->state, fx->root_fd, fx->root, accepted_r, &err);
}

static void is_own(struct fixture *fx)
{
	bool accepted;

	assert_int_equal(check(fx, &accepted), 0);
	assert_false(accepted);
}

static void is_refused(struct fixture *fx)
{
	bool accepted;

	assert_int_equal(check(fx, &accepted), -ESTALE);
}

static void renew(struct fixture *fx)
{
	struct error err = {0};

	if (store_id_renew(fx->state, fx->root_fd, fx->root, &err) < 0)
		fail_msg("%s", err.text);
}

static void accept_store(struct fixture *fx)
{
	struct error err = {0};
	bool accepted;

	assert_int_equal(store_id_accept(fx->state, &err), 0);
	/* Until it has an id of its own. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(check(fx, &accepted), 0);
		assert_true(accepted);
	}
	renew(fx);
	is_own(fx);
}

static void get_id(struct fixture *fx, char text[64])
{
	ssize_t len = fgetxattr(fx->root_fd, STORE_ID_XATTR, text, 63);

	assert_true(len > 0);
	text[len] = '\0';
}

static void set_id(struct fixture *fx, const char *text)
{
	assert_int_equal(fsetxattr(fx->root_fd, STORE_ID_XATTR, text, strlen(text), 0), 0);
}

static void test_a_first_start_and_a_lost_state(void **state)
{
	struct fixture *fx = *state;
	char slot[128];

	is_own(fx);
	is_own(fx);
	renew(fx);
	is_own(fx);
	renew(fx);
	is_own(fx);
	snprintf(slot, sizeof slot, "%s/journal/store-id", fx->state);
	assert_int_equal(unlink(slot), 0);
	is_own(fx);
	renew(fx);
	is_own(fx);
	assert_int_equal(truncate(slot, 20), 0);
	is_own(fx);
}

static void test_an_empty_directory_is_refused(void **state)
{
	struct fixture *fx = *state;

	renew(fx);
	assert_int_equal(fremovexattr(fx->root_fd, STORE_ID_XATTR), 0);
	is_refused(fx);
	is_refused(fx);
	accept_store(fx);
}

static void test_an_older_copy_is_refused(void **state)
{
	struct fixture *fx = *state;
	char old[64], now[64];

	renew(fx);
	get_id(fx, old);
	renew(fx);
	get_id(fx, now);
	assert_string_not_equal(old, now);
	set_id(fx, old);
	is_refused(fx);
	set_id(fx, now);
	is_own(fx);
	set_id(fx, "not an id");
	is_refused(fx);
	set_id(fx, old);
	accept_store(fx);
	set_id(fx, now);
	is_refused(fx);
}

/* A read-only disk stops a renewal between its two places. */
static void test_a_renewal_that_is_cut_short(void **state)
{
	struct fixture *fx = *state;
	struct error err = {0};
	char before[64], now[64];

	assert_int_equal(mount(fx->root, fx->root, NULL, MS_BIND, NULL), 0);
	assert_int_equal(mount(NULL, fx->root, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), 0);
	int read_only = open(fx->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(store_id_renew(fx->state, read_only, fx->root, &err), -EROFS);
	is_own(fx); /* still a first start */
	renew(fx);
	get_id(fx, before);
	assert_int_equal(store_id_renew(fx->state, read_only, fx->root, &err), -EROFS);
	get_id(fx, now);
	assert_string_equal(before, now);
	is_own(fx); /* with its old id */
	renew(fx);
	is_own(fx);
	set_id(fx, before);
	is_refused(fx);
	close(read_only);
	assert_int_equal(umount2(fx->root, MNT_DETACH), 0);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_a_first_start_and_a_lost_state),
		UNIT(test_an_empty_directory_is_refused),
		UNIT(test_an_older_copy_is_refused),
		UNIT(test_a_renewal_that_is_cut_short),
	};

	if (geteuid() != 0) {
		printf("skipped: needs root, for the attribute\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
