/* Messages between dsyncd and workers: every one comes back as it went, and nothing that is cut,
 * stretched or scrambled is read beyond its end. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "sync/worker_protocol.h"

/* Parses a message as its type says. */
static int parse(const struct buf *message)
{
	union {
		struct worker_job job;
		struct worker_event event;
		struct worker_box box;
		struct worker_caught_up caught_up;
		struct worker_go go;
		struct sync_peer peer;
		struct sync_mailbox_state state;
		struct worker_session session;
		struct worker_done done;
		struct worker_found found;
		struct worker_list_expunges list;
		struct worker_expunges expunges;
		struct sync_expunge expunge;
	} u;
	struct worker_reader reader;
	int rc = worker_get_begin(&reader, message);

	if (rc < 0)
		return rc;
	switch (reader.type) {
	case WORKER_JOB:
		return worker_get_job(&reader, &u.job);
	case WORKER_EVENTS:
		while (rc == 0 && reader.left)
			rc = worker_get_event(&reader, &u.event);
		return rc;
	case WORKER_BOX:
		return worker_get_box(&reader, &u.box);
	case WORKER_CAUGHT_UP:
		return worker_get_caught_up(&reader, &u.caught_up);
	case WORKER_GO:
		return worker_get_go(&reader, &u.go);
	case WORKER_BEGIN:
		return worker_get_peer(&reader, &u.peer);
	case WORKER_STATES:
		while (rc == 0 && reader.left)
			rc = worker_get_state(&reader, &u.state);
		return rc;
	case WORKER_SESSION:
		return worker_get_session(&reader, &u.session);
	case WORKER_DONE:
		return worker_get_done(&reader, &u.done);
	case WORKER_FOUND:
		return worker_get_found(&reader, &u.found);
	case WORKER_LIST_EXPUNGES:
		return worker_get_list_expunges(&reader, &u.list);
	case WORKER_EXPUNGES:
		rc = worker_get_expunges(&reader, &u.expunges);
		while (rc == 0 && reader.left)
			rc = worker_get_expunge(&reader, &u.expunge);
		return rc;
	default:
		return -EPROTO;
	}
}

#define SAMPLES 12

static void sample(unsigned i, struct buf *out)
{
	struct worker_job job = {.user = "alice@example.org", .peer = "tcp:b:12345", .flags = 1};
	struct worker_event event = {.event = {.seq = 7,
					       .time = 1700000000,
					       .origin = 3,
					       .kind = MAIL_EVENT_RENAMED,
					       .home = "",
					       .dir = "Maildir/.A",
					       .name = "old",
					       .name2 = "new"},
				     .guid = {{9}}};
	struct worker_box box = {.dir = "Maildir",
				 .name = "INBOX",
				 .guid = {{1}},
				 .uid_validity = 1,
				 .uid_next = 2,
				 .messages = 3,
				 .highest_modseq = 4,
				 .incomplete = true};
	struct worker_caught_up caught_up = {.tree_changed = true, .failed = 2, .reason = "why"};
	struct worker_go go = {.connect = true,
			       .type = SYNC_BOXES,
			       .box_count = 1,
			       .boxes = {{.guid = {{1}}, .name = "INBOX"}}};
	struct sync_peer peer = {.id = "x", .hostname = "h", .is_dsyncfs = true};
	struct sync_mailbox_state state = {
		.guid = {{5}}, .common_uid = 6, .peer_modseq = 7, .reached_uid = 8};
	struct worker_session session = {.user = "bob",
					 .client_minor = 2,
					 .log_passthrough = true,
					 .unread = "VERSION",
					 .unread_len = 7};
	struct worker_done done = {.outcome = SYNC_AGAIN,
				   .failure = WORKER_FAILURE_USER,
				   .kept = true,
				   .sent = 1,
				   .peer_id = "x",
				   .reason = "r"};
	struct worker_found found = {.code = -ENOENT,
				     .uid = 5000,
				     .gid = 5001,
				     .user = "u",
				     .name = "n",
				     .home_rel = "h",
				     .text = "t"};

	struct worker_list_expunges list = {.guid = {{3}}, .name = "INBOX", .since = 9};
	struct worker_expunges expunges = {.guid = {{3}},
					   .more = true,
					   .uid_validity = 1,
					   .uid_next = 2,
					   .messages = 3,
					   .highest_modseq = (uint64_t)1 << 40};
	struct sync_expunge expunge = {.uid = 5, .guid = {{6}}, .modseq = 7};

	switch (i) {
	case 0:
		worker_put_job(out, &job);
		break;
	case 1:
		worker_put_begin(out, WORKER_EVENTS);
		worker_put_event(out, &event);
		worker_put_event(out, &event);
		break;
	case 2:
		worker_put_box(out, &box);
		break;
	case 3:
		worker_put_caught_up(out, &caught_up);
		break;
	case 4:
		worker_put_go(out, &go);
		break;
	case 5:
		worker_put_peer(out, &peer);
		break;
	case 6:
		worker_put_begin(out, WORKER_STATES);
		worker_put_state(out, &state);
		break;
	case 7:
		worker_put_session(out, &session);
		break;
	case 8:
		worker_put_done(out, &done);
		break;
	case 9:
		worker_put_list_expunges(out, &list);
		break;
	case 10:
		worker_put_expunges(out, &expunges);
		worker_put_expunge(out, &expunge);
		worker_put_expunge(out, &expunge);
		break;
	default:
		worker_put_found(out, &found);
		break;
	}
}

static void test_round_trip(void **state)
{
	struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);
	struct worker_reader reader;
	struct worker_event event;
	struct worker_go go;
	struct worker_done done;
	struct worker_found found;
	struct worker_session session;
	struct worker_expunges expunges;
	struct sync_expunge expunge;

	sample(10, &message);
	assert_int_equal(worker_get_begin(&reader, &message), 0);
	assert_int_equal(reader.type, WORKER_EXPUNGES);
	assert_int_equal(worker_get_expunges(&reader, &expunges), 0);
	assert_true(expunges.more && !expunges.failed);
	assert_true(expunges.highest_modseq == (uint64_t)1 << 40);
	assert_int_equal(worker_get_expunge(&reader, &expunge), 0);
	assert_int_equal(expunge.uid, 5);
	assert_int_equal(expunge.modseq, 7);
	assert_int_equal(worker_get_expunge(&reader, &expunge), 0);
	assert_int_equal(worker_get_end(&reader), 0);
	sample(1, &message);
	assert_int_equal(worker_get_begin(&reader, &message), 0);
	assert_int_equal(reader.type, WORKER_EVENTS);
	assert_int_equal(worker_get_event(&reader, &event), 0);
	assert_int_equal(event.event.seq, 7);
	assert_int_equal(event.event.kind, MAIL_EVENT_RENAMED);
	assert_int_equal(event.event.origin, 3);
	assert_string_equal(event.event.dir, "Maildir/.A");
	assert_string_equal(event.event.name, "old");
	assert_string_equal(event.event.name2, "new");
	assert_int_equal(event.guid.bytes[0], 9);

	sample(4, &message);
	assert_int_equal(worker_get_begin(&reader, &message), 0);
	assert_int_equal(worker_get_go(&reader, &go), 0);
	assert_true(go.connect);
	assert_int_equal(go.type, SYNC_BOXES);
	assert_int_equal(go.box_count, 1);
	assert_string_equal(go.boxes[0].name, "INBOX");

	sample(7, &message);
	assert_int_equal(worker_get_begin(&reader, &message), 0);
	assert_int_equal(worker_get_session(&reader, &session), 0);
	assert_int_equal(session.unread_len, 7);
	assert_memory_equal(session.unread, "VERSION", 7);

	sample(8, &message);
	assert_int_equal(worker_get_begin(&reader, &message), 0);
	assert_int_equal(worker_get_done(&reader, &done), 0);
	assert_int_equal(done.outcome, SYNC_AGAIN);
	assert_int_equal(done.failure, WORKER_FAILURE_USER);
	assert_true(done.kept);

	sample(11, &message);
	assert_int_equal(worker_get_begin(&reader, &message), 0);
	assert_int_equal(worker_get_found(&reader, &found), 0);
	assert_int_equal(found.code, -ENOENT);
	assert_int_equal(found.uid, 5000);
	buf_free(&message);
}

/* Copies into a block of exactly that size, so that a read beyond it is seen (by ASan). */
static int parse_exact(const void *data, size_t len)
{
	struct buf exact = {.data = malloc(len ? len : 1), .len = len, .size = len, .max = len};
	int rc;

	memcpy(exact.data, data, len);
	rc = parse(&exact);
	free(exact.data);
	return rc;
}

static void test_cut_and_stretched(void **state)
{
	struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);

	for (unsigned i = 0; i < SAMPLES; i++) {
		sample(i, &message);
		assert_false(message.failed);
		assert_int_equal(parse_exact(message.data, message.len), 0);
		for (size_t len = 0; len < message.len; len++) {
			/* A list may end after any whole item. */
			if (parse_exact(message.data, len) == 0)
				assert_true((i == 1 || i == 6 || i == 10) && len >= 2);
		}
		buf_append_byte(&message, 0);
		assert_int_equal(parse_exact(message.data, message.len), -EPROTO);
	}
	buf_free(&message);
}

static void test_scrambled(void **state)
{
	struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);
	uint32_t chance = 99;

	for (unsigned round = 0; round < 100000; round++) {
		sample(round % SAMPLES, &message);
		for (unsigned i = 0; i < 1 + round % 3; i++) {
			chance = chance * 1103515245 + 12345;
			message.data[(chance >> 8) % message.len] = (char)(chance >> 24);
		}
		(void)parse_exact(message.data, message.len);
	}
	buf_free(&message);
}

static void test_other_version(void **state)
{
	struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);

	sample(0, &message);
	message.data[0]++;
	assert_int_equal(parse(&message), -EPROTO);
	buf_free(&message);
}

static void test_too_long_is_never_sent(void **state)
{
	struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);
	char *name = calloc(1, WORKER_MESSAGE_MAX + 1);
	struct worker_reader reader;
	int pair[2];

	assert_non_null(name);
	memset(name, 'x', WORKER_MESSAGE_MAX);
	worker_put_begin(&message, WORKER_COMMAND);
	worker_put_str(&message, name);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	assert_int_equal(worker_send(pair[0], &message, -1), -EMSGSIZE);
	/* Longer than the field may be, though the message is not. */
	name[WORKER_NAME_MAX + 1] = '\0';
	worker_put_begin(&message, WORKER_COMMAND);
	worker_put_str(&message, name);
	assert_int_equal(worker_get_begin(&reader, &message), 0);
	assert_string_equal(worker_get_str(&reader, WORKER_NAME_MAX), "");
	assert_int_equal(worker_get_end(&reader), -EPROTO);
	close(pair[0]);
	close(pair[1]);
	free(name);
	buf_free(&message);
}

static void test_socket(void **state)
{
	struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);
	struct buf got = BUF_INIT(WORKER_MESSAGE_MAX);
	char byte = 0;
	int pair[2], pipes[2], fd;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	assert_int_equal(pipe(pipes), 0);
	sample(7, &message);
	assert_int_equal(worker_send(pair[0], &message, pipes[0]), 0);
	sample(0, &message);
	assert_int_equal(worker_send(pair[0], &message, -1), 0);
	assert_int_equal(worker_receive(pair[1], &got, &fd), 1);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(write(pipes[1], "x", 1), 1);
	assert_int_equal(read(fd, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(fd);
	/* One packet, one message. */
	assert_int_equal(worker_receive(pair[1], &got, &fd), 1);
	assert_int_equal(fd, -1);
	assert_int_equal(got.len, message.len);
	assert_memory_equal(got.data, message.data, message.len);
	close(pair[0]);
	assert_int_equal(worker_receive(pair[1], &got, NULL), 0);
	assert_int_equal(worker_send(pair[1], &message, -1), -EPIPE);
	close(pair[1]);
	close(pipes[0]);
	close(pipes[1]);
	buf_free(&message);
	buf_free(&got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_cut_and_stretched),
		cmocka_unit_test(test_scrambled),
		cmocka_unit_test(test_other_version),
		cmocka_unit_test(test_too_long_is_never_sent),
		cmocka_unit_test(test_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
