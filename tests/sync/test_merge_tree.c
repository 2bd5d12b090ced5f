/* The tree merge, case by case, and by random histories on both sides. */
#include "tree_model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct tree_model model;

static int set_up(void **state)
{
	tree_model_init(&model, MERGE_DSYNCFS, 1);
	return 0;
}

static int tear_down(void **state)
{
	tree_model_free(&model);
	return 0;
}

static void sync_and_compare(void)
{
	const char *difference;

	tree_model_sync(&model, SIZE_MAX, SIZE_MAX);
	difference = tree_model_difference(&model);
	if (difference != NULL) {
		tree_model_print(&model);
		fail_msg("the trees differ in %s", difference);
	}
	tree_model_sync(&model, SIZE_MAX, SIZE_MAX);
	if (model.actions[0] + model.actions[1] > 0) {
		tree_model_print(&model);
		fail_msg("a second run has something to do");
	}
}

static void a_missing_mailbox_is_created_never_deleted(void **state)
{
	tree_create(&model, 0, "Work/2025");
	sync_and_compare();
	assert_true(tree_has(&model, 1, "Work/2025"));
	assert_true(tree_has(&model, 0, "Work/2025"));
}

static void a_deletion_is_applied(void **state)
{
	tree_create(&model, 0, "Work");
	tree_create(&model, 0, "Work/sub");
	sync_and_compare();
	tree_delete(&model, 1, "Work");
	sync_and_compare();
	assert_false(tree_has(&model, 0, "Work"));
	assert_true(tree_has(&model, 0, "Work/sub"));
}

/* Defect 1. */
static void delete_and_recreate_does_not_bring_the_old_mails_back(void **state)
{
	struct guid old, new;

	tree_create(&model, 0, "Work");
	sync_and_compare();
	old = *tree_guid(&model, 1, "Work");
	tree_delete(&model, 0, "Work");
	tree_create(&model, 0, "Work");
	new = *tree_guid(&model, 0, "Work");
	sync_and_compare();
	assert_true(guid_equal(tree_guid(&model, 1, "Work"), &new));
	assert_false(guid_equal(&old, &new));
}

static void a_rename_is_applied_with_children(void **state)
{
	tree_create(&model, 0, "Work");
	tree_create(&model, 0, "Work/sub");
	sync_and_compare();
	tree_rename(&model, 0, "Work", "Done");
	tree_model_sync(&model, SIZE_MAX, SIZE_MAX);
	assert_int_equal(model.actions[0], 0);
	/* One rename carries the children. */
	assert_int_equal(model.actions[1], 1);
	sync_and_compare();
	assert_true(tree_has(&model, 1, "Done/sub"));
}

static void what_was_made_below_a_renamed_mailbox_follows_it(void **state)
{
	tree_create(&model, 0, "Work");
	sync_and_compare();
	tree_rename(&model, 0, "Work", "Done");
	tree_create(&model, 1, "Work/new");
	sync_and_compare();
	assert_true(tree_has(&model, 0, "Done/new"));
	assert_false(tree_has(&model, 1, "Work"));
}

static void the_newer_of_two_renames_wins(void **state)
{
	tree_create(&model, 0, "Work");
	sync_and_compare();
	tree_rename(&model, 0, "Work", "X");
	tree_rename(&model, 1, "Work", "Y");
	sync_and_compare();
	assert_true(tree_has(&model, 0, "Y"));
	assert_false(tree_has(&model, 0, "X"));
}

static void a_deletion_beats_a_rename(void **state)
{
	tree_create(&model, 0, "Work");
	sync_and_compare();
	tree_delete(&model, 0, "Work");
	tree_rename(&model, 1, "Work", "Kept");
	sync_and_compare();
	assert_false(tree_has(&model, 1, "Kept"));
}

static void swapped_names_are_swapped(void **state)
{
	struct guid a, b;

	tree_create(&model, 0, "A");
	tree_create(&model, 0, "B");
	sync_and_compare();
	a = *tree_guid(&model, 0, "A");
	b = *tree_guid(&model, 0, "B");
	tree_rename(&model, 0, "A", "T");
	tree_rename(&model, 0, "B", "A");
	tree_rename(&model, 0, "T", "B");
	sync_and_compare();
	assert_true(guid_equal(tree_guid(&model, 1, "A"), &b));
	assert_true(guid_equal(tree_guid(&model, 1, "B"), &a));
	assert_int_equal(tree_count(&model, 1), 3);
}

/* A ring of renames needs a passing name, whose rename is then the newest of all. */
static void a_run_cut_off_in_a_ring_leaves_no_passing_name(void **state)
{
	for (size_t cut = 1; cut <= 5; cut++) {
		tree_model_free(&model);
		tree_model_init(&model, MERGE_DSYNCFS, 1);
		tree_create(&model, 0, "A");
		tree_create(&model, 0, "A/below");
		tree_create(&model, 0, "B");
		sync_and_compare();
		tree_rename(&model, 0, "A", "T");
		tree_rename(&model, 0, "B", "A");
		tree_rename(&model, 0, "T", "B");
		tree_model_sync(&model, 0, cut);
		sync_and_compare();
		assert_true(tree_has(&model, 1, "A"));
		assert_true(tree_has(&model, 1, "B"));
		assert_true(tree_has(&model, 1, "B/below"));
		assert_int_equal(tree_count(&model, 1), 4);
	}
}

/* Defect 6: one run, both ends with the greater GUID. */
static void mailboxes_of_one_name_become_one(void **state)
{
	struct guid a, b;

	tree_create(&model, 0, "Work");
	tree_create(&model, 1, "Work");
	a = *tree_guid(&model, 0, "Work");
	b = *tree_guid(&model, 1, "Work");
	sync_and_compare();
	assert_true(guid_equal(tree_guid(&model, 0, "Work"), guid_cmp(&a, &b) > 0 ? &a : &b));
	assert_int_equal(tree_count(&model, 0), 2);
}

/* Defect 3: a clash of a rename and a new mailbox leaves no made-up name behind. */
static void a_clash_of_names_leaves_no_temporary_name(void **state)
{
	struct guid work, made;

	tree_create(&model, 0, "Work");
	sync_and_compare();
	work = *tree_guid(&model, 0, "Work");
	tree_rename(&model, 0, "Work", "Plan");
	tree_create(&model, 1, "Plan");
	made = *tree_guid(&model, 1, "Plan");
	sync_and_compare();
	assert_true(guid_equal(tree_guid(&model, 0, "Work"), &work));
	assert_true(guid_equal(tree_guid(&model, 0, "Plan"), &made));
	assert_int_equal(tree_count(&model, 0), 3);
}

static void inbox_is_merged_never_renamed(void **state)
{
	tree_model_free(&model);
	tree_model_init_apart(&model, MERGE_DSYNCFS, 1);
	assert_false(guid_equal(tree_guid(&model, 0, "INBOX"), tree_guid(&model, 1, "INBOX")));
	sync_and_compare();
	assert_int_equal(tree_count(&model, 0), 1);
}

static void an_inbox_that_is_a_folder_elsewhere_stays_inbox(void **state)
{
	/* As after a restore under another name: the other side's INBOX has its GUID here as Old.
	 */
	tree_create(&model, 1, "Old");
	tree_swap_guids(&model, 1, "INBOX", "Old");
	sync_and_compare();
	assert_true(tree_has(&model, 0, "INBOX"));
	assert_true(tree_has(&model, 0, "Old"));
	assert_int_equal(tree_count(&model, 1), 2);
}

static void subscriptions_follow_the_newer_change(void **state)
{
	tree_create(&model, 0, "Work");
	tree_subscribe(&model, 0, "Work", true);
	tree_subscribe(&model, 1, "Gone", true);
	sync_and_compare();
	assert_true(tree_is_subscribed(&model, 1, "Work"));
	assert_true(tree_is_subscribed(&model, 0, "Gone"));
	tree_subscribe(&model, 1, "Work", false);
	sync_and_compare();
	assert_false(tree_is_subscribed(&model, 0, "Work"));
	tree_subscribe(&model, 1, "Work", true);
	tree_subscribe(&model, 0, "Work", true);
	tree_subscribe(&model, 0, "Work", false);
	sync_and_compare();
	assert_false(tree_is_subscribed(&model, 1, "Work"));
	/* A name that is no mailbox (any more): its removal is in the list of deletions. */
	tree_subscribe(&model, 0, "Gone", false);
	sync_and_compare();
	assert_false(tree_is_subscribed(&model, 1, "Gone"));
}

/* Trees written out by hand. */
static struct mailbox_node node(const char *name, unsigned guid, int64_t time)
{
	struct mailbox_node result = {.name = (char *)(uintptr_t)name,
				      .exists = true,
				      .uid_validity = guid,
				      .uid_next = 1,
				      .last_renamed_or_created = time};

	if (guid != 0) {
		result.guid.bytes[0] = (uint8_t)guid;
		result.guid.bytes[15] = 1;
	}
	return result;
}

static struct merge_tree_plan plan;

static int merge(struct mailbox_node *own, size_t own_count, struct mailbox_node *peer,
		 size_t peer_count, bool no_directories, bool incomplete)
{
	struct mailbox_tree own_tree = {.nodes = own, .node_count = own_count, .separator = '.'};
	struct mailbox_tree peer_tree = {.nodes = peer, .node_count = peer_count, .separator = '.'};
	struct merge_tree_input input = {
		.mode = MERGE_DSYNCFS,
		.own = &own_tree,
		.peer = &peer_tree,
		.own_has_no_directories = no_directories,
		.own_incomplete = incomplete,
	};
	struct error err = {0};
	int ret = merge_tree(&input, &plan, &err);

	if (ret < 0)
		assert_true(strlen(err.text) > 0);
	return ret;
}

/* Does the plan's renames to the nodes, whose names are malloc'ed afterwards. */
static void play_renames(struct mailbox_node *nodes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		nodes[i].name = strdup(nodes[i].name);
	for (size_t i = 0; i < plan.action_count; i++) {
		const char *from = plan.actions[i].name, *to = plan.actions[i].new_name;
		size_t len = strlen(from);

		assert_int_equal(plan.actions[i].kind, MERGE_TREE_RENAME);
		for (size_t j = 0; j < count; j++) {
			char *name;

			assert_string_not_equal(nodes[j].name, to);
			if (strncmp(nodes[j].name, from, len) != 0 ||
			    (nodes[j].name[len] != '\0' && nodes[j].name[len] != '/'))
				continue;
			assert_true(asprintf(&name, "%s%s", to, nodes[j].name + len) > 0);
			free(nodes[j].name);
			nodes[j].name = name;
		}
	}
}

/* Parents and children that change places: each rename of a parent carries others off again. */
static void a_tree_turned_inside_out_is_ordered(void **state)
{
	struct mailbox_node own[] = {node("A", 2, 1),	 node("A/A", 3, 1), node("A/A/A", 4, 1),
				     node("A/B", 5, 1),	 node("B", 6, 1),   node("B/A", 7, 1),
				     node("B/A/A", 8, 1)};
	struct mailbox_node peer[] = {node("A", 8, 2),	  node("A/A", 4, 2), node("A/A/A", 2, 2),
				      node("A/B", 7, 2),  node("B", 5, 2),   node("B/A", 6, 2),
				      node("B/A/A", 3, 2)};
	const size_t count = sizeof(own) / sizeof(own[0]);

	assert_int_equal(merge(own, count, peer, count, true, false), 0);
	assert_false(plan.run_again);
	play_renames(own, count);
	for (size_t i = 0; i < count; i++) {
		for (size_t j = 0; j < count; j++) {
			if (guid_equal(&own[i].guid, &peer[j].guid))
				assert_string_equal(own[i].name, peer[j].name);
		}
		free(own[i].name);
	}
	merge_tree_plan_free(&plan);
}

/* Defect 5. */
static void a_directory_never_becomes_a_mailbox(void **state)
{
	struct mailbox_node own[] = {node("INBOX", 1, 0)};
	struct mailbox_node peer[] = {node("Dir", 0, 0), node("INBOX", 1, 0)};

	assert_int_equal(merge(own, 1, peer, 2, true, false), 0);
	assert_int_equal(plan.action_count, 0);
	merge_tree_plan_free(&plan);
	assert_int_equal(merge(own, 1, peer, 2, false, false), 0);
	assert_int_equal(plan.action_count, 1);
	assert_int_equal(plan.actions[0].kind, MERGE_TREE_CREATE_DIR);
	merge_tree_plan_free(&plan);
}

static void an_incomplete_tree_creates_nothing(void **state)
{
	struct mailbox_node own[] = {node("INBOX", 1, 0)};
	struct mailbox_node peer[] = {node("INBOX", 1, 0), node("Work", 2, 0)};

	assert_int_equal(merge(own, 1, peer, 2, true, true), 0);
	assert_int_equal(plan.action_count, 0);
	assert_true(plan.run_again);
	merge_tree_plan_free(&plan);
}

static void hostile_trees_are_refused(void **state)
{
	struct mailbox_node own[] = {node("INBOX", 1, 0)};
	static const char *const bad[] = {"", "/x", "x/", "a//b", ".", "a/../b", "..", "a\nb"};
	struct mailbox_node twice[] = {node("A", 2, 0), node("B", 2, 0)};
	struct mailbox_node unsorted[] = {node("B", 2, 0), node("A", 3, 0)};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct mailbox_node peer[] = {node(bad[i], 2, 0)};

		if (merge(own, 1, peer, 1, true, false) != -EINVAL)
			fail_msg("name %zu was taken", i);
	}
	assert_int_equal(merge(own, 1, twice, 2, true, false), -EINVAL);
	assert_int_equal(merge(own, 1, unsorted, 2, true, false), -EINVAL);
}

/* Dovecot keeps the old content when the name exists again, and offers it for merging. */
static void dovecot_drops_a_deletion_of_a_name_made_again(void **state)
{
	model.mode = MERGE_DOVECOT;
	tree_create(&model, 0, "Work");
	sync_and_compare();
	tree_delete(&model, 0, "Work");
	tree_create(&model, 0, "Work");
	sync_and_compare();
	assert_int_equal(tree_count(&model, 1), 2);
}

/* DSYNCFS_TEST_SEED: that one, told step by step. DSYNCFS_TEST_RUNS: so many. */
static void random_histories(void (*history)(uint32_t seed, bool print))
{
	const char *only = getenv("DSYNCFS_TEST_SEED"), *count = getenv("DSYNCFS_TEST_RUNS");
	uint32_t first = 1, last = 1000;

	if (count != NULL)
		last = (uint32_t)strtoul(count, NULL, 10);
	if (only != NULL)
		first = last = (uint32_t)strtoul(only, NULL, 10);
	for (uint32_t seed = first; seed <= last; seed++)
		history(seed, only != NULL);
	print_message("histories with seeds %u to %u\n", first, last);
}

static void dsyncfs_history(uint32_t seed, bool print)
{
	tree_model_history(MERGE_DSYNCFS, seed, print);
}

static void random_trees_converge_without_loss(void **state)
{
	random_histories(dsyncfs_history);
}

static void dovecot_history(uint32_t seed, bool print)
{
	tree_model_history(MERGE_DOVECOT, seed, print);
}

static void random_trees_converge_by_dovecots_rules(void **state)
{
	random_histories(dovecot_history);
}

/* ---- one way ---- */

static void random_trees_become_the_sources(void **state)
{
	random_histories(tree_model_backup_history);
}

static int backup(const struct mailbox_node *own, size_t own_count, const struct mailbox_node *peer,
		  size_t peer_count, struct merge_tree_plan *plan_r)
{
	struct mailbox_tree own_tree = {
		.nodes = (struct mailbox_node *)own, .node_count = own_count, .separator = '.'};
	struct mailbox_tree peer_tree = {
		.nodes = (struct mailbox_node *)peer, .node_count = peer_count, .separator = '.'};
	struct merge_tree_input input = {.own = &own_tree, .peer = &peer_tree};
	struct error err = {0};

	return merge_tree_backup(&input, plan_r, &err);
}

static struct mailbox_node node_of(const char *name, unsigned char guid, uint32_t uid_next)
{
	return (struct mailbox_node){.name = (char *)name,
				     .exists = true,
				     .guid = {.bytes = {guid}},
				     .uid_validity = 1,
				     .uid_next = uid_next};
}

/* Defects 15 and 16: what cannot be done is refused before anything is changed. */
static void a_source_without_mailboxes_empties_nothing(void **state)
{
	const struct mailbox_node own[] = {node_of("INBOX", 1, 5), node_of("Work", 2, 5)};
	const struct mailbox_node work[] = {node_of("Work", 2, 5)};

	assert_int_equal(backup(own, 2, NULL, 0, &plan), -EOPNOTSUPP);
	assert_int_equal(plan.action_count, 0);
	assert_int_equal(backup(own, 2, work, 1, &plan), -EOPNOTSUPP);
	assert_int_equal(plan.action_count, 0);
}

static void an_inbox_that_is_ahead_is_refused(void **state)
{
	const struct mailbox_node own[] = {node_of("INBOX", 1, 6)};
	const struct mailbox_node peer[] = {node_of("INBOX", 1, 5), node_of("Work", 2, 5)};

	assert_int_equal(backup(own, 1, peer, 2, &plan), -EOPNOTSUPP);
	assert_int_equal(plan.action_count, 0);
}

static void a_folder_that_is_ahead_is_made_anew(void **state)
{
	const struct mailbox_node own[] = {node_of("INBOX", 1, 5), node_of("Work", 2, 6)};
	const struct mailbox_node peer[] = {node_of("INBOX", 1, 5), node_of("Work", 2, 5)};

	assert_int_equal(backup(own, 2, peer, 2, &plan), 0);
	assert_int_equal(plan.action_count, 2);
	assert_int_equal(plan.actions[0].kind, MERGE_TREE_DELETE);
	assert_int_equal(plan.actions[1].kind, MERGE_TREE_CREATE);
	assert_string_equal(plan.actions[1].name, "Work");
	merge_tree_plan_free(&plan);
}

/* A copy that another program made has GUIDs of its own. */
static void a_mailbox_made_independently_takes_the_sources_guid(void **state)
{
	const struct mailbox_node own[] = {node_of("INBOX", 1, 5), node_of("Work", 2, 5)};
	const struct mailbox_node peer[] = {node_of("INBOX", 3, 5), node_of("Work", 4, 5)};

	assert_int_equal(backup(own, 2, peer, 2, &plan), 0);
	assert_int_equal(plan.action_count, 2);
	assert_int_equal(plan.actions[0].kind, MERGE_TREE_ADOPT_GUID);
	assert_int_equal(plan.actions[1].kind, MERGE_TREE_ADOPT_GUID);
	assert_int_equal(plan.actions[1].guid.bytes[0], 4);
	merge_tree_plan_free(&plan);
}

static int to_dovecot(const struct mailbox_node *own, size_t own_count,
		      const struct mailbox_node *peer, size_t peer_count, bool restricted)
{
	const struct mailbox_tree own_tree = {.nodes = (struct mailbox_node *)own,
					      .node_count = own_count};
	const struct mailbox_tree peer_tree = {.nodes = (struct mailbox_node *)peer,
					       .node_count = peer_count};
	struct error err = {0};

	return merge_tree_backup_to_dovecot(&own_tree, &peer_tree, restricted, &err);
}

/* It would empty its INBOX first, and with a Maildir get no further. */
static void a_dovecot_is_not_made_to_delete_its_inbox(void **state)
{
	const struct mailbox_node own[] = {node_of("INBOX", 1, 5), node_of("Work", 2, 5)};
	struct mailbox_node peer[] = {node_of("INBOX", 1, 5), node_of("Work", 3, 9)};

	assert_int_equal(to_dovecot(own, 2, peer, 2, false), 0);
	assert_int_equal(to_dovecot(own, 2, NULL, 0, false), 0);
	peer[0].uid_next = 6;
	assert_int_equal(to_dovecot(own, 2, peer, 2, false), -EOPNOTSUPP);
	peer[0].uid_next = 4;
	assert_int_equal(to_dovecot(own, 2, peer, 2, false), 0);
	peer[0].uid_validity = 2;
	assert_int_equal(to_dovecot(own, 2, peer, 2, false), -EOPNOTSUPP);
	peer[0] = node_of("INBOX", 4, 2);
	assert_int_equal(to_dovecot(own, 2, peer, 2, false), -EOPNOTSUPP);
	/* One that has never had a message is no loss. */
	peer[0].uid_next = 1;
	assert_int_equal(to_dovecot(own, 2, peer, 2, false), 0);
}

static void a_dovecot_is_not_emptied_by_a_source_without_mailboxes(void **state)
{
	const struct mailbox_node own[] = {node_of("Work", 2, 5)};
	const struct mailbox_node peer[] = {node_of("INBOX", 1, 5), node_of("Work", 2, 5)};

	assert_int_equal(to_dovecot(own, 0, peer, 2, false), -EOPNOTSUPP);
	assert_int_equal(to_dovecot(own, 1, peer, 2, false), -EOPNOTSUPP);
	/* Some mailboxes are asked for, and INBOX is none of them. */
	assert_int_equal(to_dovecot(own, 0, peer, 2, true), 0);
	assert_int_equal(to_dovecot(own, 1, peer, 2, true), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(a_missing_mailbox_is_created_never_deleted),
		CASE(a_deletion_is_applied),
		CASE(delete_and_recreate_does_not_bring_the_old_mails_back),
		CASE(a_rename_is_applied_with_children),
		CASE(what_was_made_below_a_renamed_mailbox_follows_it),
		CASE(the_newer_of_two_renames_wins),
		CASE(a_deletion_beats_a_rename),
		CASE(swapped_names_are_swapped),
		CASE(a_run_cut_off_in_a_ring_leaves_no_passing_name),
		CASE(a_tree_turned_inside_out_is_ordered),
		CASE(mailboxes_of_one_name_become_one),
		CASE(a_clash_of_names_leaves_no_temporary_name),
		CASE(inbox_is_merged_never_renamed),
		CASE(an_inbox_that_is_a_folder_elsewhere_stays_inbox),
		CASE(subscriptions_follow_the_newer_change),
		CASE(a_directory_never_becomes_a_mailbox),
		CASE(an_incomplete_tree_creates_nothing),
		CASE(hostile_trees_are_refused),
		CASE(dovecot_drops_a_deletion_of_a_name_made_again),
		cmocka_unit_test(a_source_without_mailboxes_empties_nothing),
		cmocka_unit_test(an_inbox_that_is_ahead_is_refused),
		cmocka_unit_test(a_folder_that_is_ahead_is_made_anew),
		cmocka_unit_test(a_mailbox_made_independently_takes_the_sources_guid),
		cmocka_unit_test(a_dovecot_is_not_made_to_delete_its_inbox),
		cmocka_unit_test(a_dovecot_is_not_emptied_by_a_source_without_mailboxes),
		cmocka_unit_test(random_trees_become_the_sources),
		cmocka_unit_test(random_trees_converge_without_loss),
		cmocka_unit_test(random_trees_converge_by_dovecots_rules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
