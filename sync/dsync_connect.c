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
#include "sync/peer_connect.h"
#include "sync/tcp.h"

#define HANDSHAKE_MS  15000 /* without -T */
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

static void run_command(char *const *argv, int in, int out, int error_output)
{
	char text[600];
	int len;

	if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
	    (error_output < 0 || dup2(error_output, STDERR_FILENO) >= 0)) {
		signal(SIGPIPE, SIG_DFL);
		execvp(argv[0], argv);
	}
	len = snprintf(text, sizeof text, "dsync: %.400s: %s\n", argv[0], strerror(errno));
	(void)!write(STDERR_FILENO, text, (size_t)len);
	_exit(NOT_STARTED);
}

int dsync_connect_command(const struct dsync_location *location, unsigned timeout_secs,
			  int stderr_fd, struct dsync_peer *peer, struct error *err)
{
	int to[2], from[2], rc;

	*peer = (struct dsync_peer){.stream = NULL};
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
		run_command(location->argv, to[0], from[1], stderr_fd);
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

static int connect_tcp(const struct dsync_location *location, const struct settings *set,
		       unsigned timeout_secs, struct dsync_peer *peer, struct error *err)
{
	struct peer_place place = {
		.text = location->text,
		.host = location->host,
		.port = location->port,
		.tls = location->tls,
	};
	struct tls_client *tls = NULL;
	char code[32];
	unsigned wait_ms = timeout_secs > 0 ? timeout_secs * 1000 : HANDSHAKE_MS;
	int rc = peer_connect(&place, set, &tls, wait_ms, NULL, &peer->stream, err);

	tls_client_free(&tls);
	if (rc == 0)
		rc = peer_ask_session(peer->stream, location->user, wait_ms, code, sizeof code,
				      err);
	if (rc == 0)
		stream_set_timeout(peer->stream, timeout_secs);
	return rc;
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
		rc = dsync_connect_command(location, timeout_secs, -1, peer_r, err);
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
