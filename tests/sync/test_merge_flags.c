/* The flag merge: both ends reach the same value, changes beat no change, MODSEQ and role decide.
 */
#include "sync/merge_flags.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct merge_flags flags(uint64_t modseq, uint8_t final, uint8_t add, uint8_t removed)
{
	return (struct merge_flags){
		.modseq = modseq, .final = final, .add = add, .remove = removed};
}

static uint8_t merged(enum merge_role role, struct merge_flags own, struct merge_flags peer)
{
	struct merge_flags_result result;

	assert_int_equal(merge_flags(role, &own, &peer, &result), 0);
	free(result.allocated);
	return result.flags;
}

static void changes_of_both_sides_are_kept(void **state)
{
	struct merge_flags a = flags(5, MAIL_SEEN | MAIL_FLAGGED, MAIL_FLAGGED, 0);
	struct merge_flags b = flags(9, MAIL_SEEN | MAIL_ANSWERED, MAIL_ANSWERED, 0);
	struct merge_flags_result result;

	assert_int_equal(merge_flags(MERGE_MASTER, &a, &b, &result), 0);
	assert_int_equal(result.flags, MAIL_SEEN | MAIL_FLAGGED | MAIL_ANSWERED);
	assert_true(result.own_changed);
	assert_true(result.peer_changed);
}

static void removal_beats_no_change(void **state)
{
	struct merge_flags a = flags(5, 0, 0, MAIL_SEEN), b = flags(9, MAIL_SEEN, 0, 0);

	assert_int_equal(merged(MERGE_MASTER, a, b), 0);
	assert_int_equal(merged(MERGE_SLAVE, b, a), 0);
}

static void higher_modseq_wins_between_opposites(void **state)
{
	struct merge_flags a = flags(5, MAIL_SEEN, MAIL_SEEN, 0), b = flags(6, 0, 0, MAIL_SEEN);

	assert_int_equal(merged(MERGE_MASTER, a, b), 0);
	assert_int_equal(merged(MERGE_SLAVE, b, a), 0);
	b.modseq = 4;
	assert_int_equal(merged(MERGE_MASTER, a, b), MAIL_SEEN);
	assert_int_equal(merged(MERGE_SLAVE, b, a), MAIL_SEEN);
}

static void master_wins_at_equal_modseqs(void **state)
{
	struct merge_flags a = flags(5, MAIL_SEEN, MAIL_SEEN, 0), b = flags(5, 0, 0, MAIL_SEEN);

	assert_int_equal(merged(MERGE_MASTER, a, b), MAIL_SEEN);
	assert_int_equal(merged(MERGE_SLAVE, b, a), MAIL_SEEN);
	assert_int_equal(merged(MERGE_SLAVE, a, b), 0);
	assert_int_equal(merged(MERGE_MASTER, b, a), 0);
}

static void recent_is_no_flag(void **state)
{
	struct merge_flags a = flags(5, MAIL_RECENT | MAIL_SEEN, MAIL_RECENT, 0);
	struct merge_flags b = flags(9, MAIL_SEEN, 0, 0);
	struct merge_flags_result result;

	assert_int_equal(merge_flags(MERGE_MASTER, &a, &b, &result), 0);
	assert_int_equal(result.flags, MAIL_SEEN);
	assert_false(result.own_changed);
	assert_false(result.peer_changed);
}

static void every_combination_is_symmetric(void **state)
{
	for (unsigned i = 0; i < 64; i++) {
		for (int order = -1; order <= 1; order++) {
			struct merge_flags a = flags(5, i & 1, (i >> 1) & 1, (i >> 2) & 1);
			struct merge_flags b = flags(5 + (uint64_t)order, (i >> 3) & 1,
						     (i >> 4) & 1, (i >> 5) & 1);
			uint8_t x = merged(MERGE_MASTER, a, b), y = merged(MERGE_SLAVE, b, a);

			assert_int_equal(x, y);
			/* What both have, stays. */
			if (a.final == b.final)
				assert_int_equal(x, a.final);
		}
	}
}

static const char *const work[] = {"$Work"};
static const char *const work_low[] = {"$work"};
static const char *const later_work[] = {"$Later", "$Work"};

static void keywords_follow_the_same_rules(void **state)
{
	struct merge_flags a = {.modseq = 5, .final_keywords = {work, 1}};
	struct merge_flags b = {
		.modseq = 4, .final_keywords = {NULL, 0}, .remove_keywords = {work, 1}};
	struct merge_flags_result result;

	assert_int_equal(merge_flags(MERGE_MASTER, &a, &b, &result), 0);
	assert_int_equal(result.keywords.count, 0);
	assert_true(result.own_changed);
	assert_false(result.peer_changed);
	free(result.allocated);

	a.add_keywords = (struct keyword_set){work, 1};
	assert_int_equal(merge_flags(MERGE_MASTER, &a, &b, &result), 0);
	assert_int_equal(result.keywords.count, 1);
	assert_string_equal(result.keywords.names[0], "$Work");
	assert_true(result.peer_changed);
	free(result.allocated);
}

static void keywords_that_differ_in_case_are_one(void **state)
{
	struct merge_flags a = {.modseq = 5, .final_keywords = {work_low, 1}};
	struct merge_flags b = {
		.modseq = 5, .final_keywords = {later_work, 2}, .add_keywords = {later_work, 1}};
	struct merge_flags_result result;

	assert_int_equal(merge_flags(MERGE_MASTER, &a, &b, &result), 0);
	assert_int_equal(result.keywords.count, 2);
	assert_string_equal(result.keywords.names[0], "$Later");
	assert_string_equal(result.keywords.names[1], "$Work");
	assert_true(result.own_changed);
	assert_false(result.peer_changed);
	free(result.allocated);
	assert_true(keyword_set_equal(a.final_keywords, (struct keyword_set){work, 1}));
	assert_false(keyword_set_equal(a.final_keywords, b.final_keywords));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changes_of_both_sides_are_kept),
		cmocka_unit_test(removal_beats_no_change),
		cmocka_unit_test(higher_modseq_wins_between_opposites),
		cmocka_unit_test(master_wins_at_equal_modseqs),
		cmocka_unit_test(recent_is_no_flag),
		cmocka_unit_test(every_combination_is_symmetric),
		cmocka_unit_test(keywords_follow_the_same_rules),
		cmocka_unit_test(keywords_that_differ_in_case_are_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
