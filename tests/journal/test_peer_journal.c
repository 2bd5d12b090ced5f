/* The journal, dsyncd's side: what is owed is kept, seen at once, durable at the commit. */
#include "tests/journal/journal_test.h"

#include <signal.h>
#include <sys/wait.h>
#include "store/journal/peer_codec.h"

#define PEER "0123456789abcdef0123456789abcdef"

static struct peer_journal *open_peer(const char *dir)
{
	struct peer_journal *journal;
	struct error err = {0};

	if (peer_journal_open(dir, &journal, &err) != 0)
		fail_msg("%s", err.text);
	return journal;
}

static struct guid guid_of(unsigned n)
{
	struct guid guid = {{1}};

	memcpy(guid.bytes + 4, &n, sizeof n);
	return guid;
}

struct states {
	struct peer_mailbox_state list[1000];
	unsigned count;
};

static int take_state(void *ctx, const struct peer_mailbox_state *state)
{
	struct states *states = ctx;

	states->list[states->count++] = *state;
	return 0;
}

static void put_states(struct peer_journal *journal, const char *user, const char *peer, unsigned n)
{
	struct error err = {0};

	for (unsigned i = 0; i < n; i++) {
		struct peer_mailbox_state state = {.guid = guid_of(i),
						   .uid_validity = 1700000000 + i,
						   .common_uid = i,
						   .acked_modseq = (uint64_t)i << 40,
						   .peer_modseq = i + 3,
						   .messages = i + 4,
						   .reserved_uid_owner = i};

		assert_int_equal(peer_journal_put_state(journal, user, peer, &state, &err), 0);
	}
}

static void test_states_come_back_per_user_and_peer(void **state)
{
	static struct states states;
	struct peer_journal *journal;
	struct error err = {0};
	struct guid guid = guid_of(5);
	char dir[64];

	state_dir_make(dir);
	journal = open_peer(dir);
	put_states(journal, "alice@example.org", PEER, 700);
	put_states(journal, "alice@example.or", PEER, 3);
	put_states(journal, "alice@example.org", "dovecot:tcp:mx2", 2);
	states.count = 0;
	assert_int_equal(peer_journal_each_state(journal, "alice@example.org", PEER, take_state,
						 &states, &err),
			 0);
	assert_int_equal(states.count, 700); /* before the commit already */
	assert_int_equal(peer_journal_commit(journal, &err), 0);
	peer_journal_close(&journal);

	journal = open_peer(dir);
	states.count = 0;
	assert_int_equal(peer_journal_each_state(journal, "alice@example.org", PEER, take_state,
						 &states, &err),
			 0);
	assert_int_equal(states.count, 700);
	for (unsigned i = 0; i < 700; i++) {
		const struct peer_mailbox_state *s = &states.list[i];

		assert_int_equal(s->uid_validity, 1700000000 + s->common_uid);
		assert_int_equal(s->acked_modseq, (uint64_t)s->common_uid << 40);
		assert_int_equal(s->peer_modseq, s->common_uid + 3);
		assert_int_equal(s->messages, s->common_uid + 4);
		assert_int_equal(s->reserved_uid_owner, s->common_uid);
	}
	assert_int_equal(peer_journal_del_state(journal, "alice@example.org", PEER, &guid, &err),
			 0);
	states.count = 0;
	peer_journal_each_state(journal, "alice@example.org", PEER, take_state, &states, &err);
	assert_int_equal(states.count, 699);
	assert_int_equal(peer_journal_del_states(journal, "alice@example.org", PEER, &err), 0);
	states.count = 0;
	peer_journal_each_state(journal, "alice@example.org", PEER, take_state, &states, &err);
	assert_int_equal(states.count, 0);
	peer_journal_each_state(journal, "alice@example.org", "dovecot:tcp:mx2", take_state,
				&states, &err);
	assert_int_equal(states.count, 2);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static void test_uncommitted_changes_end_with_the_process(void **state)
{
	static struct states states;
	struct peer_journal *journal;
	struct error err = {0};
	char dir[64];
	int status;
	pid_t pid;

	state_dir_make(dir);
	pid = fork();
	if (pid == 0) {
		journal = open_peer(dir);
		put_states(journal, "alice", PEER, 2);
		if (peer_journal_commit(journal, &err) != 0)
			_exit(1);
		put_states(journal, "alice", PEER, 4);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	journal = open_peer(dir);
	states.count = 0;
	peer_journal_each_state(journal, "alice", PEER, take_state, &states, &err);
	assert_int_equal(states.count, 2);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static void test_node_id_is_kept_even_when_the_environment_is_lost(void **state)
{
	struct peer_journal *journal;
	struct guid id, consumed;
	struct error err = {0};
	uint64_t seq;
	char dir[64], path[128];
	int fd;

	state_dir_make(dir);
	journal = open_peer(dir);
	id = *peer_journal_node_id(journal);
	assert_false(guid_is_empty(&id));
	assert_int_equal(peer_journal_set_consumed(journal, &id, 42, &err), 0);
	assert_int_equal(peer_journal_commit(journal, &err), 0);
	peer_journal_close(&journal);
	journal = open_peer(dir);
	assert_true(guid_equal(&id, peer_journal_node_id(journal)));
	assert_int_equal(peer_journal_get_consumed(journal, &consumed, &seq, &err), 0);
	assert_true(guid_equal(&id, &consumed));
	assert_int_equal(seq, 42);
	peer_journal_close(&journal);

	snprintf(path, sizeof path, "%s/journal/peer/data.mdb", dir);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(write(fd, "junk", 4), 4);
	close(fd);
	journal = open_peer(dir);
	assert_true(guid_equal(&id, peer_journal_node_id(journal)));
	assert_int_equal(peer_journal_get_consumed(journal, &consumed, &seq, &err), 0);
	assert_true(guid_is_empty(&consumed));
	assert_int_equal(count_names(dir, "peer.damaged."), 1);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static void test_consumed_is_published_only_when_durable(void **state)
{
	struct peer_journal *journal;
	struct guid id = guid_of(9), got;
	struct error err = {0};
	uint64_t seq;
	char dir[64];

	state_dir_make(dir);
	assert_int_equal(peer_journal_read_consumed(dir, &got, &seq, &err), -ENOENT);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_set_consumed(journal, &id, 7, &err), 0);
	assert_int_equal(peer_journal_read_consumed(dir, &got, &seq, &err), -ENOENT);
	assert_int_equal(peer_journal_commit(journal, &err), 0);
	assert_int_equal(peer_journal_read_consumed(dir, &got, &seq, &err), 0);
	assert_true(guid_equal(&id, &got));
	assert_int_equal(seq, 7);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static void test_place_records(void **state)
{
	/* version, count, one guid, and "d" for the directory or half a guid */
	uint8_t v[2 + 16 + 1] = {2, 0, [2 ... 17] = 7, 'd'};
	struct peer_place got;

	assert_int_equal(peer_place_decode(v, sizeof v, "d", &got), 0);
	assert_int_equal(got.guid.bytes[15], 7);
	assert_int_equal(peer_place_decode(v, sizeof v, "e", &got), -EBADMSG);
	for (unsigned count = 1; count < 256; count++) {
		v[1] = (uint8_t)count;
		assert_int_equal(peer_place_decode(v, sizeof v, "d", &got), -EBADMSG);
	}
	/* Version 1 had no count. */
	v[1] = 1;
	assert_int_equal(peer_place_decode(v + 1, sizeof v - 1, "d", &got), 0);
	assert_int_equal(got.before_count, 0);
	assert_int_equal(peer_place_decode(v + 1, sizeof v - 3, NULL, &got), -EBADMSG);
}

static void test_mailbox_directories(void **state)
{
	struct peer_journal *journal;
	struct peer_place place = {.guid = guid_of(1)}, other = {.guid = guid_of(2)}, got;
	struct error err = {0};
	char dir[64], long_dir[3000];

	memset(long_dir, 'x', sizeof long_dir - 1);
	long_dir[sizeof long_dir - 1] = '\0';
	while (other.before_count < PEER_PLACE_BEFORE_MAX) {
		other.before[other.before_count] = guid_of(3 + other.before_count);
		other.before_count++;
	}
	state_dir_make(dir);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_get_place(journal, "u", "Maildir", &got, &err), -ENOENT);
	assert_int_equal(peer_journal_put_place(journal, "u", "Maildir", &place, &err), 0);
	assert_int_equal(peer_journal_put_place(journal, "u", long_dir, &other, &err), 0);
	assert_int_equal(peer_journal_get_place(journal, "u", "Maildir", &got, &err), 0);
	assert_memory_equal(&got, &place, sizeof got);
	assert_int_equal(peer_journal_get_place(journal, "u", long_dir, &got, &err), 0);
	assert_memory_equal(&got, &other, sizeof got);
	assert_int_equal(peer_journal_get_place(journal, "v", "Maildir", &got, &err), -ENOENT);
	assert_int_equal(peer_journal_del_place(journal, "u", "Maildir", &err), 0);
	assert_int_equal(peer_journal_get_place(journal, "u", "Maildir", &got, &err), -ENOENT);
	other.before_count = PEER_PLACE_BEFORE_MAX + 1;
	assert_int_equal(peer_journal_put_place(journal, "u", "Maildir", &other, &err), -EINVAL);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static int count_user(void *ctx, const char *user, const char *peer, const struct peer_user *value)
{
	unsigned *counts = ctx;

	assert_string_equal(peer, PEER);
	assert_int_equal(value->failures, (unsigned)strtoul(user + 4, NULL, 10));
	counts[value->priority]++;
	return 0;
}

static void test_users_are_the_durable_queue(void **state)
{
	struct peer_user user = {.priority = SYNC_PRIORITY_HIGH,
				 .want_tree = true,
				 .queued_since = 1700000000,
				 .last_try = 1700000001,
				 .last_success = -1,
				 .last_full = 3,
				 .reason = "connection refused"};
	struct peer_user got;
	struct peer_journal *journal;
	struct error err = {0};
	unsigned counts[4] = {0};
	char dir[64], name[32], long_name[400];

	state_dir_make(dir);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_get_user(journal, "user1", PEER, &got, &err), -ENOENT);
	assert_int_equal(got.priority, SYNC_PRIORITY_NONE);
	for (unsigned i = 0; i < 2000; i++) {
		snprintf(name, sizeof name, "user%u", i);
		user.failures = i;
		user.priority = i % 4;
		assert_int_equal(peer_journal_put_user(journal, name, PEER, &user, &err), 0);
	}
	assert_int_equal(peer_journal_commit(journal, &err), 0);
	peer_journal_close(&journal);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_each_user(journal, count_user, counts, &err), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(counts[i], 500);
	assert_int_equal(peer_journal_get_user(journal, "user7", PEER, &got, &err), 0);
	user.failures = 7;
	user.priority = 3;
	assert_memory_equal(&got, &user, sizeof got);
	memset(long_name, 'a', sizeof long_name - 1);
	long_name[sizeof long_name - 1] = '\0';
	assert_int_equal(peer_journal_put_user(journal, long_name, PEER, &user, &err), -EINVAL);
	assert_int_equal(peer_journal_put_user(journal, "", PEER, &user, &err), -EINVAL);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static int sum_uids(void *ctx, const struct tombstone *tombstone)
{
	unsigned *sum = ctx;

	assert_int_equal(tombstone->time, 1700000000 + tombstone->uid);
	*sum += tombstone->uid;
	return 0;
}

static void test_tombstones_are_pruned_up_to_a_modseq(void **state)
{
	struct guid box = guid_of(1), other = guid_of(2);
	struct peer_journal *journal;
	struct error err = {0};
	char dir[64];
	unsigned sum = 0;

	state_dir_make(dir);
	journal = open_peer(dir);
	for (unsigned i = 1; i <= 600; i++) {
		struct tombstone tombstone = {.mailbox = i % 2 ? box : other,
					      .message = guid_of(100 + i),
					      .uid = i,
					      .modseq = i * 1000,
					      .time = 1700000000 + i};

		assert_int_equal(peer_journal_put_tombstone(journal, "u", &tombstone, &err), 0);
	}
	assert_int_equal(peer_journal_each_tombstone(journal, "u", &box, sum_uids, &sum, &err), 0);
	assert_int_equal(sum, 90000);
	assert_int_equal(peer_journal_prune_tombstones(journal, "u", &box, 598999, &err), 0);
	sum = 0;
	assert_int_equal(peer_journal_each_tombstone(journal, "u", &box, sum_uids, &sum, &err), 0);
	assert_int_equal(sum, 599);
	sum = 0;
	assert_int_equal(peer_journal_each_tombstone(journal, "u", &other, sum_uids, &sum, &err),
			 0);
	assert_int_equal(sum, 90300);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static void test_tombstone_marks(void **state)
{
	struct tombstone_mark mark = {.mailbox = guid_of(1),
				      .uid_validity = 1700000000,
				      .uid_next = 12,
				      .messages = 7,
				      .modseq = (uint64_t)1 << 40};
	struct tombstone tombstone = {.mailbox = mark.mailbox,
				      .message = guid_of(9),
				      .uid = 3,
				      .modseq = 5,
				      .time = 1700000003};
	struct guid other = guid_of(2);
	struct peer_journal *journal;
	struct tombstone_mark got;
	struct error err = {0};
	char dir[64];
	unsigned sum = 0;

	state_dir_make(dir);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_get_tombstone_mark(journal, "u", &other, &got, &err),
			 -ENOENT);
	assert_int_equal(peer_journal_put_tombstone_mark(journal, "u", &mark, &err), 0);
	mark.mailbox = other;
	assert_int_equal(peer_journal_put_tombstone_mark(journal, "u", &mark, &err), 0);
	mark.mailbox = guid_of(1);
	assert_int_equal(peer_journal_put_tombstone(journal, "u", &tombstone, &err), 0);
	tombstone.mailbox = other;
	assert_int_equal(peer_journal_put_tombstone(journal, "u", &tombstone, &err), 0);
	assert_int_equal(peer_journal_commit(journal, &err), 0);
	peer_journal_close(&journal);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_get_tombstone_mark(journal, "u", &mark.mailbox, &got, &err),
			 0);
	assert_memory_equal(&got.mailbox, &mark.mailbox, sizeof got.mailbox);
	assert_int_equal(got.uid_validity, 1700000000);
	assert_int_equal(got.uid_next, 12);
	assert_int_equal(got.messages, 7);
	assert_true(got.modseq == mark.modseq);
	assert_int_equal(peer_journal_get_tombstone_mark(journal, "v", &mark.mailbox, &got, &err),
			 -ENOENT);
	/* A mailbox that is gone takes its own with it. */
	assert_int_equal(peer_journal_del_tombstones(journal, "u", &mark.mailbox, &err), 0);
	assert_int_equal(peer_journal_get_tombstone_mark(journal, "u", &mark.mailbox, &got, &err),
			 -ENOENT);
	assert_int_equal(
		peer_journal_each_tombstone(journal, "u", &mark.mailbox, sum_uids, &sum, &err), 0);
	assert_int_equal(sum, 0);
	assert_int_equal(peer_journal_get_tombstone_mark(journal, "u", &other, &got, &err), 0);
	assert_int_equal(peer_journal_each_tombstone(journal, "u", &other, sum_uids, &sum, &err),
			 0);
	assert_int_equal(sum, 3);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static void test_one_state(void **state)
{
	struct peer_mailbox_state kept = {
		.guid = guid_of(1), .uid_validity = 5, .acked_modseq = 77};
	struct peer_mailbox_state got;
	struct peer_journal *journal;
	struct guid other = guid_of(2);
	struct error err = {0};
	char dir[64];

	state_dir_make(dir);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_put_state(journal, "u", PEER, &kept, &err), 0);
	assert_int_equal(peer_journal_get_state(journal, "u", PEER, &kept.guid, &got, &err), 0);
	assert_true(guid_equal(&got.guid, &kept.guid));
	assert_int_equal(got.acked_modseq, 77);
	assert_int_equal(peer_journal_get_state(journal, "u", PEER, &other, &got, &err), -ENOENT);
	assert_int_equal(peer_journal_get_state(journal, "u", "other", &kept.guid, &got, &err),
			 -ENOENT);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static uint32_t reached_of(struct peer_journal *journal, const struct guid *guid)
{
	struct peer_mailbox_state state;
	struct error err = {0};

	assert_int_equal(peer_journal_get_state(journal, "u", PEER, guid, &state, &err), 0);
	return state.reached_uid;
}

/* Of the state that it was told with, in a process that is killed, until the next boot. */
static void test_what_a_peer_was_told_outlives_a_kill(void **state)
{
	struct peer_mailbox_state kept = {.guid = guid_of(1),
					  .uid_validity = 5,
					  .common_uid = 3,
					  .acked_modseq = 77,
					  .peer_modseq = 70};
	struct peer_mailbox_state told = kept;
	static struct states states;
	struct peer_journal *journal;
	struct error err = {0};
	char dir[64], path[96];
	int status, fd;
	pid_t pid;

	state_dir_make(dir);
	told.reached_uid = 4;
	pid = fork();
	if (pid == 0) {
		journal = open_peer(dir);
		if (peer_journal_put_state(journal, "u", PEER, &kept, &err) != 0 ||
		    peer_journal_commit(journal, &err) != 0 ||
		    peer_journal_note_reached(journal, "u", PEER, &told, &err) != 0)
			_exit(1);
		kept.common_uid = 4;
		kept.acked_modseq = 78;
		if (peer_journal_put_state(journal, "u", PEER, &kept, &err) != 0 ||
		    reached_of(journal, &kept.guid) != 0)
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	journal = open_peer(dir);
	assert_int_equal(reached_of(journal, &kept.guid), 4);
	peer_journal_each_state(journal, "u", PEER, take_state, &states, &err);
	assert_int_equal(states.count, 1);
	assert_int_equal(states.list[0].reached_uid, 4);
	/* Of other states with the same MODSEQ, and of one that was forgotten, it says nothing. */
	kept.common_uid = 2;
	assert_int_equal(peer_journal_put_state(journal, "u", PEER, &kept, &err), 0);
	assert_int_equal(reached_of(journal, &kept.guid), 0);
	kept.common_uid = 3;
	assert_int_equal(peer_journal_put_state(journal, "u", PEER, &kept, &err), 0);
	assert_int_equal(reached_of(journal, &kept.guid), 4);
	assert_int_equal(peer_journal_del_state(journal, "u", PEER, &kept.guid, &err), 0);
	assert_int_equal(peer_journal_put_state(journal, "u", PEER, &kept, &err), 0);
	assert_int_equal(reached_of(journal, &kept.guid), 0);
	assert_int_equal(peer_journal_note_reached(journal, "u", PEER, &told, &err), 0);
	assert_int_equal(peer_journal_commit(journal, &err), 0);
	peer_journal_close(&journal);
	snprintf(path, sizeof path, "%s/journal/reached", dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "another", 7, 32), 7);
	close(fd);
	journal = open_peer(dir);
	assert_int_equal(reached_of(journal, &kept.guid), 0);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

static void test_second_dsyncd_is_refused(void **state)
{
	struct peer_journal *journal, *second;
	struct error err = {0};
	char dir[64];

	state_dir_make(dir);
	journal = open_peer(dir);
	assert_int_equal(peer_journal_open(dir, &second, &err), -EBUSY);
	assert_null(second);
	peer_journal_close(&journal);
	state_dir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_states_come_back_per_user_and_peer),
		cmocka_unit_test(test_uncommitted_changes_end_with_the_process),
		cmocka_unit_test(test_node_id_is_kept_even_when_the_environment_is_lost),
		cmocka_unit_test(test_consumed_is_published_only_when_durable),
		cmocka_unit_test(test_place_records),
		cmocka_unit_test(test_mailbox_directories),
		cmocka_unit_test(test_users_are_the_durable_queue),
		cmocka_unit_test(test_tombstones_are_pruned_up_to_a_modseq),
		cmocka_unit_test(test_tombstone_marks),
		cmocka_unit_test(test_one_state),
		cmocka_unit_test(test_what_a_peer_was_told_outlives_a_kill),
		cmocka_unit_test(test_second_dsyncd_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
