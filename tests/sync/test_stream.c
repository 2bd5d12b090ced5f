/* The stream: dot-stuffing, bounds, no deadlock, timeouts, bytes handed in and back. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include "store/base/file.h"
#include "sync/stream.h"

static const char *const values[] = {
	"",	      "x",	     "x\n",  ".",	   ".\n",	   "..",	"\n.\n",
	"a\n.b\n",    "\r",	     "\r\n", "a\r\r\n.\r", "\r.",	   "\n",	"\n\n",
	"a\r\n.\r\n", ".\r\nX\n.\n", "a\r.", "\r\r\r",	   "x\n..\n.\r\n", "no end\n.", "\r\n.x",
};

static void read_whole_value(struct stream *stream, struct buf *out, size_t piece)
{
	char data[64];
	struct error err = {0};
	ssize_t n;

	buf_clear(out);
	while ((n = stream_read_value(stream, data, piece, &err)) > 0)
		buf_append(out, data, (size_t)n);
	if (n < 0)
		fail_msg("%s", err.text);
}

static void values_survive(void **state)
{
	(void)state;
	/* However the bytes are cut on either side. */
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		for (size_t write_piece = 1; write_piece < 6; write_piece++) {
			for (size_t read_piece = 2; read_piece < 6; read_piece++) {
				AUTO_BUF struct buf got = BUF_INIT(1000);
				struct stream *a, *b;
				struct error err = {0};
				const char *p = values[i];
				size_t left = strlen(p);
				char *line;
				size_t len;

				assert_int_equal(stream_new_pair(NULL, &a, &b, &err), 0);
				while (left > 0) {
					size_t n = left < write_piece ? left : write_piece;
					stream_write_value(a, p, n, &err);
					p += n;
					left -= n;
				}
				stream_end_value(a, &err);
				stream_write_str(a, "next\n", &err);
				assert_int_equal(stream_flush(a, &err), 0);
				read_whole_value(b, &got, read_piece);
				assert_string_equal(buf_str(&got), values[i]);
				assert_int_equal(got.len, strlen(values[i]));
				assert_int_equal(stream_read_line(b, &line, &len, &err), 0);
				assert_string_equal(line, "next");
				stream_free(&a);
				stream_free(&b);
			}
		}
	}
}

static void byte_by_byte_arrival(void **state)
{
	static const char wire[] = "..first\n..\nx\r\n.\r\nline\r\n";
	(void)state;
	AUTO_BUF struct buf got = BUF_INIT(1000);
	struct stream *stream;
	struct error err = {0};
	char *line;
	size_t len;

	assert_int_equal(stream_new_memory("", 0, NULL, &stream, &err), 0);
	for (size_t i = 0; i < sizeof(wire) - 1; i++) {
		char data[8];
		assert_int_equal(stream_push_input(stream, wire + i, 1, &err), 0);
		(void)data;
	}
	read_whole_value(stream, &got, 3);
	assert_string_equal(buf_str(&got), ".first\n.\nx");
	assert_int_equal(stream_read_line(stream, &line, &len, &err), 0);
	assert_string_equal(line, "line");
	stream_free(&stream);
}

static void accepts_bare_line_feeds_at_the_end(void **state)
{
	(void)state;
	AUTO_BUF struct buf got = BUF_INIT(1000);
	struct stream *stream;
	struct error err = {0};
	static const char text[] = "a\n.\nb\r\n.\nc\n.\r\n.\n\n.\n";
	static const char *const want[] = {"a", "b", "c", "", ""};

	assert_int_equal(stream_new_memory(text, sizeof(text) - 1, NULL, &stream, &err), 0);
	for (size_t i = 0; i < 5; i++) {
		read_whole_value(stream, &got, 64);
		assert_string_equal(buf_str(&got), want[i]);
	}
	stream_free(&stream);
}

static void end_inside_a_value_is_an_error(void **state)
{
	(void)state;
	struct stream *stream;
	struct error err = {0};
	char data[16];

	assert_int_equal(stream_new_memory("abc\r\n", 5, NULL, &stream, &err), 0);
	stream_note_received(stream, "mail");
	assert_int_equal(stream_read_value(stream, data, sizeof(data), &err), 3);
	assert_int_equal(stream_read_value(stream, data, sizeof(data), &err), -EPIPE);
	assert_non_null(strstr(err.text, "last received=mail"));
	/* It sticks. */
	assert_int_equal(stream_write_str(stream, "x", &err), -EPIPE);
	stream_free(&stream);
}

static void long_line_is_refused(void **state)
{
	(void)state;
	static char text[5000];
	const struct stream_settings set = {.max_line_bytes = 1000};
	struct stream *stream;
	struct error err = {0};
	char *line;
	size_t len;

	memset(text, 'x', sizeof(text));
	assert_int_equal(stream_new_memory(text, sizeof(text), &set, &stream, &err), 0);
	assert_int_equal(stream_read_line(stream, &line, &len, &err), -EMSGSIZE);
	stream_free(&stream);
}

static void stalled_peer_times_out(void **state)
{
	(void)state;
	const struct stream_settings set = {.timeout_secs = 1};
	struct stream *a, *b;
	struct error err = {0};
	char *line;
	size_t len;

	assert_int_equal(stream_new_pair(&set, &a, &b, &err), 0);
	stream_note_sent(a, "handshake");
	assert_int_equal(stream_read_line(a, &line, &len, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "no activity for 1 seconds"));
	assert_non_null(strstr(err.text, "last sent=handshake"));
	stream_free(&a);
	stream_free(&b);
}

/* Writes much before it reads anything. */
static void *write_then_read(void *ptr)
{
	struct stream *stream = ptr;
	struct error err = {0};
	char text[1001];
	char *line;
	size_t len;
	intptr_t ret = 0;

	memset(text, 'y', 999);
	text[999] = '\n';
	for (int i = 0; i < 4000 && ret == 0; i++)
		ret = stream_write(stream, text, 1000, &err);
	if (ret == 0)
		ret = stream_flush(stream, &err);
	for (int i = 0; i < 4000 && ret == 0; i++)
		ret = stream_read_line(stream, &line, &len, &err);
	return (void *)ret;
}

static void both_writing_does_not_deadlock(void **state)
{
	(void)state;
	const struct stream_settings set = {.timeout_secs = 10};
	struct stream *a, *b;
	struct error err = {0};
	pthread_t thread;
	void *other;

	assert_int_equal(stream_new_pair(&set, &a, &b, &err), 0);
	assert_int_equal(pthread_create(&thread, NULL, write_then_read, b), 0);
	void *mine = write_then_read(a);
	pthread_join(thread, &other);
	assert_int_equal((intptr_t)mine, 0);
	assert_int_equal((intptr_t)other, 0);
	assert_int_equal(stream_bytes_in(a), 4000000);
	assert_int_equal(stream_bytes_out(b), 4000000);
	stream_free(&a);
	stream_free(&b);
}

static void read_ahead_is_bounded(void **state)
{
	(void)state;
	const struct stream_settings set = {.timeout_secs = 1, .max_ahead_bytes = 100000};
	struct stream *stream;
	struct error err = {0};
	static char text[65536];
	int fds[2], ret = 0;

	/* A peer that only sends. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(stream_new(fds[0], fds[0], &set, &stream, &err), 0);
	for (int i = 0; i < 200 && ret == 0; i++) {
		while (write(fds[1], text, sizeof(text)) > 0)
			;
		ret = stream_write(stream, text, sizeof(text), &err);
	}
	assert_true(ret == -ETIMEDOUT || ret == -ENOBUFS);
	assert_true(stream_bytes_in(stream) < 400000);
	stream_free(&stream);
	close(fds[1]);
}

static void early_and_unread_bytes(void **state)
{
	(void)state;
	AUTO_BUF struct buf unread = BUF_INIT(1000);
	struct stream *stream;
	struct error err = {0};
	char *line;
	size_t len;
	int fds[2], in, out;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(stream_new(fds[0], fds[0], NULL, &stream, &err), 0);
	assert_int_equal(stream_push_input(stream, "ear", 3, &err), 0);
	assert_int_equal(write(fds[1], "ly\nrest\nof", 10), 10);
	assert_int_equal(stream_read_line(stream, &line, &len, &err), 0);
	assert_string_equal(line, "early");
	stream_release(&stream, &in, &out, &unread);
	assert_int_equal(in, fds[0]);
	assert_string_equal(buf_str(&unread), "rest\nof");
	close(fds[0]);
	close(fds[1]);
}

static void pipes_get_their_flags_back(void **state)
{
	(void)state;
	struct stream *stream;
	struct error err = {0};
	int to[2], from[2], in, out;

	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	assert_int_equal(stream_new(from[0], to[1], NULL, &stream, &err), 0);
	assert_true((fcntl(to[1], F_GETFL) & O_NONBLOCK) != 0);
	stream_release(&stream, &in, &out, NULL);
	assert_true((fcntl(to[1], F_GETFL) & O_NONBLOCK) == 0);
	close(to[0]);
	close(to[1]);
	close(from[0]);
	close(from[1]);
}

static void output_in_packets(void **state)
{
	(void)state;
	struct stream *stream;
	struct error err = {0};

	assert_int_equal(stream_new_memory("", 0, NULL, &stream, &err), 0);
	stream_write_str(stream, "plain\n", &err);
	assert_int_equal(stream_set_output_framing(stream, true, &err), 0);
	stream_write_str(stream, "ab", &err);
	stream_write_str(stream, "c\n", &err);
	assert_int_equal(stream_flush(stream, &err), 0);
	stream_write_str(stream, "d\n", &err);
	assert_int_equal(stream_flush(stream, &err), 0);
	const struct buf *written = stream_written(stream);
	assert_int_equal(written->len, 6 + 5 + 4 + 5 + 2);
	assert_memory_equal(written->data, "plain\n\0\0\0\0\4abc\n\0\0\0\0\2d\n", 22);
	stream_free(&stream);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_survive),
		cmocka_unit_test(byte_by_byte_arrival),
		cmocka_unit_test(accepts_bare_line_feeds_at_the_end),
		cmocka_unit_test(end_inside_a_value_is_an_error),
		cmocka_unit_test(long_line_is_refused),
		cmocka_unit_test(stalled_peer_times_out),
		cmocka_unit_test(both_writing_does_not_deadlock),
		cmocka_unit_test(read_ahead_is_bounded),
		cmocka_unit_test(early_and_unread_bytes),
		cmocka_unit_test(pipes_get_their_flags_back),
		cmocka_unit_test(output_in_packets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
