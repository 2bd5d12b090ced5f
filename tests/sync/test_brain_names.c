/* Mailbox names on the wire to and from a Dovecot, form by form. */
#include "sync/brain_names.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define NODES_MAX 16

/* Names in order; each mailbox has the GUID of its number. */
struct fixture {
	struct mailbox_tree tree;
	struct mailbox_node nodes[NODES_MAX];
};

static void add(struct fixture *f, const char *name, unsigned char guid)
{
	struct mailbox_node *node = &f->nodes[f->tree.node_count++];

	assert_true(f->tree.node_count <= NODES_MAX);
	*node = (struct mailbox_node){.name = strdup(name), .exists = true};
	if (guid != 0)
		memset(&node->guid, guid, sizeof(node->guid));
	f->tree.nodes = f->nodes;
	f->tree.separator = '/';
}

static void drop(struct fixture *f)
{
	for (size_t i = 0; i < f->tree.node_count; i++)
		free(f->nodes[i].name);
}

static void assert_said(const struct peer_names *names, const struct fixture *own,
			const struct fixture *peer, const char *name, const char *form)
{
	struct buf said = BUF_INIT(4096);

	assert_int_equal(names_to_peer(names, &own->tree, &peer->tree, name, &said), 0);
	assert_string_equal(buf_str(&said), form);
	buf_free(&said);
}

static void a_2_3_gets_every_name_escaped(void **state)
{
	const struct peer_names names = {.escape = '%'};
	struct fixture own = {0}, peer = {0};

	add(&peer, "a%41b", 1);
	assert_said(&names, &own, &peer, "a%41b", "a%2541b");
	assert_said(&names, &own, &peer, "new%20/kid%2f", "new%2520/kid%252f");
	/* Also where nothing follows that could be taken for a sequence. */
	assert_said(&names, &own, &peer, "100%", "100%25");
	assert_said(&names, &own, &peer, "%zz", "%25zz");
	assert_said(&names, &own, &peer, "%25", "%2525");
	assert_said(&names, &own, &peer, "plain/name", "plain/name");
	drop(&peer);
}

static void nobody_else_does(void **state)
{
	const struct peer_names names = {.escape = '\0'};
	struct fixture own = {0}, peer = {0};

	assert_said(&names, &own, &peer, "a%41b", "a%41b");
}

static void another_escape_character(void **state)
{
	const struct peer_names names = {.escape = '~'};
	struct fixture own = {0}, peer = {0};

	assert_said(&names, &own, &peer, "a%41~42", "a%41~7e42");
}

static void what_2_3_says_is_taken_as_it_is(void **state)
{
	struct peer_names names = {.escape = '%'};
	struct fixture own = {0}, peer = {0};

	add(&own, "a%41b", 1);
	add(&own, "c%43", 2);
	/* Renamed there: a sequence in any of its names shows that it says them as they are. */
	add(&peer, "aAb", 1);
	add(&peer, "x%20y", 3);
	assert_int_equal(names_from_peer(&names, &own.tree, &peer.tree), 0);
	assert_string_equal(peer.nodes[0].name, "aAb");
	assert_string_equal(peer.nodes[1].name, "x%20y");
	assert_false(names.unescaped);
	drop(&own);
	drop(&peer);
}

static void a_rename_of_2_3_counts(void **state)
{
	struct peer_names names = {.escape = '%'};
	struct fixture own = {0}, peer = {0};

	add(&own, "a%41b", 1);
	add(&peer, "aAb", 1);
	peer.nodes[0].last_renamed_or_created = 1700000000;
	assert_int_equal(names_from_peer(&names, &own.tree, &peer.tree), 0);
	assert_string_equal(peer.nodes[0].name, "aAb");
	assert_false(names.unescaped);
	drop(&own);
	drop(&peer);
}

static void a_2_4_means_our_name(void **state)
{
	struct peer_names names = {.escape = '%', .unescaped = true};
	struct fixture own = {0}, peer = {0};

	add(&own, "a%41b", 1);
	add(&own, "a%41b/kid%2f", 2);
	add(&own, "aAb", 3);
	add(&peer, "aAb", 1);
	add(&peer, "aAb/new", 4);
	add(&peer, "aAb/kid_", 2);
	add(&peer, "aAb", 3);
	add(&peer, "aAb/only-a-parent", 0);
	add(&peer, "other", 5);
	assert_int_equal(names_from_peer(&names, &own.tree, &peer.tree), 0);
	assert_string_equal(peer.nodes[0].name, "a%41b");
	/* Below it, what is new; a name that stands for none of ours is another. */
	assert_string_equal(peer.nodes[1].name, "a%41b/new");
	assert_string_equal(peer.nodes[2].name, "aAb/kid_");
	assert_string_equal(peer.nodes[3].name, "aAb");
	assert_string_equal(peer.nodes[4].name, "aAb/only-a-parent");
	assert_string_equal(peer.nodes[5].name, "other");
	drop(&own);
	drop(&peer);
}

static void a_2_4_hears_what_it_has_as_it_is(void **state)
{
	const struct peer_names names = {.escape = '%', .unescaped = true};
	struct fixture own = {0}, peer = {0};

	add(&own, "a%41b", 1);
	add(&own, "c%41", 2);
	add(&own, "c%41/new%42", 3);
	add(&own, "d%2f", 4);
	add(&own, "new%20", 5);
	add(&peer, "a%41b", 1);
	add(&peer, "c%41", 2);
	assert_said(&names, &own, &peer, "a%41b", "a%41b");
	assert_said(&names, &own, &peer, "new%20", "new%2520");
	/* With all that is above what it has to make. */
	assert_said(&names, &own, &peer, "c%41", "c%2541");
	assert_said(&names, &own, &peer, "c%41/new%42", "c%2541/new%2542");
	/* It could not have this one. */
	assert_said(&names, &own, &peer, "d%2f", "d%2f");
	assert_said(&names, &own, &peer, "e%ff", "e%ff");
	drop(&own);
	drop(&peer);
}

/* Seen in the D of a 2.3.19 that had deleted the mailbox. */
static void the_hash_of_a_name_is_that_of_its_escaped_form(void **state)
{
	char hex[GUID_HEX_SIZE];
	struct guid hash, plain;

	names_hash("b%41b", '/', '%', &hash);
	assert_string_equal(guid_to_hex(&hash, hex), "4f7e1c9adf3b282c3115720fe620701d");
	names_hash("b%2541b", '/', '\0', &plain);
	assert_true(guid_equal(&hash, &plain));
	names_hash("a/b", '.', '\0', &hash);
	names_hash("a.b", '/', '\0', &plain);
	assert_true(guid_equal(&hash, &plain));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_2_3_gets_every_name_escaped),
		cmocka_unit_test(nobody_else_does),
		cmocka_unit_test(another_escape_character),
		cmocka_unit_test(what_2_3_says_is_taken_as_it_is),
		cmocka_unit_test(a_rename_of_2_3_counts),
		cmocka_unit_test(a_2_4_means_our_name),
		cmocka_unit_test(a_2_4_hears_what_it_has_as_it_is),
		cmocka_unit_test(the_hash_of_a_name_is_that_of_its_escaped_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
