/* The worker's process: start, privileges, the loop, and what its parts share. See worker.h. */
#include "sync/worker.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <sysexits.h>
#include <unistd.h>

#include "store/base/clock.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/lost_mapping.h"
#include "store/base/mounted.h"
#include "sync/tcp.h"
#include "sync/worker_private.h"

#define SETTINGS_TEXT_MAX (1024 * 1024)

/* The mount knows by this whose changes a process applies (the attribute is never stored). */
#define ORIGIN_XATTR "trusted.dsyncfs.origin"

void worker_broken(const char *what)
{
	log_error("worker: %s", what);
	exit(EX_PROTOCOL);
}

void worker_reply(struct worker_process *w)
{
	int rc = worker_send(w->socket_fd, &w->out, -1);

	if (rc == -EPIPE)
		exit(EX_OK); /* dsyncd is gone, so there is nobody to work for. */
	if (rc < 0) {
		log_error("worker: cannot send to dsyncd: %s", strerror(-rc));
		exit(EX_OSERR);
	}
}

static void next_with_fd(struct worker_process *w, struct worker_reader *reader_r, int *fd_r)
{
	int rc = worker_receive(w->socket_fd, &w->in, fd_r);

	if (rc == 0)
		exit(EX_OK);
	if (rc < 0) {
		log_error("worker: cannot receive from dsyncd: %s", strerror(-rc));
		exit(EX_OSERR);
	}
	if (worker_get_begin(reader_r, &w->in) < 0)
		worker_broken("a message of another version");
}

void worker_next(struct worker_process *w, struct worker_reader *reader_r)
{
	next_with_fd(w, reader_r, NULL);
}

void worker_expect(struct worker_process *w, enum worker_message_type type,
		   struct worker_reader *reader_r)
{
	worker_next(w, reader_r);
	if (reader_r->type != type)
		worker_broken("a message out of order");
}

/* ---- users and mailboxes ---- */

static void drop_user(struct worker_process *w, unsigned i)
{
	box_cache_forget(&w->boxes, w->users[i].user, NULL);
	mail_user_free(&w->users[i].user);
	w->user_count--;
	memmove(&w->users[i], &w->users[i + 1], (w->user_count - i) * sizeof w->users[0]);
}

static void put_in_front(struct worker_process *w, unsigned i)
{
	__typeof__(w->users[0]) entry = w->users[i];

	memmove(&w->users[1], &w->users[0], i * sizeof w->users[0]);
	w->users[0] = entry;
	w->user = entry.user;
}

int worker_use_user(struct worker_process *w, const char *name, struct error *err)
{
	struct mail_user *user = NULL;
	int rc;

	w->user = NULL;
	for (unsigned i = 0; i < w->user_count; i++) {
		if (strcmp(w->users[i].user->name, name) != 0)
			continue;
		/* A home that has gone away is said to be missing, by a new look. */
		if (access(w->users[i].user->home, F_OK) == 0) {
			put_in_front(w, i);
			return 0;
		}
		drop_user(w, i);
		break;
	}
	rc = mail_user_find(w->set, name, &user, err);
	if (rc < 0)
		return rc;
	if (user->uid != geteuid()) {
		rc = error_set(err, -ESTALE,
			       "user %s: the mail belongs to uid %u, this worker is %u", name,
			       user->uid, geteuid());
		mail_user_free(&user);
		return rc;
	}
	if (w->user_count == WORKER_KEPT_USERS)
		drop_user(w, w->user_count - 1);
	w->users[w->user_count].user = user;
	put_in_front(w, w->user_count++);
	return 0;
}

/* ---- start ---- */

static int load_settings(struct worker_process *w, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(SETTINGS_TEXT_MAX);
	struct stat st;
	char *room;
	int rc;

	/* pread: all workers share the descriptor's position. */
	if (fstat(WORKER_FD_SETTINGS, &st) < 0)
		return error_errno(err, -errno, "settings");
	room = buf_reserve(&text, (size_t)st.st_size);
	if (!room)
		return error_errno(err, text.failed, "settings");
	rc = file_pread_all(WORKER_FD_SETTINGS, room, (size_t)st.st_size, 0);
	if (rc < 0)
		return error_errno(err, rc, "settings");
	buf_commit(&text, (size_t)st.st_size);
	close(WORKER_FD_SETTINGS);
	return settings_parse(buf_str(&text), text.len, "dsyncd's settings", SETTINGS_QUIET,
			      &w->set, err);
}

/* From here on the worker is the mail's owner, for good. */
static int drop_privileges(uid_t uid, gid_t gid, struct error *err)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, -errno, "prctl");
	if (geteuid() != 0) {
		if (uid != geteuid())
			return error_set(err, -EPERM,
					 "dsyncd does not run as root and cannot become "
					 "uid %u",
					 uid);
		return 0;
	}
	if (uid == 0)
		return error_set(err, -EPERM,
				 "the mail belongs to root, which dsyncd does not work as");
	if (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return error_errno(err, -errno, "cannot become uid %u gid %u", uid, gid);
	return 0;
}

/* Says whose changes this process applies, while that is still allowed. Not a dsyncfs mount: then
 * nobody watches either. */
static void announce_origin(const struct worker_process *w, const char *token)
{
	if (strcmp(token, "0") == 0)
		return;
	if (setxattr(w->set->mail_root, ORIGIN_XATTR, token, strlen(token), 0) < 0 &&
	    errno != ENOTSUP && errno != EPERM)
		log_warning("cannot announce the origin of changes to %s: %s", w->set->mail_root,
			    strerror(errno));
}

static bool has_tls_peer(const struct worker_process *w)
{
	for (size_t i = 0; i < w->set->peer_count; i++) {
		if (w->set->peers[i].transport == SETTINGS_TRANSPORT_TCPS)
			return true;
	}
	return false;
}

static int parse_number(const char *text, unsigned long max, unsigned long *number_r)
{
	char *end;

	errno = 0;
	*number_r = strtoul(text, &end, 10);
	return errno || end == text || *end || *number_r > max ? -EINVAL : 0;
}

/* By CLOCK_BOOTTIME in milliseconds; 0: unknown. */
static void note_mounted(unsigned long began)
{
	if (began)
		mounted_set(clock_ms(CLOCK_REALTIME) - (clock_ms(CLOCK_BOOTTIME) - (int64_t)began));
}

static int start(struct worker_process *w, char **argv, struct error *err)
{
	unsigned long kind, uid, gid, token, target, parent, mounted;
	int rc;

	if (parse_number(argv[2], WORKER_HELPER, &kind) < 0 ||
	    parse_number(argv[3], UINT32_MAX, &uid) < 0 ||
	    parse_number(argv[4], UINT32_MAX, &gid) < 0 ||
	    parse_number(argv[5], UINT32_MAX, &token) < 0 ||
	    guid_from_hex(argv[6], &w->node_id) < 0 ||
	    parse_number(argv[7], LOG_TARGET_SYSLOG * 16 + LOG_LEVEL_DEBUG, &target) < 0 ||
	    parse_number(argv[8], INT32_MAX, &parent) < 0 ||
	    parse_number(argv[9], INT64_MAX, &mounted) < 0)
		return error_set(err, -EINVAL, "not started by dsyncd");
	w->kind = (enum worker_kind)kind;
	note_mounted(mounted);
	log_open("dsyncd-worker", (enum log_target)(target / 16), (enum log_level)(target % 16));
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	lost_mapping_ends_process();
	signal(SIGINT, SIG_IGN); /* ^C reaches the whole group; dsyncd says when we end. */
	close_range(WORKER_FD_SETTINGS + 1, ~0U, 0);
	rc = load_settings(w, err);
	if (rc < 0)
		return rc;
	if (gethostname(w->hostname, sizeof w->hostname - 1) < 0)
		return error_errno(err, -errno, "gethostname");
	/* The file of trusted certificates may be root's alone. What is wrong with it is said when
	 * the peer is called. */
	if (w->kind == WORKER_OUTGOING && has_tls_peer(w))
		(void)tls_client_new(w->set, &w->tls, NULL);
	if (w->kind != WORKER_HELPER) {
		announce_origin(w, argv[5]);
		rc = drop_privileges((uid_t)uid, (gid_t)gid, err);
		if (rc < 0)
			return rc;
	}
	/* After the change of uid, which resets it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != (pid_t)parent)
		exit(EX_OK);
	umask(0077);
	return 0;
}

/* ---- the loop ---- */

static void handle_message(struct worker_process *w)
{
	struct worker_reader reader;
	int fd = -1;

	next_with_fd(w, &reader, &fd);
	switch (reader.type) {
	case WORKER_JOB:
		worker_run_job(w, &reader);
		break;
	case WORKER_SESSION:
		worker_run_session(w, &reader, fd);
		fd = -1;
		break;
	case WORKER_FIND:
	case WORKER_EACH:
	case WORKER_PROBE:
		if (w->kind != WORKER_HELPER)
			worker_broken("a helper's task");
		worker_help(w, &reader);
		break;
	case WORKER_QUIT:
		exit(EX_OK);
	default:
		worker_broken("an unknown message");
	}
	file_close(&fd);
}

/* Waits for dsyncd, and for the peer at the other end of a kept connection. */
static void loop(struct worker_process *w)
{
	for (;;) {
		struct pollfd fds[3] = {{.fd = w->socket_fd, .events = POLLIN},
					{.fd = -1, .events = POLLIN},
					{.fd = -1, .events = POLLIN}};
		int wait_ms = -1;

		if (w->client_stream) {
			int64_t left_ms = w->client_until_ms - tcp_now_ms();

			if (stream_can_read(w->client_stream, false)) {
				worker_next_command(w);
				continue;
			}
			if (left_ms <= 0) {
				worker_drop_client(w);
				continue;
			}
			fds[1].fd = stream_fd_in(w->client_stream);
			wait_ms = (int)left_ms;
		}
		if (w->peer_stream)
			fds[2].fd = stream_fd_in(w->peer_stream);
		if (poll(fds, 3, wait_ms) < 0) {
			if (errno == EINTR)
				continue;
			log_error("worker: poll: %s", strerror(errno));
			exit(EX_OSERR);
		}
		/* Between sessions the peer says nothing; it has closed, then. */
		if (fds[2].revents)
			stream_free(&w->peer_stream);
		if (fds[0].revents)
			handle_message(w);
		else if (fds[1].revents)
			worker_next_command(w);
	}
}

int worker_main(int argc, char **argv)
{
	struct worker_process w = {.socket_fd = WORKER_FD_SOCKET};
	struct error err = {0};

	if (argc != WORKER_ARGC || start(&w, argv, &err) < 0) {
		log_error("worker: %s", argc == WORKER_ARGC ? err.text : "not started by dsyncd");
		return EX_CONFIG;
	}
	loop(&w);
	return EX_OK;
}
