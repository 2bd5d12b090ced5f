/* A TCP connection whose other end takes its time: a slow disk is no cut link. (Cut links: scenario
 * partition.) */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "store/base/file.h"
#include "sync/link_check.h"
#include "sync/stream.h"
#include "sync/tcp.h"

#define BYTES	 ((size_t)32 << 20) /* more than both sockets' buffers take */
#define PAUSE_MS (LINK_DEAD_MS + 2000)

struct sender {
	struct stream *stream;
	struct error err;
	int rc;
};

static void *send_all(void *arg)
{
	static char data[65536];
	struct sender *sender = arg;

	memset(data, 'x', sizeof(data));
	for (size_t sent = 0; sent < BYTES && sender->rc == 0; sent += sizeof(data))
		sender->rc = stream_write(sender->stream, data, sizeof(data), &sender->err);
	if (sender->rc == 0)
		sender->rc = stream_flush(sender->stream, &sender->err);
	return NULL;
}

static int connected(int *other_r)
{
	struct sockaddr_in address = {0};
	socklen_t size = sizeof(address);
	struct error err;
	AUTO_CLOSE int listener = -1;
	int fd;

	assert_int_equal(tcp_listen("127.0.0.1", 0, &listener, &err), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
	assert_int_equal(tcp_connect("127.0.0.1", ntohs(address.sin_port), 2000, &fd, NULL, &err),
			 0);
	*other_r = accept(listener, NULL, NULL);
	assert_true(*other_r >= 0);
	tcp_set_options(fd);
	return fd;
}

static void who_reads_nothing_for_long_is_waited_for(void **state)
{
	int other, fd = connected(&other);
	struct sender sender = {0};
	pthread_t thread;
	char data[65536];
	size_t got = 0;

	assert_int_equal(stream_new(fd, fd, NULL, &sender.stream, &sender.err), 0);
	assert_int_equal(pthread_create(&thread, NULL, send_all, &sender), 0);
	usleep(PAUSE_MS * 1000);
	while (got < BYTES) {
		ssize_t n = read(other, data, sizeof(data));

		if (n <= 0)
			break;
		got += (size_t)n;
	}
	pthread_join(thread, NULL);
	if (sender.rc < 0)
		fail_msg("%s", sender.err.text);
	assert_int_equal(got, BYTES);
	stream_free(&sender.stream);
	close(other);
}

static void what_is_no_connection_is_not_dead(void **state)
{
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_false(link_is_dead(ends[1]));
	assert_false(link_is_dead(-1));
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_reads_nothing_for_long_is_waited_for),
		cmocka_unit_test(what_is_no_connection_is_not_dead),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
