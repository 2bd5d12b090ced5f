/* The mailbox merge against a real Dovecot: its rules, and where absence must not count. */
#include "sync/merge_mailbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct merge_mailbox_plan plan;
static struct error err;

static struct merge_item mail(uint32_t uid, const char *guid)
{
	return (struct merge_item){.type = 's', .uid = uid, .guid = guid, .flags.modseq = uid + 1};
}

static struct merge_item changed(uint32_t uid, const char *guid, uint64_t modseq, uint8_t final,
				 uint8_t add)
{
	return (struct merge_item){.type = 'f',
				   .uid = uid,
				   .guid = guid,
				   .flags = {.modseq = modseq, .final = final, .add = add}};
}

static struct merge_item expunged(uint32_t uid, const char *guid)
{
	struct merge_item item = {.type = 'e', .uid = uid, .has_guid128 = guid != NULL};

	if (guid != NULL)
		guid_from_message_guid(guid, &item.guid128);
	return item;
}

static struct merge_mailbox_input input(const struct merge_item *own, size_t own_count,
					const struct merge_item *peer, size_t peer_count,
					uint32_t uid_next)
{
	struct merge_side side = {.uid_validity = 1,
				  .uid_next = uid_next,
				  .highest_modseq = 20,
				  .have_guids = true,
				  .have_save_guids = true};
	struct merge_mailbox_input in = {
		.mode = MERGE_DOVECOT, .absence_counts = true, .own = side, .peer = side};

	in.own.items = own;
	in.own.item_count = own_count;
	in.peer.items = peer;
	in.peer.item_count = peer_count;
	return in;
}

static void run(const struct merge_mailbox_input *in)
{
	merge_mailbox_plan_free(&plan);
	if (merge_mailbox(in, &plan, &err) < 0)
		fail_msg("%s", err.text);
}

static int tear_down(void **state)
{
	merge_mailbox_plan_free(&plan);
	return 0;
}

/* What a pair of Dovecots did: both had delivered as UID 6, and both mails moved. */
static void a_uid_conflict_moves_both_in_guid_order(void **state)
{
	const struct merge_item own[] = {mail(6, "70522739fb84026bbf7b000083ecc375")};
	const struct merge_item peer[] = {mail(6, "1795327227.M971394P31680.vm,S=129,W=136")};
	struct merge_mailbox_input in = input(own, 1, peer, 1, 7);

	in.stateful = true;
	in.common_uid = 5;
	run(&in);
	assert_int_equal(plan.action_count, 2);
	assert_int_equal(plan.actions[0].kind, MERGE_APPEND);
	assert_int_equal(plan.actions[0].uid, 7);
	assert_int_equal(plan.actions[0].peer_uid, 6);
	assert_int_equal(plan.actions[1].kind, MERGE_CHANGE_UID);
	assert_int_equal(plan.actions[1].source_uid, 6);
	assert_int_equal(plan.actions[1].uid, 8);
	assert_int_equal(plan.common_uid, 8);
	assert_int_equal(plan.uid_next, 9);
}

/* Seen beside a real Dovecot: one of the three is beyond the other's UIDNEXT and stays. */
static void what_conflicts_moves_in_guid_order_around_what_stays(void **state)
{
	const struct merge_item ours[] = {mail(18, "b"), mail(19, "c10"), mail(20, "c11")};
	const struct merge_item theirs[] = {mail(18, "b"), mail(19, "x")};
	struct merge_mailbox_input in = input(ours, 3, theirs, 2, 20);

	in.absence_counts = false;
	in.role = MERGE_SLAVE;
	in.own.uid_next = 21;
	run(&in);
	assert_int_equal(plan.action_count, 2);
	assert_int_equal(plan.actions[0].kind, MERGE_CHANGE_UID);
	assert_int_equal(plan.actions[0].source_uid, 19);
	assert_int_equal(plan.actions[0].uid, 21);
	assert_int_equal(plan.actions[1].kind, MERGE_APPEND);
	assert_int_equal(plan.actions[1].uid, 22);
}

/* Seen beside a real Dovecot: the walk ends at an UID that was another message's at each end, so
 * the lists that are merged begin with messages that both have. Those are passed on both sides at
 * once, and the order of what follows is the GUIDs'. */
static void what_both_have_is_passed_on_both_sides_at_once(void **state)
{
	const struct merge_item ours[] = {mail(1, "a"),	 expunged(2, "p"), mail(3, "m"),
					  mail(4, "z8"), mail(5, "m9"),	   mail(6, "c")};
	const struct merge_item theirs[] = {mail(1, "a"),  expunged(2, "q"), mail(3, "m"),
					    mail(4, "z8"), mail(5, "m9"),    mail(6, "z1")};
	struct merge_mailbox_input in = input(ours, 6, theirs, 6, 7);

	in.absence_counts = false;
	for (int role = 0; role < 2; role++) {
		in.role = role == 0 ? MERGE_MASTER : MERGE_SLAVE;
		run(&in);
		assert_int_equal(plan.action_count, 2);
		assert_int_equal(plan.actions[0].kind, MERGE_CHANGE_UID);
		assert_int_equal(plan.actions[0].source_uid, 6);
		assert_int_equal(plan.actions[0].uid, 7);
		assert_int_equal(plan.actions[1].kind, MERGE_APPEND);
		assert_int_equal(plan.actions[1].uid, 8);
	}
}

static void below_the_last_match_absence_is_an_expunge(void **state)
{
	const struct merge_item own[] = {mail(1, "a"), mail(2, "b"), mail(3, "c"), mail(4, "d")};
	const struct merge_item peer[] = {mail(1, "a"), mail(3, "c")};
	struct merge_mailbox_input in = input(own, 4, peer, 2, 5);

	in.peer.uid_next = 4;
	run(&in);
	assert_int_equal(plan.action_count, 1);
	assert_int_equal(plan.actions[0].kind, MERGE_EXPUNGE);
	assert_int_equal(plan.actions[0].uid, 2);
	assert_int_equal(plan.common_uid, 4);
}

static void absence_that_must_not_count_puts_the_message_back(void **state)
{
	const struct merge_item own[] = {mail(1, "a"), mail(2, "b"), mail(3, "c")};
	const struct merge_item peer[] = {mail(1, "a"), mail(3, "c")};
	struct merge_mailbox_input in = input(own, 3, peer, 2, 4);

	in.absence_counts = false;
	run(&in);
	assert_int_equal(plan.expunges, 0);
	assert_int_equal(plan.action_count, 1);
	assert_int_equal(plan.actions[0].kind, MERGE_CHANGE_UID);
	assert_int_equal(plan.actions[0].source_uid, 2);
	assert_int_equal(plan.actions[0].uid, 4);
	/* New to the next session. */
	assert_int_equal(plan.common_uid, 3);
	assert_int_equal(plan.uid_next, 5);
	assert_true(plan.run_again);
}

static void what_is_missing_here_is_not_revived_while_absence_counts(void **state)
{
	const struct merge_item own[] = {mail(1, "a"), mail(3, "c")};
	const struct merge_item own_log[] = {mail(1, "a"), expunged(2, "b"), mail(3, "c")};
	const struct merge_item peer[] = {mail(1, "a"), mail(2, "b"), mail(3, "c")};
	struct merge_mailbox_input in = input(own, 2, peer, 3, 4);

	run(&in);
	assert_int_equal(plan.action_count, 0);
	/* Our own mailbox may have gone back: take it while the peer still has it. */
	in.absence_counts = false;
	run(&in);
	assert_int_equal(plan.appends, 1);
	assert_int_equal(plan.actions[0].peer_uid, 2);
	assert_int_equal(plan.actions[0].uid, 4);
	assert_true(plan.run_again);
	/* Unless our log tells that it was expunged. */
	in.own.items = own_log;
	in.own.item_count = 3;
	run(&in);
	assert_int_equal(plan.action_count, 0);
}

static void an_expunge_record_counts_with_or_without_guid(void **state)
{
	const struct merge_item own[] = {mail(1, "a"), mail(2, "b"), mail(3, "c")};
	const struct merge_item peer[] = {mail(1, "a"), expunged(2, NULL), mail(3, "c")};
	struct merge_mailbox_input in = input(own, 3, peer, 3, 4);

	in.absence_counts = false;
	run(&in);
	assert_int_equal(plan.action_count, 1);
	assert_int_equal(plan.actions[0].kind, MERGE_EXPUNGE);
	assert_int_equal(plan.actions[0].uid, 2);
}

/* Seen beside a real Dovecot: both had given UID 1 to a message of their own and renumbered it, and
 * UID 2 was expunged at one end since. The walk goes past the first, to the second. */
static void two_expunges_of_one_uid_do_not_hide_another(void **state)
{
	const struct merge_item a[] = {expunged(1, "p"), mail(2, "two"), mail(3, "c"),
				       mail(4, "d")};
	const struct merge_item b[] = {expunged(1, "q"), expunged(2, "two"), mail(3, "c"),
				       mail(4, "d")};
	struct merge_mailbox_input in = input(a, 4, b, 4, 5);

	in.absence_counts = false;
	run(&in);
	assert_int_equal(plan.action_count, 1);
	assert_int_equal(plan.actions[0].kind, MERGE_EXPUNGE);
	assert_int_equal(plan.actions[0].uid, 2);
	in = input(b, 4, a, 4, 5);
	in.absence_counts = false;
	run(&in);
	assert_int_equal(plan.action_count, 0);
}

/* The peer's has the UID of one that was expunged here, and is no such message. */
static void an_expunge_of_another_message_removes_nothing(void **state)
{
	const struct merge_item own[] = {mail(1, "a"), expunged(2, "p"), mail(3, "c")};
	const struct merge_item peer[] = {mail(1, "a"), mail(2, "q"), mail(3, "c")};
	struct merge_mailbox_input in = input(own, 3, peer, 3, 4);

	in.absence_counts = false;
	run(&in);
	assert_int_equal(plan.action_count, 1);
	assert_int_equal(plan.actions[0].kind, MERGE_APPEND);
	assert_int_equal(plan.actions[0].peer_uid, 2);
	assert_int_equal(plan.actions[0].uid, 4);
	assert_true(plan.run_again);
}

static void changes_with_state_are_applied(void **state)
{
	const struct merge_item peer[] = {changed(1, "a", 15, MAIL_SEEN, MAIL_SEEN),
					  expunged(2, "b"), mail(4, "d")};
	const struct merge_item found[] = {mail(1, "a"), mail(2, "b")};
	struct merge_mailbox_input in = input(NULL, 0, peer, 3, 4);

	in.stateful = true;
	in.common_uid = 3;
	in.peer.uid_next = 5;
	in.found = found;
	in.found_count = 2;
	run(&in);
	assert_int_equal(plan.action_count, 3);
	assert_int_equal(plan.actions[0].kind, MERGE_SET_FLAGS);
	assert_int_equal(plan.actions[0].flags, MAIL_SEEN);
	assert_int_equal(plan.actions[0].modseq, 15);
	assert_int_equal(plan.actions[1].kind, MERGE_APPEND);
	assert_int_equal(plan.actions[1].uid, 4);
	assert_int_equal(plan.actions[2].kind, MERGE_EXPUNGE);
	assert_int_equal(plan.expunge_start, 2);
	assert_int_equal(plan.common_uid, 4);
}

static void what_the_peer_will_change_gets_a_modseq_above_its_own(void **state)
{
	const struct merge_item own[] = {changed(1, "a", 9, MAIL_FLAGGED, MAIL_FLAGGED)};
	const struct merge_item peer[] = {changed(1, "a", 15, MAIL_SEEN, MAIL_SEEN)};
	struct merge_mailbox_input in = input(own, 1, peer, 1, 4);

	in.stateful = true;
	in.common_uid = 3;
	run(&in);
	assert_int_equal(plan.action_count, 1);
	assert_int_equal(plan.actions[0].flags, MAIL_SEEN | MAIL_FLAGGED);
	assert_int_equal(plan.actions[0].modseq, 21);
}

static void a_wrong_guid_below_the_common_uid_asks_for_a_full_run(void **state)
{
	const struct merge_item peer[] = {expunged(2, "x")};
	const struct merge_item found[] = {mail(2, "b")};
	struct merge_mailbox_input in = input(NULL, 0, peer, 1, 4);

	in.stateful = true;
	in.common_uid = 3;
	in.found = found;
	in.found_count = 1;
	run(&in);
	assert_true(plan.need_full);
	assert_int_equal(plan.action_count, 0);
}

static void without_settable_guids_header_hashes_identify(void **state)
{
	struct merge_item own[] = {mail(1, "own guid")}, peer[] = {mail(1, "peer guid")};
	struct merge_mailbox_input in = input(own, 1, peer, 1, 2);

	own[0].hdr_hash = peer[0].hdr_hash = "5dbc4ae39bab4f4a1e35b542c4cdad3a";
	in.peer.have_save_guids = false;
	run(&in);
	assert_int_equal(plan.action_count, 0);
	assert_int_equal(plan.common_uid, 1);
}

static void guids_of_128_bits_are_compared_as_such(void **state)
{
	char hex[GUID_HEX_SIZE];
	struct guid guid;

	guid_from_message_guid("1795327227.M971394P31680.vm,S=129,W=136", &guid);
	const struct merge_item own[] = {mail(1, "1795327227.M971394P31680.vm,S=129,W=136")};
	const struct merge_item peer[] = {mail(1, guid_to_hex(&guid, hex))};
	struct merge_mailbox_input in = input(own, 1, peer, 1, 2);

	in.peer.have_only_guid128 = true;
	run(&in);
	assert_int_equal(plan.action_count, 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, NULL, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(a_uid_conflict_moves_both_in_guid_order),
		CASE(what_conflicts_moves_in_guid_order_around_what_stays),
		CASE(what_both_have_is_passed_on_both_sides_at_once),
		CASE(below_the_last_match_absence_is_an_expunge),
		CASE(absence_that_must_not_count_puts_the_message_back),
		CASE(what_is_missing_here_is_not_revived_while_absence_counts),
		CASE(an_expunge_record_counts_with_or_without_guid),
		CASE(two_expunges_of_one_uid_do_not_hide_another),
		CASE(an_expunge_of_another_message_removes_nothing),
		CASE(changes_with_state_are_applied),
		CASE(what_the_peer_will_change_gets_a_modseq_above_its_own),
		CASE(a_wrong_guid_below_the_common_uid_asks_for_a_full_run),
		CASE(without_settable_guids_header_hashes_identify),
		CASE(guids_of_128_bits_are_compared_as_such),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
