/* The control socket, dsyncctl's end. See control.h. */
#include "sync/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "store/base/file.h"
#include "store/base/tabescape.h"

#define ANSWER_SECS 30

static int open_control(const char *state_dir, int *fd_r, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval wait = {.tv_sec = ANSWER_SECS};
	int len = snprintf(address.sun_path, sizeof address.sun_path, "%s/" CONTROL_SOCKET,
			   state_dir);
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_errno(err, -errno, "socket");
	if (len >= (int)sizeof address.sun_path)
		return error_set(err, -ENAMETOOLONG, "state_dir %s: too long", state_dir);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return error_set(err, -ECONNREFUSED,
					 "dsyncd is not running (nobody answers on %s)",
					 address.sun_path);
		return error_errno(err, -errno, "cannot ask dsyncd on %s", address.sun_path);
	}
	*fd_r = fd;
	fd = -1;
	return 0;
}

static int send_request(int fd, const char *const *request, struct error *err)
{
	AUTO_BUF struct buf out = BUF_INIT(CONTROL_LINE_MAX);
	int rc;

	buf_append_str(&out, CONTROL_VERSION "\n");
	for (unsigned i = 0; request[i]; i++) {
		if (i)
			buf_append_byte(&out, '\t');
		tabescape_append(&out, request[i], strlen(request[i]));
	}
	buf_append_byte(&out, '\n');
	rc = out.failed ? out.failed : file_write_all(fd, out.data, out.len);
	return rc < 0 ? error_errno(err, rc, "cannot send to dsyncd") : 0;
}

static int handle_line(char *line, control_line_fn *each, void *ctx)
{
	char *field[CONTROL_FIELDS_MAX];
	unsigned count = 0;

	for (char *next = line; next && count < CONTROL_FIELDS_MAX;) {
		char *tab = strchr(next, '\t');

		if (tab)
			*tab = '\0';
		field[count++] = next;
		tabunescape(next, strlen(next));
		next = tab ? tab + 1 : NULL;
	}
	return each(ctx, field, count);
}

/* 1: the answer is complete. */
static int handle_input(struct buf *in, bool *greeted, control_line_fn *each, void *ctx,
			struct error *err)
{
	size_t done = 0;
	int rc = 0;

	while (rc == 0) {
		char *line = in->data + done;
		char *lf = memchr(line, '\n', in->len - done);

		if (!lf)
			break;
		*lf = '\0';
		done = (size_t)(lf - in->data) + 1;
		if (!*greeted) {
			if (strcmp(line, CONTROL_VERSION) != 0)
				return error_set(err, -EPROTO,
						 "dsyncd speaks another version of the control "
						 "protocol");
			*greeted = true;
		} else if (line[0] == '+') {
			rc = 1;
		} else if (line[0] == '-') {
			return error_set(err, -EREMOTEIO, "dsyncd: %s", line + 1);
		} else {
			rc = handle_line(line, each, ctx);
		}
	}
	buf_consume(in, done);
	return rc;
}

int control_request(const char *state_dir, const char *const *request, control_line_fn *each,
		    void *ctx, struct error *err)
{
	AUTO_BUF struct buf in = BUF_INIT(CONTROL_LINE_MAX * 4);
	AUTO_CLOSE int fd = -1;
	bool greeted = false;
	int rc = open_control(state_dir, &fd, err);

	if (rc == 0)
		rc = send_request(fd, request, err);
	while (rc == 0) {
		char *room = buf_reserve(&in, 4096);
		ssize_t n = room ? read(fd, room, 4096) : -1;

		if (!room)
			return error_set(err, -EPROTO, "dsyncd's answer has a line without an end");
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, -errno, "no answer from dsyncd");
		if (n == 0)
			return error_set(err, -EPIPE, "dsyncd closed the connection");
		buf_commit(&in, (size_t)n);
		rc = handle_input(&in, &greeted, each, ctx, err);
	}
	return rc < 0 ? rc : 0;
}
