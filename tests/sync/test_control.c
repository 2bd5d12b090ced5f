/* The pauses between nothing and an answer: dsyncctl's end of the control socket against servers
 * that are missing, silent about their version, or wordy. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "sync/control.h"

static char dir[64];

static int setup(void **state)
{
	snprintf(dir, sizeof dir, "/tmp/dsyncfs-control-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char path[128];

	snprintf(path, sizeof path, "%s/" CONTROL_SOCKET, dir);
	unlink(path);
	return rmdir(dir);
}

/* A child that accepts once and says text. */
static pid_t serve(const char *text)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	pid_t pid;

	snprintf(address.sun_path, sizeof address.sun_path, "%s/" CONTROL_SOCKET, dir);
	unlink(address.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(listen(fd, 1), 0);
	pid = fork();
	if (pid == 0) {
		int client = accept(fd, NULL, NULL);
		char in[4096];

		(void)!read(client, in, sizeof in);
		(void)!write(client, text, strlen(text));
		_exit(0);
	}
	close(fd);
	return pid;
}

struct lines {
	unsigned count;
	char last[256];
};

static int on_line(void *ctx, char *const *field, unsigned count)
{
	struct lines *lines = ctx;

	lines->count++;
	snprintf(lines->last, sizeof lines->last, "%s", field[count - 1]);
	return 0;
}

static int ask(const char *text, struct lines *lines, struct error *err)
{
	static const char *const request[] = {"STATUS", NULL};
	pid_t pid = serve(text);
	int rc, status;

	*lines = (struct lines){0};
	rc = control_request(dir, request, on_line, lines, err);
	waitpid(pid, &status, 0);
	return rc;
}

static void test_nobody_there(void **state)
{
	static const char *const request[] = {"STATUS", NULL};
	struct lines lines;
	struct error err;

	assert_int_equal(control_request(dir, request, on_line, &lines, &err), -ECONNREFUSED);
	assert_non_null(strstr(err.text, "dsyncd is not running"));
}

static void test_answers(void **state)
{
	struct lines lines;
	struct error err;

	assert_int_equal(ask(CONTROL_VERSION "\nP\ta\001tb\nU\tx\n+\n", &lines, &err), 0);
	assert_int_equal(lines.count, 2);
	assert_string_equal(lines.last, "x");
	assert_int_equal(ask(CONTROL_VERSION "\n-no such thing\n", &lines, &err), -EREMOTEIO);
	assert_string_equal(err.text, "dsyncd: no such thing");
	assert_int_equal(ask("VERSION\tdsyncfs-control\t9\n+\n", &lines, &err), -EPROTO);
	assert_int_equal(ask(CONTROL_VERSION "\nP\tx\n", &lines, &err), -EPIPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_there),
		cmocka_unit_test(test_answers),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
