/* Which of two values of an attribute stays: both sides come to the same answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "sync/merge_attribute.h"

#define NONE ((struct merge_attribute){.known = false})

static struct merge_attribute value(const char *text, bool changed, int64_t last_change,
				    uint64_t modseq)
{
	return (struct merge_attribute){.value = text,
					.len = text != NULL ? strlen(text) : 0,
					.known = true,
					.changed = changed,
					.last_change = last_change,
					.modseq = modseq};
}

/* a and b are the two sides: which value both have afterwards. */
static const char *settle(struct merge_attribute a, struct merge_attribute b, bool stateful)
{
	bool a_takes = merge_attribute_takes(&a, &b, stateful);
	bool b_takes = merge_attribute_takes(&b, &a, stateful);

	if (a.value != NULL && b.value != NULL && strcmp(a.value, b.value) == 0) {
		assert_false(a_takes || b_takes);
		return a.value;
	}
	if (a.value == NULL && b.value == NULL) {
		assert_false(a_takes || b_takes);
		return NULL;
	}
	assert_true(a_takes != b_takes);
	return a_takes ? b.value : a.value;
}

static void test_rules(void **state)
{
	/* Who has nothing takes what there is, and what was removed where it was there. */
	assert_true(merge_attribute_takes(&NONE, &(struct merge_attribute){.value = "x", .len = 1},
					  false));
	struct merge_attribute removed = value(NULL, true, 5, 9), old = value("old", false, 0, 0);
	assert_false(merge_attribute_takes(&NONE, &removed, true));
	assert_true(merge_attribute_takes(&old, &removed, true));
	/* Only one of them changed since the last sync: that one, whatever the times say. */
	assert_string_equal(settle(value("a", true, 1, 9), value("b", false, 99, 3), true), "a");
	assert_string_equal(settle(value("a", true, 1, 9), value("b", false, 99, 3), false), "b");
	/* Both: the later one, by time, by MODSEQ, by the bytes. */
	assert_string_equal(settle(value("a", true, 2, 1), value("b", true, 1, 9), true), "a");
	assert_string_equal(settle(value("a", true, 0, 2), value("b", true, 0, 1), true), "a");
	assert_string_equal(settle(value("a", true, 0, 0), value("ab", true, 0, 0), true), "ab");
	/* A value wins over none. */
	assert_string_equal(settle(value("a", true, 0, 0), value(NULL, true, 0, 0), true), "a");
	assert_null(settle(value("a", true, 1, 0), value(NULL, true, 2, 0), true));
}

static struct merge_attribute pick(unsigned n)
{
	static const char *const values[] = {NULL, "", "a", "b"};

	return value(values[n & 3], n & 4, n & 8 ? 10 : 0, n & 16 ? 7 : n & 32 ? 3 : 0);
}

static void test_both_sides_agree(void **state)
{
	for (unsigned i = 0; i < 64; i++) {
		for (unsigned j = 0; j < 64; j++) {
			(void)settle(pick(i), pick(j), false);
			(void)settle(pick(i), pick(j), true);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_both_sides_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
