/*
 * Two brains and random histories: programs change both nodes, sessions run, some are cut.
 * Afterwards both nodes are equal, nothing is lost, doubled or resurrected, and another session
 * does nothing.
 *
 * Usage: test_brain_random [SEED [ROUNDS]]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/sync/brain_pair.h"
#include "tests/sync/fake_store.h"

#define MESSAGES_MAX 4000

static uint32_t first_seed = 1;
static unsigned round_count = 150;

struct history {
	int64_t clock;
	uint32_t seed;
	struct fake_account *accounts[2];
	struct test_node nodes[2];
	/* Every message ever delivered, and whether somebody expunged it. */
	char guids[MESSAGES_MAX][64];
	bool expunged[MESSAGES_MAX];
	/* A session that broke off gave it another UID on one side, and the next one has no state
	 * of its mailbox (or of an empty one, or is full): nothing ties an expunge of the one to
	 * the other, and the mail is restored. */
	bool half_moved[MESSAGES_MAX], untied[MESSAGES_MAX];
	size_t message_count;
	bool boxes_deleted;
};

static uint32_t pick(struct history *h, uint32_t below)
{
	h->seed = h->seed * 1664525 + 1013904223;
	return (h->seed >> 8) % below;
}

static struct fake_box *pick_box(struct history *h, struct fake_account *account)
{
	return &account->boxes[pick(h, (uint32_t)account->box_count)];
}

static void deliver(struct history *h, struct fake_account *account)
{
	char body[200];

	if (h->message_count == MESSAGES_MAX)
		return;
	char *guid = h->guids[h->message_count];
	snprintf(guid, 64, "%u.M%zuP%u.host,S=%u", h->seed, h->message_count, pick(h, 1000),
		 pick(h, 5000));
	snprintf(body, sizeof(body), "%sSubject: %zu\n\n%s\n", pick(h, 4) == 0 ? "." : "",
		 h->message_count, pick(h, 2) != 0 ? ".\r\n..\n." : "text");
	fake_deliver(account, pick_box(h, account), guid, body);
	h->message_count++;
}

static void note_expunged(struct history *h, const char *guid)
{
	for (size_t i = 0; i < h->message_count; i++) {
		if (strcmp(h->guids[i], guid) == 0)
			h->expunged[i] = true;
	}
}

static void change_a_message(struct history *h, struct fake_account *account)
{
	static const char *const keywords[] = {"$Label1", "work", "Junk"};
	struct fake_box *box = pick_box(h, account);

	if (box->mail_count == 0)
		return;
	struct fake_mail *mail = &box->mails[pick(h, (uint32_t)box->mail_count)];
	uint32_t uid = mail->uid;
	switch (pick(h, 5)) {
	case 0:
		fake_flags(box, uid, (uint8_t)(1 << pick(h, 5)), 0);
		break;
	case 1:
		fake_flags(box, uid, 0, (uint8_t)(1 << pick(h, 5)));
		break;
	case 2:
		fake_keyword(box, uid, keywords[pick(h, 3)], true);
		break;
	case 3:
		fake_keyword(box, uid, keywords[pick(h, 3)], false);
		break;
	default:
		note_expunged(h, mail->guid);
		fake_expunge(box, uid);
	}
}

static void change_the_tree(struct history *h, struct fake_account *account)
{
	static const char *const names[] = {"A", "B", "A/sub", "C"};
	const char *name = names[pick(h, 4)];
	struct fake_box *box = fake_find_box(account, name);
	struct error err;

	switch (pick(h, 4)) {
	case 0:
	case 1:
		if (box == NULL)
			mailbox_list_create(&account->user, name, NULL, 0, &err);
		break;
	case 2:
		mailbox_list_subscribe(&account->user, name, pick(h, 2) != 0, &err);
		break;
	default:
		if (box == NULL)
			break;
		h->boxes_deleted = true;
		mailbox_list_delete(&account->user, name, &box->status.guid, &err);
	}
}

/* A client has seen what is there: none of it is recent any more. */
static void open_in_a_client(struct fake_box *box)
{
	box->status.first_recent_uid = box->status.uid_next;
	box->version++;
}

static void some_changes(struct history *h, unsigned count, bool tree)
{
	for (unsigned i = 0; i < count; i++) {
		struct fake_account *account = h->accounts[pick(h, 2)];
		uint32_t what = pick(h, 21);

		if (what == 20)
			open_in_a_client(pick_box(h, account));
		else if (what < 8)
			deliver(h, account);
		else if (what < 19 || !tree)
			change_a_message(h, account);
		else
			change_the_tree(h, account);
	}
}

static void at_begin(struct fake_account *account, const char *mailbox)
{
	struct fake_box *box = fake_find_box(account, mailbox);

	account->on_begin = NULL;
	if (box != NULL && box->mail_count > 0)
		fake_flags(box, box->mails[box->mail_count / 2].uid, MAIL_DRAFT, 0);
}

static enum sync_type pick_type(struct history *h)
{
	return pick(h, 8) == 0 ? SYNC_FULL : SYNC_CHANGED;
}

static uint32_t uid_of(const struct fake_account *account, const char *guid, struct guid *box_r)
{
	for (size_t i = 0; i < account->box_count; i++) {
		for (size_t m = 0; m < account->boxes[i].mail_count; m++) {
			*box_r = account->boxes[i].status.guid;
			if (strcmp(account->boxes[i].mails[m].guid, guid) == 0)
				return account->boxes[i].mails[m].uid;
		}
	}
	return 0;
}

static bool has_state(const struct test_node *node, const struct guid *box)
{
	for (size_t i = 0; i < node->state_count; i++) {
		if (guid_equal(&node->states[i].guid, box))
			return node->states[i].common_uid > 0;
	}
	return false;
}

static void note_half_moved(struct history *h)
{
	for (size_t i = 0; i < h->message_count; i++) {
		struct guid box[2];
		uint32_t a = uid_of(h->accounts[0], h->guids[i], &box[0]);
		uint32_t b = uid_of(h->accounts[1], h->guids[i], &box[1]);

		h->half_moved[i] |= a != 0 && b != 0 && a != b;
		if (h->half_moved[i] && (!has_state(&h->nodes[0], &box[a == 0 ? 1 : 0]) ||
					 !has_state(&h->nodes[1], &box[a == 0 ? 1 : 0])))
			h->untied[i] = true;
	}
}

/* A session that may be cut anywhere, or meet a change in its middle. */
static void rough_session(struct history *h)
{
	struct session_results results;
	uint32_t master = pick(h, 2);
	enum sync_type type = pick_type(h);

	for (size_t i = 0; type == SYNC_FULL && i < h->message_count; i++)
		h->untied[i] |= h->half_moved[i];
	if (pick(h, 4) == 0)
		h->accounts[pick(h, 2)]->on_begin = at_begin;
	run_session_cut(&h->nodes[master], &h->nodes[1 - master], type, pick(h, 2) != 0,
			pick(h, 3) == 0 ? 1000000 : 1 + pick(h, 6000), &results);
	h->accounts[0]->on_begin = h->accounts[1]->on_begin = NULL;
	/* Losing the saved state costs work, never mail. */
	if (pick(h, 12) == 0)
		h->nodes[pick(h, 2)].state_count = 0;
	note_half_moved(h);
}

static unsigned count_guid(const struct fake_account *account, const char *guid)
{
	unsigned count = 0;

	for (size_t i = 0; i < account->box_count; i++) {
		for (size_t m = 0; m < account->boxes[i].mail_count; m++)
			count += strcmp(account->boxes[i].mails[m].guid, guid) == 0;
	}
	return count;
}

static void expect_nothing_lost(struct history *h, uint32_t seed)
{
	for (size_t i = 0; i < h->message_count; i++) {
		unsigned count = count_guid(h->accounts[0], h->guids[i]);

		if (count > 1)
			fail_msg("seed %u: %s is there %u times", seed, h->guids[i], count);
		if (h->expunged[i] && count != 0 && !h->untied[i])
			fail_msg("seed %u: %s was resurrected", seed, h->guids[i]);
		if (!h->expunged[i] && count == 0 && !h->boxes_deleted)
			fail_msg("seed %u: %s is lost", seed, h->guids[i]);
		/* If it was restored, it is a message again. */
		if (count != 0)
			h->expunged[i] = false;
	}
}

static void settle(struct history *h, uint32_t seed)
{
	struct session_results results;

	if (run_until_done(&h->nodes[0], &h->nodes[1], SYNC_CHANGED, &results) < 0)
		fail_msg("seed %u: no end: master %d '%s' '%s', slave %d '%s' '%s'", seed,
			 results.master.outcome, results.master.reason, results.master_err.text,
			 results.slave.outcome, results.slave.reason, results.slave_err.text);
	const char *differ = fake_accounts_differ(h->accounts[0], h->accounts[1], true);
	if (differ != NULL)
		fail_msg("seed %u: %s", seed, differ);
	expect_nothing_lost(h, seed);

	unsigned begins = h->accounts[0]->begin_count + h->accounts[1]->begin_count;
	run_session(&h->nodes[0], &h->nodes[1], SYNC_CHANGED, &results);
	if (results.master.outcome != SYNC_DONE || results.master.mails_sent != 0 ||
	    results.slave.mails_sent != 0 || results.master.mailboxes != 0 ||
	    h->accounts[0]->begin_count + h->accounts[1]->begin_count != begins)
		fail_msg("seed %u: the second session was not idle: %u mailboxes '%s'", seed,
			 results.master.mailboxes, results.master.reason);
	memset(h->untied, 0, sizeof(h->untied));
	memset(h->half_moved, 0, sizeof(h->half_moved));
}

static void run_history(uint32_t seed, bool tree)
{
	struct history *h = calloc(1, sizeof(*h));

	h->seed = seed * 2654435761U;
	for (int i = 0; i < 2; i++) {
		h->accounts[i] = fake_account_new("alice", &h->clock);
		test_node_init(&h->nodes[i], &h->accounts[i]->user,
			       i == 0 ? "a.example.org" : "b.example.org");
		/* So that these mailboxes are large. */
		h->nodes[i].fill_from = seed % 3 == 0 ? 0 : 1;
		h->nodes[i].block_uids = seed % 3 == 1 ? 0 : 1 + seed % 4;
	}
	for (unsigned step = 0; step < 4; step++) {
		some_changes(h, 1 + pick(h, 12), tree);
		for (unsigned i = pick(h, 3); i > 0; i--) {
			rough_session(h);
			some_changes(h, pick(h, 4), tree);
		}
		settle(h, seed);
	}
	for (int i = 0; i < 2; i++)
		fake_account_free(&h->accounts[i]);
	free(h);
}

static void random_mail(void **state)
{
	(void)state;
	for (unsigned i = 0; i < round_count; i++)
		run_history(first_seed + i, false);
}

static void random_mail_and_folders(void **state)
{
	(void)state;
	for (unsigned i = 0; i < round_count; i++)
		run_history(first_seed + i, true);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_mail),
		cmocka_unit_test(random_mail_and_folders),
	};

	if (argc > 1)
		first_seed = (uint32_t)strtoul(argv[1], NULL, 10);
	if (argc > 2)
		round_count = (unsigned)strtoul(argv[2], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
