/* What a list says in C items, and takes from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "sync/item_list.h"

/* Both nodes compute with the same numbers; Dovecot gets none of them. */
static void an_expunge_says_when_it_came_and_went(void **state)
{
	static const struct mailbox_change changes[] = {
		{.uid = 5, .modseq = 9, .append_modseq = 3, .expunge_modseq = 7, .expunged = true},
		{.uid = 6, .modseq = 9, .append_modseq = 0, .expunge_modseq = 9, .expunged = true},
	};
	const struct mail_filter filter = {0};
	struct item_keywords_scratch scratch = {0};
	struct item_list own, received;

	(void)state;
	item_list_init(&own);
	item_list_init(&received);
	for (size_t i = 0; i < 2; i++) {
		struct item_change change;
		char hex[GUID_HEX_SIZE];

		assert_int_equal(item_list_add_expunge(&own, &changes[i]), 0);
		item_list_to_change(&own.items[i], true, &filter, &scratch, hex, &change);
		assert_true(change.modseq == 0 && change.appended == 0 && change.expunged == 0);
		item_list_to_change(&own.items[i], false, &filter, &scratch, hex, &change);
		assert_int_equal(change.expunged, i == 0 ? 7 : 0);
		assert_int_equal(item_list_add_received(&received, &change), 0);
		assert_int_equal(received.items[i].flags.modseq, 9);
		assert_int_equal(received.items[i].appended, i == 0 ? 3 : 0);
		assert_int_equal(received.items[i].expunged, i == 0 ? 7 : 0);
	}
	free(scratch.words);
	item_list_free(&own);
	item_list_free(&received);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_expunge_says_when_it_came_and_went),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
