/* The doveadm protocol's two state machines. See doveadm_protocol.h. */
#include "sync/doveadm_protocol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <openssl/evp.h>

#include "store/base/digest.h"
#include "store/base/tabescape.h"

#define SERVER_MINOR   3
#define FIELDS_MAX     32
#define CHANNEL_MAIN   0x00
#define CHANNEL_LOG    'L'
#define LOG_LEVEL_BYTE 0x04 /* error */

/* What the base64 of PLAIN begins with: an empty authorization id and the user, both with NUL. */
static const char plain_prefix[] = "\0doveadm";
#define PLAIN_PREFIX_SIZE sizeof plain_prefix

/* Takes the next line off in. 1: line_r is set (NUL-terminated, valid until in changes; consume
 * *consumed_r bytes afterwards), 0: incomplete, -EMSGSIZE: longer than max, -EILSEQ: a NUL in it.
 */
static int next_line(struct buf *in, size_t max, char **line_r, size_t *consumed_r)
{
	char *lf = in->len ? memchr(in->data, '\n', in->len) : NULL;
	size_t len;

	if (!lf)
		return in->len > max ? -EMSGSIZE : 0;
	len = (size_t)(lf - in->data);
	if (len > max)
		return -EMSGSIZE;
	*consumed_r = len + 1;
	if (len && in->data[len - 1] == '\r')
		len--;
	in->data[len] = '\0';
	if (strlen(in->data) != len)
		return -EILSEQ;
	*line_r = in->data;
	return 1;
}

/* Splits at TABs and unescapes each field in place. */
static int split_fields(char *line, char *fields[FIELDS_MAX], unsigned *count_r)
{
	unsigned count = 0;

	for (;;) {
		char *tab = strchr(line, '\t');
		size_t len;

		if (count == FIELDS_MAX)
			return -E2BIG;
		if (tab)
			*tab = '\0';
		fields[count] = line;
		len = tabunescape(line, strlen(line));
		/* An escaped NUL would end the field early: no name holds one. */
		if (len != strlen(line))
			return -EILSEQ;
		count++;
		if (!tab)
			break;
		line = tab + 1;
	}
	*count_r = count;
	return 0;
}

/* "VERSION<TAB>name<TAB>1<TAB>minor" */
static int parse_version(const char *line, const char *name, unsigned *minor_r)
{
	size_t len = strlen(name);
	unsigned long minor;
	char *end;

	if (strncmp(line, "VERSION\t", 8) != 0 || strncmp(line + 8, name, len) != 0)
		return -EPROTO;
	line += 8 + len;
	if (strncmp(line, "\t1\t", 3) != 0 || line[3] < '0' || line[3] > '9')
		return -EPROTO;
	minor = strtoul(line + 3, &end, 10);
	if ((*end != '\0' && *end != '\t') || minor > 1000)
		return -EPROTO;
	*minor_r = (unsigned)minor;
	return 0;
}

void doveadm_server_init(struct doveadm_server *server)
{
	*server = (struct doveadm_server){.state = DOVEADM_SERVER_VERSION};
}

void doveadm_server_init_authenticated(struct doveadm_server *server, unsigned client_minor,
				       bool log_passthrough)
{
	*server = (struct doveadm_server){
		.state = DOVEADM_SERVER_COMMAND,
		.client_minor = client_minor,
		.log_passthrough = log_passthrough,
	};
}

bool doveadm_server_is_framed(const struct doveadm_server *server)
{
	return server->client_minor >= 1;
}

static int server_version(struct doveadm_server *server, const char *line, struct buf *out,
			  struct error *err)
{
	unsigned minor;

	if (parse_version(line, "doveadm-server", &minor) < 0)
		return error_set(err, -EPROTO, "not a doveadm client of major version 1");
	/* Minor 4 packs in another way, but only where the server announces it too. */
	server->client_minor = minor > SERVER_MINOR ? SERVER_MINOR : minor;
	if (minor >= 1)
		buf_printf(out, "VERSION\tdoveadm-client\t1\t%u\n", SERVER_MINOR);
	buf_append_str(out, "-\n");
	server->state = DOVEADM_SERVER_AUTH;
	return 0;
}

/* Decodes strict base64 of at most max bytes; the length, or -1. */
static int base64_decode(const char *text, unsigned char *data, size_t max)
{
	size_t len = strlen(text);
	int n;

	if (len == 0 || len % 4 != 0 || len / 4 * 3 > max || strpbrk(text, " \t\r\n"))
		return -1;
	n = EVP_DecodeBlock(data, (const unsigned char *)text, (int)len);
	if (n < 0)
		return -1;
	if (text[len - 1] == '=')
		n--;
	if (text[len - 2] == '=')
		n--;
	return n;
}

static int server_auth(struct doveadm_server *server, const char *password, const char *line,
		       struct buf *out, struct error *err)
{
	unsigned char plain[DOVEADM_LINE_MAX_AUTH];
	int len;

	if (strcmp(line, "STARTTLS") == 0)
		return error_set(err, -EPROTO,
				 "the client wants TLS, which this listener does not speak");
	len = strncmp(line, "PLAIN\t", 6) == 0 ? base64_decode(line + 6, plain, sizeof plain) : -1;
	if (len < (int)PLAIN_PREFIX_SIZE || memcmp(plain, plain_prefix, PLAIN_PREFIX_SIZE) != 0) {
		buf_append_str(out, "-\n");
		return error_set(err, -EACCES,
				 "authentication is not PLAIN for user \"doveadm\", or malformed");
	}
	if (password[0] == '\0' ||
	    !secret_equal(plain + PLAIN_PREFIX_SIZE, (size_t)len - PLAIN_PREFIX_SIZE, password,
			  strlen(password))) {
		buf_append_str(out, "-\n");
		return error_set(err, -EACCES, "wrong password");
	}
	buf_append_str(out, "+\n");
	server->state = DOVEADM_SERVER_COMMAND;
	return 0;
}

/* dsync-server's own arguments. Anything that would have us write a file is not taken. */
static int parse_dsync_args(char *const *args, unsigned count, struct doveadm_command *command,
			    struct error *err)
{
	char *user = command->user;

	for (unsigned i = 0; i < count; i++) {
		const char *arg = args[i];
		const char *value = NULL;
		char option = arg[0] == '-' ? arg[1] : '\0';

		if (option == 'U')
			command->replicator = true;
		if (option == '\0' || strchr("UEDv", option))
			continue; /* A further word is ignored by Dovecot, too. */
		if (option != 'u' && option != 'T')
			return error_set(err, -EINVAL, "option \"%.64s\" is not taken here", arg);
		if (arg[2] != '\0')
			value = arg + 2;
		else if (i + 1 < count)
			value = args[++i];
		if (!value)
			return error_set(err, -EINVAL, "option -%c without a value", option);
		if (option == 'T')
			continue;
		if (strlen(value) >= DOVEADM_USER_MAX)
			return error_set(err, -EINVAL, "user name too long");
		if (user[0] != '\0' && strcmp(user, value) != 0)
			return error_set(err, -EINVAL, "two different user names");
		memcpy(user, value, strlen(value) + 1);
	}
	if (user[0] == '\0')
		return error_set(err, -EINVAL, "no user name");
	return 0;
}

/* 1: a dsync-server command. 0: an option line. Negative: refused, the reply is in out. */
static int server_command(struct doveadm_server *server, char *line, struct buf *out,
			  struct doveadm_command *command_r, struct error *err)
{
	char *fields[FIELDS_MAX];
	unsigned count, at = 0;
	bool extra = false;
	int rc;

	*command_r = (struct doveadm_command){0};
	if (split_fields(line, fields, &count) < 0)
		return error_set(err, -EPROTO, "a malformed command line");
	for (const char *flag = fields[at++]; *flag; flag++) {
		if (*flag == 'D')
			command_r->debug = true;
		else if (*flag == 'x')
			extra = true;
		else if (*flag != 'v')
			return error_set(err, -EPROTO, "unknown flag in a command line");
	}
	if (extra)
		at++;
	if (at + 2 > count)
		return error_set(err, -EPROTO, "a command line with too few fields");
	if (strlen(fields[at]) >= sizeof command_r->user)
		return error_set(err, -EPROTO, "user name too long");
	memcpy(command_r->user, fields[at], strlen(fields[at]) + 1);
	at++;
	if (strcmp(fields[at], "OPTION") == 0) {
		for (unsigned i = at + 1; i < count; i++) {
			if (strcmp(fields[i], "log-passthrough") == 0)
				server->log_passthrough = true;
		}
		return 0;
	}
	if (strcmp(fields[at], "dsync-server") != 0) {
		rc = error_set(err, -EOPNOTSUPP,
			       "command \"%.64s\" is not served here, only dsync-server",
			       fields[at]);
		doveadm_reply_fail(server, "", err->text, out);
		return rc;
	}
	rc = parse_dsync_args(fields + at + 1, count - at - 1, command_r, err);
	if (rc < 0) {
		doveadm_reply_fail(server, "USAGE", err->text, out);
		return rc;
	}
	return 1;
}

enum doveadm_event doveadm_server_input(struct doveadm_server *server, const char *password,
					struct buf *in, struct buf *out,
					struct doveadm_command *command_r, struct error *err)
{
	while (server->state != DOVEADM_SERVER_CLOSED) {
		bool known = server->state == DOVEADM_SERVER_COMMAND;
		char *line = NULL;
		size_t consumed = 0;
		int rc = next_line(in, known ? DOVEADM_LINE_MAX : DOVEADM_LINE_MAX_AUTH, &line,
				   &consumed);

		if (rc == 0)
			return DOVEADM_MORE;
		if (rc < 0)
			error_set(err, rc, "a line that is too long or holds NUL bytes");
		else if (server->state == DOVEADM_SERVER_VERSION)
			rc = server_version(server, line, out, err);
		else if (server->state == DOVEADM_SERVER_AUTH)
			rc = server_auth(server, password, line, out, err);
		else
			rc = server_command(server, line, out, command_r, err);
		if (rc < 0)
			break;
		buf_consume(in, consumed);
		if (rc > 0)
			return DOVEADM_COMMAND;
	}
	server->state = DOVEADM_SERVER_CLOSED;
	return DOVEADM_CLOSE;
}

static void append_packet(struct buf *out, unsigned char channel, const void *data, size_t len)
{
	uint32_t be_len = htonl((uint32_t)len);

	buf_append_byte(out, channel);
	buf_append(out, &be_len, sizeof be_len);
	buf_append(out, data, len);
}

void doveadm_reply_ok(const struct doveadm_server *server, struct buf *out)
{
	if (doveadm_server_is_framed(server))
		append_packet(out, CHANNEL_MAIN, "\n+\n", 3);
	else
		buf_append_str(out, "\n+\n");
}

void doveadm_reply_fail(const struct doveadm_server *server, const char *code, const char *text,
			struct buf *out)
{
	char status[64], line[ERROR_TEXT_MAX + 64];
	int len = snprintf(status, sizeof status, "\n-%.32s\n", code);

	if (!doveadm_server_is_framed(server)) {
		buf_append_str(out, status);
		return;
	}
	if (text[0] != '\0' && (server->client_minor < 3 || server->log_passthrough)) {
		int line_len =
			snprintf(line, sizeof line, "%cdsyncd: %.1000s", LOG_LEVEL_BYTE, text);

		for (char *p = line + 1; *p; p++) {
			if ((unsigned char)*p < 0x20)
				*p = '?';
		}
		line[line_len++] = '\n';
		append_packet(out, CHANNEL_LOG, line, (size_t)line_len);
	}
	append_packet(out, CHANNEL_MAIN, status, (size_t)len);
}

void doveadm_client_start(struct doveadm_client *client, struct buf *out)
{
	*client = (struct doveadm_client){.state = DOVEADM_CLIENT_GREETING};
	buf_append_str(out, "VERSION\tdoveadm-server\t1\t0\n");
}

static int client_send_password(struct doveadm_client *client, const char *password,
				struct buf *out, struct error *err)
{
	unsigned char plain[512], text[700];
	size_t len = strlen(password);
	int n;

	if (len == 0)
		return error_set(err, -EACCES, "the peer wants a password: set doveadm_password");
	if (len + PLAIN_PREFIX_SIZE > sizeof plain)
		return error_set(err, -EACCES, "doveadm_password is longer than %zu bytes",
				 sizeof plain - PLAIN_PREFIX_SIZE);
	memcpy(plain, plain_prefix, PLAIN_PREFIX_SIZE);
	memcpy(plain + PLAIN_PREFIX_SIZE, password, len);
	n = EVP_EncodeBlock(text, plain, (int)(len + PLAIN_PREFIX_SIZE));
	buf_append_str(out, "PLAIN\t");
	buf_append(out, text, (size_t)n);
	buf_append_byte(out, '\n');
	client->state = DOVEADM_CLIENT_AUTH;
	return 0;
}

static int client_greeting(struct doveadm_client *client, const char *password, const char *line,
			   struct buf *out, struct error *err)
{
	if (strncmp(line, "VERSION\t", 8) == 0)
		return 0; /* Some servers say it although minor 0 was announced. */
	if (strcmp(line, "+") == 0) {
		client->state = DOVEADM_CLIENT_READY;
		return 0;
	}
	if (strcmp(line, "-") == 0)
		return client_send_password(client, password, out, err);
	return error_set(err, -EPROTO, "the peer's answer is not that of a doveadm server");
}

static int client_auth(struct doveadm_client *client, const char *line, struct error *err)
{
	if (strcmp(line, "+") == 0) {
		client->state = DOVEADM_CLIENT_READY;
		return 0;
	}
	if (strncmp(line, "VERSION\t", 8) == 0)
		return 0; /* 2.2.33 sends it late. */
	if (line[0] == '-')
		return error_set(err, -EACCES, "the peer refused doveadm_password");
	return error_set(err, -EPROTO, "the peer's answer to the password is malformed");
}

static int client_status(struct doveadm_client *client, const char *line, struct error *err)
{
	if (line[0] == '+') {
		client->state = DOVEADM_CLIENT_STREAM;
		return 0;
	}
	if (line[0] != '-')
		return error_set(err, -EPROTO, "the peer's reply to dsync-server is malformed");
	snprintf(client->code, sizeof client->code, "%s", line + 1);
	if (strcmp(client->code, "NOUSER") == 0)
		return error_set(err, -EREMOTEIO, "the peer does not know this user");
	return error_set(err, -EREMOTEIO, "the peer refused dsync-server: %s",
			 client->code[0] ? client->code : "unknown command");
}

int doveadm_client_input(struct doveadm_client *client, const char *password, struct buf *in,
			 struct buf *out, struct error *err)
{
	/* Behind the reply's last LF the dsync stream begins: not ours. */
	while (client->state != DOVEADM_CLIENT_STREAM && client->state != DOVEADM_CLIENT_READY) {
		char *line = NULL;
		size_t consumed = 0;
		int rc = next_line(in, DOVEADM_LINE_MAX, &line, &consumed);

		if (rc == 0)
			return 0;
		if (rc < 0)
			rc = error_set(err, -EPROTO,
				       "the peer's answer is not that of a doveadm server");
		else if (client->state == DOVEADM_CLIENT_GREETING)
			rc = client_greeting(client, password, line, out, err);
		else if (client->state == DOVEADM_CLIENT_AUTH)
			rc = client_auth(client, line, err);
		else if (client->state == DOVEADM_CLIENT_REPLY_OUTPUT) {
			client->state = DOVEADM_CLIENT_REPLY_STATUS;
			rc = 0;
		} else
			rc = client_status(client, line, err);
		if (rc < 0) {
			client->state = DOVEADM_CLIENT_FAILED;
			return rc;
		}
		buf_consume(in, consumed);
	}
	return 0;
}

int doveadm_client_command(struct doveadm_client *client, const char *user, struct buf *out)
{
	size_t len = strlen(user);

	if (client->state != DOVEADM_CLIENT_READY || len == 0 || len >= DOVEADM_USER_MAX)
		return -EINVAL;
	buf_append_byte(out, '\t');
	tabescape_append(out, user, len);
	buf_append_str(out, "\tdsync-server\t-u");
	tabescape_append(out, user, len);
	buf_append_byte(out, '\n');
	client->code[0] = '\0';
	client->state = DOVEADM_CLIENT_REPLY_OUTPUT;
	return out->failed;
}

void doveadm_client_reuse(struct doveadm_client *client)
{
	client->state = DOVEADM_CLIENT_READY;
}
