/* The doveadm protocol: both state machines, against what real Dovecot clients and servers (2.3.19,
 * 2.4.1) said, whole and byte by byte, and against what none of them would. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "store/base/file.h"
#include "sync/doveadm_protocol.h"

#define PASSWORD "secretpw"
#define LOGIN	 "PLAIN\tAGRvdmVhZG0Ac2VjcmV0cHc=\n"

struct talk {
	struct doveadm_server server;
	struct doveadm_command command;
	struct buf in, out;
	struct error err;
};

static void talk_init(struct talk *talk)
{
	*talk = (struct talk){.in = BUF_INIT(65536), .out = BUF_INIT(65536)};
	doveadm_server_init(&talk->server);
}

static void talk_free(struct talk *talk)
{
	buf_free(&talk->in);
	buf_free(&talk->out);
}

static enum doveadm_event hear(struct talk *talk, const char *text)
{
	buf_append_str(&talk->in, text);
	return doveadm_server_input(&talk->server, PASSWORD, &talk->in, &talk->out, &talk->command,
				    &talk->err);
}

static void test_server_minor_0(void **state)
{
	struct talk talk;

	talk_init(&talk);
	assert_int_equal(hear(&talk, "VERSION\tdoveadm-server\t1\t0\n"), DOVEADM_MORE);
	assert_string_equal(buf_str(&talk.out), "-\n");
	assert_int_equal(hear(&talk, LOGIN), DOVEADM_MORE);
	assert_string_equal(buf_str(&talk.out), "-\n+\n");
	assert_int_equal(hear(&talk, "\tbob\tdsync-server\t-ubob\nVERSION\tdsync\t3\t5\n"),
			 DOVEADM_COMMAND);
	assert_string_equal(talk.command.user, "bob");
	assert_false(talk.command.debug);
	assert_false(doveadm_server_is_framed(&talk.server));
	assert_string_equal(buf_str(&talk.in), "VERSION\tdsync\t3\t5\n");
	buf_clear(&talk.out);
	doveadm_reply_ok(&talk.server, &talk.out);
	assert_string_equal(buf_str(&talk.out), "\n+\n");
	buf_clear(&talk.out);
	doveadm_reply_fail(&talk.server, "NOUSER", "no such user", &talk.out);
	assert_string_equal(buf_str(&talk.out), "\n-NOUSER\n");
	talk_free(&talk);
}

/* What real clients sent, up to the dsync stream's first line. */
#define STREAM_BEGIN "VERSION\tdsync\t3\t5\n"
static const char client_2_3_19[] =
	"VERSION\tdoveadm-server\t1\t2\n" LOGIN "\tB\tdsync-server\t-uB\n" STREAM_BEGIN;
static const char client_2_3_19_debug[] =
	"VERSION\tdoveadm-server\t1\t2\n" LOGIN "D\tB\tdsync-server\t-uB\n" STREAM_BEGIN;
static const char client_2_4_1[] =
	"VERSION\tdoveadm-server\t1\t3\n" LOGIN "\t\tOPTION\tlog-passthrough\n"
	"x\tproxy-ttl=1\tB\tdsync-server\t-uB\n" STREAM_BEGIN;
/* The last packet of a real server to a client that asked for an unknown user. */
static const char server_unknown_user[] = "\0\0\0\0\x09\n-NOUSER\n";
#define UNKNOWN_USER_SIZE (sizeof server_unknown_user - 1)

/* In pieces of `step` bytes. The dsync stream behind must be left alone. */
static void check_client(const char *sample, size_t step, const char *user, unsigned minor,
			 bool debug)
{
	enum doveadm_event event = DOVEADM_MORE;
	size_t at = 0, size = strlen(sample);
	struct talk talk;

	talk_init(&talk);
	while (at < size && event == DOVEADM_MORE) {
		size_t len = size - at < step ? size - at : step;

		buf_append(&talk.in, sample + at, len);
		at += len;
		event = doveadm_server_input(&talk.server, PASSWORD, &talk.in, &talk.out,
					     &talk.command, &talk.err);
	}
	assert_int_equal(event, DOVEADM_COMMAND);
	assert_string_equal(talk.command.user, user);
	assert_int_equal(talk.command.debug, debug);
	assert_int_equal(talk.server.client_minor, minor);
	assert_true(doveadm_server_is_framed(&talk.server));
	assert_string_equal(buf_str(&talk.out), "VERSION\tdoveadm-client\t1\t3\n-\n+\n");
	assert_string_equal(buf_str(&talk.in), step == 1 ? "" : STREAM_BEGIN);
	talk_free(&talk);
}

static void test_server_hears_real_clients(void **state)
{
	const size_t steps[] = {1, 100000};

	for (unsigned i = 0; i < 2; i++) {
		check_client(client_2_3_19, steps[i], "B", 2, false);
		check_client(client_2_3_19_debug, steps[i], "B", 2, true);
		check_client(client_2_4_1, steps[i], "B", 3, false);
	}
}

static void test_server_answers_as_dovecot(void **state)
{
	AUTO_BUF struct buf out = BUF_INIT(4096);
	struct doveadm_server server;

	doveadm_server_init_authenticated(&server, 2, false);
	doveadm_reply_fail(&server, "NOUSER", "nobody", &out);
	/* log packet, then the status packet */
	assert_int_equal(out.data[0], 'L');
	assert_int_equal(out.data[5], 4); /* level: error */
	assert_memory_equal(out.data + out.len - UNKNOWN_USER_SIZE, server_unknown_user,
			    UNKNOWN_USER_SIZE);
	/* Log lines only to those who take them. */
	buf_clear(&out);
	doveadm_server_init_authenticated(&server, 3, false);
	doveadm_reply_fail(&server, "NOUSER", "nobody", &out);
	assert_int_equal(out.len, UNKNOWN_USER_SIZE);
	buf_clear(&out);
	doveadm_server_init_authenticated(&server, 3, true);
	doveadm_reply_fail(&server, "NOUSER", "nobody", &out);
	assert_true(out.len > UNKNOWN_USER_SIZE);
	buf_clear(&out);
	doveadm_reply_ok(&server, &out);
	assert_int_equal(out.len, 8);
	assert_memory_equal(out.data, "\0\0\0\0\x03\n+\n", 8);
}

static void test_server_refuses(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *out; /* what ends the answer */
	} cases[] = {
		{"VERSION\tdoveadm-server\t2\t0\n", -EPROTO, ""},
		{"VERSION\tdoveadm-client\t1\t0\n", -EPROTO, ""},
		{"VERSION\tdoveadm-server\t1\tx\n", -EPROTO, ""},
		{"GET / HTTP/1.1\r\n", -EPROTO, ""},
		/* wrong password, wrong user, no mechanism, no base64, empty */
		{"VERSION\tdoveadm-server\t1\t0\nPLAIN\tAGRvdmVhZG0Abm9wZQ==\n", -EACCES, "-\n-\n"},
		{"VERSION\tdoveadm-server\t1\t0\nPLAIN\tAHJvb3QAc2VjcmV0cHc=\n", -EACCES, "-\n-\n"},
		{"VERSION\tdoveadm-server\t1\t0\nLOGIN\tx\n", -EACCES, "-\n-\n"},
		{"VERSION\tdoveadm-server\t1\t0\nPLAIN\t!!!!\n", -EACCES, "-\n-\n"},
		{"VERSION\tdoveadm-server\t1\t0\nPLAIN\t\n", -EACCES, "-\n-\n"},
		{"VERSION\tdoveadm-server\t1\t0\nPLAIN\tAGRvdmVhZG0A\n", -EACCES, "-\n-\n"},
		/* a command before the password */
		{"VERSION\tdoveadm-server\t1\t0\n\tbob\tdsync-server\n", -EACCES, "-\n-\n"},
		{"VERSION\tdoveadm-server\t1\t2\nSTARTTLS\n", -EPROTO, "-\n"},
		/* behind the password */
		{"VERSION\tdoveadm-server\t1\t0\n" LOGIN "\tbob\tkick\tbob\n", -EOPNOTSUPP,
		 "+\n\n-\n"},
		{"VERSION\tdoveadm-server\t1\t0\n" LOGIN "\tbob\tdsync-server\t-ualice\n", -EINVAL,
		 "+\n\n-USAGE\n"},
		{"VERSION\tdoveadm-server\t1\t0\n" LOGIN "\tbob\tdsync-server\t-r/etc/passwd\n",
		 -EINVAL, "+\n\n-USAGE\n"},
		{"VERSION\tdoveadm-server\t1\t0\n" LOGIN "\t\tdsync-server\n", -EINVAL,
		 "+\n\n-USAGE\n"},
		{"VERSION\tdoveadm-server\t1\t0\n" LOGIN "Q\tbob\tdsync-server\n", -EPROTO, "+\n"},
		{"VERSION\tdoveadm-server\t1\t0\n" LOGIN "\n", -EPROTO, "+\n"},
		{"VERSION\tdoveadm-server\t1\t0\n" LOGIN "\tb\001"
		 "0b\tdsync-server\n",
		 -EPROTO, "+\n"},
	};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct talk talk;
		size_t len = strlen(cases[i].out);

		talk_init(&talk);
		assert_int_equal(hear(&talk, cases[i].text), DOVEADM_CLOSE);
		assert_int_equal(talk.err.code, cases[i].code);
		assert_true(talk.out.len >= len);
		assert_string_equal(buf_str(&talk.out) + talk.out.len - len, cases[i].out);
		/* Closed for good. */
		assert_int_equal(hear(&talk, "VERSION\tdoveadm-server\t1\t0\n"), DOVEADM_CLOSE);
		talk_free(&talk);
	}
}

static void test_server_without_password_lets_nobody_in(void **state)
{
	struct talk talk;

	talk_init(&talk);
	buf_append_str(&talk.in, "VERSION\tdoveadm-server\t1\t0\nPLAIN\tAGRvdmVhZG0A\n");
	assert_int_equal(doveadm_server_input(&talk.server, "", &talk.in, &talk.out, &talk.command,
					      &talk.err),
			 DOVEADM_CLOSE);
	assert_int_equal(talk.err.code, -EACCES);
	talk_free(&talk);
}

static void test_server_bounds_lines(void **state)
{
	struct talk talk;

	talk_init(&talk);
	for (unsigned i = 0; i < DOVEADM_LINE_MAX_AUTH + 1; i++)
		buf_append_byte(&talk.in, 'x');
	assert_int_equal(hear(&talk, ""), DOVEADM_CLOSE);
	talk_free(&talk);

	talk_init(&talk);
	assert_int_equal(hear(&talk, "VERSION\tdoveadm-server\t1\t0\n" LOGIN), DOVEADM_MORE);
	for (unsigned i = 0; i < DOVEADM_LINE_MAX; i++)
		buf_append_byte(&talk.in, 'x');
	assert_int_equal(hear(&talk, ""), DOVEADM_MORE);
	assert_int_equal(hear(&talk, "x"), DOVEADM_CLOSE);
	talk_free(&talk);
}

/* ---- client ---- */

static int answer(struct doveadm_client *client, struct buf *in, struct buf *out, const char *text,
		  struct error *err)
{
	buf_append_str(in, text);
	return doveadm_client_input(client, PASSWORD, in, out, err);
}

static void test_client(void **state)
{
	AUTO_BUF struct buf in = BUF_INIT(65536);
	AUTO_BUF struct buf out = BUF_INIT(65536);
	struct doveadm_client client;
	struct error err = {0};

	doveadm_client_start(&client, &out);
	assert_string_equal(buf_str(&out), "VERSION\tdoveadm-server\t1\t0\n");
	buf_clear(&out);
	assert_int_equal(answer(&client, &in, &out, "-", &err), 0);
	assert_int_equal(out.len, 0);
	assert_int_equal(answer(&client, &in, &out, "\n", &err), 0);
	assert_string_equal(buf_str(&out), LOGIN);
	buf_clear(&out);
	assert_int_equal(answer(&client, &in, &out, "+\n", &err), 0);
	assert_int_equal(client.state, DOVEADM_CLIENT_READY);
	assert_int_equal(doveadm_client_command(&client, "b\tob@example.org", &out), 0);
	assert_string_equal(buf_str(&out),
			    "\tb\001tob@example.org\tdsync-server\t-ub\001tob@example.org\n");
	/* The stream begins right behind the status line. */
	assert_int_equal(answer(&client, &in, &out, "\n+\nVERSION\tdsync", &err), 0);
	assert_int_equal(client.state, DOVEADM_CLIENT_STREAM);
	assert_string_equal(buf_str(&in), "VERSION\tdsync");
	doveadm_client_reuse(&client);
	buf_clear(&in);
	buf_clear(&out);
	assert_int_equal(doveadm_client_command(&client, "carol", &out), 0);
	assert_int_equal(answer(&client, &in, &out, "\n-NOUSER\n", &err), -EREMOTEIO);
	assert_string_equal(client.code, "NOUSER");
}

static void test_client_refusals(void **state)
{
	static const struct {
		const char *text;
		int code;
	} cases[] = {
		{"-\n-\n", -EACCES},
		{"220 smtp ready\n", -EPROTO},
		{"-\nwhat\n", -EPROTO},
	};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		AUTO_BUF struct buf in = BUF_INIT(65536);
		AUTO_BUF struct buf out = BUF_INIT(65536);
		struct doveadm_client client;
		struct error err = {0};

		doveadm_client_start(&client, &out);
		assert_int_equal(answer(&client, &in, &out, cases[i].text, &err), cases[i].code);
		assert_int_equal(client.state, DOVEADM_CLIENT_FAILED);
		assert_true(err.text[0] != '\0');
	}
}

/* Random bytes never do more than end the connection. */
static void test_garbage(void **state)
{
	uint32_t chance = 12345;

	for (unsigned round = 0; round < 20000; round++) {
		static const char alphabet[] = "VERSION\tdoveadm-server\t1\t3\nPLAIN\t\001\t-+\n\n";
		struct talk talk;
		unsigned len = round % 200;

		talk_init(&talk);
		if (round % 3 == 0)
			hear(&talk, "VERSION\tdoveadm-server\t1\t3\n" LOGIN);
		for (unsigned i = 0; i < len; i++) {
			chance = chance * 1103515245 + 12345;
			if (chance >> 31)
				buf_append_byte(
					&talk.in,
					(unsigned char)
						alphabet[(chance >> 8) % (sizeof alphabet - 1)]);
			else
				buf_append_byte(&talk.in, (unsigned char)(chance >> 16));
		}
		(void)hear(&talk, "\n");
		assert_false(talk.out.failed);
		talk_free(&talk);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_server_minor_0),
		cmocka_unit_test(test_server_hears_real_clients),
		cmocka_unit_test(test_server_answers_as_dovecot),
		cmocka_unit_test(test_server_refuses),
		cmocka_unit_test(test_server_without_password_lets_nobody_in),
		cmocka_unit_test(test_server_bounds_lines),
		cmocka_unit_test(test_client),
		cmocka_unit_test(test_client_refusals),
		cmocka_unit_test(test_garbage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
