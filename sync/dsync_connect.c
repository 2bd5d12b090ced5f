/*
 * The other end of the dsync command: a process behind a pipe, or a doveadm port.
 *
 * A command gets two pipes as its input and output, not a socket: a script may open /dev/stdin.
 * What it writes to its error output is shown as it is.
 */
#include "sync/dsync_connect.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/base/file.h"
#include "store/base/log.h"
#include "sync/doveadm_protocol.h"
#include "sync/tcp.h"

#define HANDSHAKE_MS  15000
#define END_WAIT_MS   30000 /* as long as Dovecot waits for its commands */
#define TERM_WAIT_MS  2000
#define NOT_STARTED   127
#define SIGNAL_STATUS 128

static int new_stream(int fd_in, int fd_out, const char *name, unsigned timeout_secs,
		      struct stream **stream_r, struct error *err)
{
	struct stream_settings settings = {.timeout_secs = timeout_secs, .peer_name = name};
	int rc = stream_new(fd_in, fd_out, &settings, stream_r, err);

	if (rc < 0) {
		close(fd_in);
		if (fd_out != fd_in)
			close(fd_out);
	}
	return rc;
}

/* ---- a process ---- */

static int connect_local(const struct dsync_location *location, unsigned timeout_secs,
			 dsync_serve_fn *serve, void *ctx, struct dsync_peer *peer,
			 struct error *err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return error_errno(err, -errno, "socketpair");
	/* What is buffered must not be written twice. */
	fflush(NULL);
	peer->pid = fork();
	if (peer->pid == 0) {
		close(fds[0]);
		_exit(serve(ctx, fds[1]));
	}
	close(fds[1]);
	if (peer->pid < 0) {
		peer->pid = 0;
		close(fds[0]);
		return error_errno(err, -errno, "fork");
	}
	return new_stream(fds[0], fds[0], location->text, timeout_secs, &peer->stream, err);
}

static void run_command(char *const *argv, int in, int out)
{
	char text[600];
	int len;

	if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0) {
		signal(SIGPIPE, SIG_DFL);
		execvp(argv[0], argv);
	}
	len = snprintf(text, sizeof text, "dsync: %.400s: %s\n", argv[0], strerror(errno));
	(void)!write(STDERR_FILENO, text, (size_t)len);
	_exit(NOT_STARTED);
}

static int connect_command(const struct dsync_location *location, unsigned timeout_secs,
			   struct dsync_peer *peer, struct error *err)
{
	int to[2], from[2], rc;

	if (pipe2(to, O_CLOEXEC) < 0)
		return error_errno(err, -errno, "pipe");
	if (pipe2(from, O_CLOEXEC) < 0) {
		rc = error_errno(err, -errno, "pipe");
		close(to[0]);
		close(to[1]);
		return rc;
	}
	peer->pid = fork();
	if (peer->pid == 0)
		run_command(location->argv, to[0], from[1]);
	close(to[0]);
	close(from[1]);
	if (peer->pid < 0) {
		peer->pid = 0;
		close(to[1]);
		close(from[0]);
		return error_errno(err, -errno, "fork");
	}
	rc = new_stream(from[0], to[1], location->argv[0], timeout_secs, &peer->stream, err);
	/* remoteprefix: whose mail, for the wrapper, in front of everything. */
	if (rc == 0 && location->user_on_stdin)
		rc = stream_write_str(peer->stream, location->user, err);
	if (rc == 0 && location->user_on_stdin)
		rc = stream_write_str(peer->stream, "\n", err);
	return rc;
}

/* ---- a doveadm port ---- */

/* The handshake, the password and the command; what came behind the answer stays in unread. */
static int ask_for_session(int fd, const struct dsync_location *location,
			   const struct settings *set, struct buf *unread, struct error *err)
{
	AUTO_BUF struct buf out = BUF_INIT(DOVEADM_LINE_MAX);
	int64_t deadline_ms = tcp_now_ms() + HANDSHAKE_MS;
	struct doveadm_client client;
	bool asked = false;
	int rc;

	doveadm_client_start(&client, &out);
	while (client.state != DOVEADM_CLIENT_STREAM) {
		if (client.state == DOVEADM_CLIENT_READY && !asked) {
			if (doveadm_client_command(&client, location->user, &out) < 0)
				return error_set(err, -EINVAL, "the user's name cannot be sent");
			asked = true;
		}
		rc = tcp_send(fd, &out, deadline_ms);
		if (rc == 0)
			rc = tcp_receive(fd, unread, deadline_ms);
		if (rc < 0)
			return error_errno(err, rc, "no answer in the doveadm protocol");
		rc = doveadm_client_input(&client, set->doveadm_password, unread, &out, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int connect_tcp(const struct dsync_location *location, const struct settings *set,
		       unsigned timeout_secs, struct dsync_peer *peer, struct error *err)
{
	AUTO_BUF struct buf unread = BUF_INIT(DOVEADM_LINE_MAX * 2);
	AUTO_CLOSE int fd = -1;
	int owned, rc;

	rc = tcp_connect(location->host, location->port, TCP_CONNECT_TIMEOUT_MS, &fd, NULL, err);
	if (rc == 0)
		rc = ask_for_session(fd, location, set, &unread, err);
	if (rc < 0)
		return rc;
	owned = fd;
	fd = -1;
	rc = new_stream(owned, owned, location->text, timeout_secs, &peer->stream, err);
	return rc < 0 ? rc : stream_push_input(peer->stream, unread.data, unread.len, err);
}

/* ---- both ---- */

int dsync_connect(const struct dsync_location *location, const struct settings *set,
		  unsigned timeout_secs, dsync_serve_fn *serve, void *ctx,
		  struct dsync_peer *peer_r, struct error *err)
{
	int rc = -EINVAL;

	*peer_r = (struct dsync_peer){.stream = NULL};
	switch (location->place) {
	case DSYNC_PLACE_LOCAL:
		rc = connect_local(location, timeout_secs, serve, ctx, peer_r, err);
		break;
	case DSYNC_PLACE_COMMAND:
		rc = connect_command(location, timeout_secs, peer_r, err);
		break;
	case DSYNC_PLACE_TCP:
		rc = connect_tcp(location, set, timeout_secs, peer_r, err);
		break;
	}
	if (rc < 0) {
		error_prefix(err, "%s", location->text);
		dsync_disconnect(peer_r);
	}
	return rc;
}

/* True: it has ended, and *status_r says how. */
static bool wait_for(pid_t pid, int64_t for_ms, int *status_r)
{
	int64_t deadline_ms = tcp_now_ms() + for_ms;
	struct timespec pause = {.tv_nsec = 1000000};

	for (;;) {
		pid_t ended = waitpid(pid, status_r, WNOHANG);

		if (ended == pid)
			return true;
		if (ended < 0 && errno != EINTR) {
			*status_r = 0;
			return true;
		}
		if (tcp_now_ms() >= deadline_ms)
			return false;
		nanosleep(&pause, NULL);
		/* Most end at once. */
		if (pause.tv_nsec < 50000000)
			pause.tv_nsec *= 2;
	}
}

int dsync_disconnect(struct dsync_peer *peer)
{
	pid_t pid = peer->pid;
	int status = 0;

	stream_free(&peer->stream);
	peer->pid = 0;
	if (pid <= 0)
		return 0;
	if (!wait_for(pid, END_WAIT_MS, &status)) {
		log_warning("the other end (process %d) does not end: killing it", (int)pid);
		kill(pid, SIGTERM);
		if (!wait_for(pid, TERM_WAIT_MS, &status)) {
			kill(pid, SIGKILL);
			(void)waitpid(pid, &status, 0);
		}
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : SIGNAL_STATUS + WTERMSIG(status);
}
