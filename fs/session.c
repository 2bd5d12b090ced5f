/* The threads that serve requests. See session.h.
 *
 * Two things that the kernel offers and Debian 12's library (3.14) does not are done where the
 * bytes pass through our hands:
 * - FUSE_TMPFILE has the layout of FUSE_CREATE, with a name that no file can have ("/"), so it is
 *   given to the library as that.
 * - FUSE_HANDLE_KILLPRIV_V2, the promise to clear suid bits ourselves. Without it the kernel asks
 * for security.capability before every write. It is one bit in the answer to FUSE_INIT.
 */
#include "fs/session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "fs/credentials.h"
#include "fs/lead.h"
#include "store/base/log.h"

#define OPCODE_TMPFILE		51 /* FUSE_TMPFILE, kernel 6.2 */
#define INIT_HANDLE_KILLPRIV_V2 (1U << 28)
#define STOP_WAIT_MS		5000
#define STOP_POLL_MS		5
#define WAKE_SIGNAL		SIGUSR1

struct session {
	struct fuse_session *fuse;
	struct lead *lead;
	int dev_fd;
	bool stopping;
	unsigned alive;
	unsigned threads;
	pthread_t *thread;
};

/* Of the one FUSE_INIT of a connection. */
static uint64_t init_unique;
static uint32_t init_flags;

static void note_request(void *buf, size_t len)
{
	struct fuse_in_header *header = buf;
	const struct fuse_init_in *init = (const struct fuse_init_in *)(header + 1);

	if (len < sizeof *header)
		return;
	if (header->opcode == OPCODE_TMPFILE) {
		header->opcode = FUSE_CREATE;
	} else if (header->opcode == FUSE_INIT &&
		   len >= sizeof *header + offsetof(struct fuse_init_in, flags) +
				   sizeof init->flags) {
		init_unique = header->unique;
		init_flags = init->flags;
	}
}

static ssize_t read_request(int fd, void *buf, size_t len, void *userdata)
{
	ssize_t n = read(fd, buf, len);

	if (n > 0)
		note_request(buf, (size_t)n);
	return n;
}

#if !FS_HAVE_PASSTHROUGH
static void amend_init_reply(struct iovec *iov, int count)
{
	const struct fuse_out_header *header = iov[0].iov_base;
	struct fuse_init_out *init;

	if (!init_unique || header->unique != init_unique)
		return;
	init_unique = 0;
	if (header->error || count < 2 ||
	    iov[1].iov_len < offsetof(struct fuse_init_out, flags) + sizeof init->flags)
		return;
	init = iov[1].iov_base;
	init->flags |= init_flags & INIT_HANDLE_KILLPRIV_V2;
}
#endif

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
#if !FS_HAVE_PASSTHROUGH
	amend_init_reply(iov, count);
#endif
	return writev(fd, iov, count);
}

int session_create(struct fs *fs, int dev_fd, bool debug, struct session **session_r,
		   struct error *err)
{
	static const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
	char name[] = "dsyncfs", debug_option[] = "-d";
	char *argv[] = {name, debug ? debug_option : NULL, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(debug ? 2 : 1, argv);
	struct session *session = calloc(1, sizeof *session);

	*session_r = NULL;
	if (!session) {
		close(dev_fd);
		return error_set(err, -ENOMEM, "session: out of memory");
	}
	session->fuse = fuse_session_new(&args, &fs_operations, sizeof fs_operations, fs);
	fuse_opt_free_args(&args);
	if (!session->fuse || fuse_session_custom_io(session->fuse, &io, dev_fd) != 0) {
		if (session->fuse)
			fuse_session_destroy(session->fuse);
		close(dev_fd);
		free(session);
		return error_set(err, -ENOMEM, "the FUSE library gives no session");
	}
	session->dev_fd = dev_fd;
	*session_r = session;
	return 0;
}

static void wake(int signal)
{
}

static void allow_wake(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, WAKE_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static bool has_more(void *arg)
{
	const struct session *session = arg;
	struct pollfd device = {.fd = session->dev_fd, .events = POLLIN};

	return poll(&device, 1, 0) > 0;
}

static void *serve(void *arg)
{
	struct session *session = arg;
	struct fuse_buf buf = {0};

	if (credentials_prepare_thread() < 0)
		log_error("a serving thread cannot have a umask of its own");
	allow_wake();
	for (;;) {
		int n;

		lead_wait(session->lead, has_more, session);
		n = fuse_session_receive_buf(session->fuse, &buf);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN && !__atomic_load_n(&session->stopping, __ATOMIC_ACQUIRE))
			continue;
		if (n <= 0)
			break;
		lead_begin(session->lead, has_more, session);
		fuse_session_process_buf(session->fuse, &buf);
		lead_end(session->lead);
	}
	lead_yield();
	fs_thread_end();
	free(buf.mem);
	if (__atomic_sub_fetch(&session->alive, 1, __ATOMIC_ACQ_REL) == 0)
		kill(getpid(), SESSION_ENDED_SIGNAL);
	return NULL;
}

int session_start(struct session *session, unsigned threads, struct error *err)
{
	struct sigaction action = {.sa_handler = wake}; /* no SA_RESTART: it ends a read */
	sigset_t all, old;
	int rc = 0;

	sigaction(WAKE_SIGNAL, &action, NULL);
	session->thread = calloc(threads, sizeof *session->thread);
	if (!session->thread)
		return error_set(err, -ENOMEM, "session: out of memory");
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	session->lead = lead_create();
	if (!session->lead) {
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		return error_set(err, -ENOMEM, "session: no memory or no thread");
	}
	while (session->threads < threads && rc == 0) {
		__atomic_add_fetch(&session->alive, 1, __ATOMIC_ACQ_REL);
		rc = pthread_create(&session->thread[session->threads], NULL, serve, session);
		if (rc == 0)
			session->threads++;
		else
			__atomic_sub_fetch(&session->alive, 1, __ATOMIC_ACQ_REL);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (session->threads == 0)
		return error_errno(err, -rc, "session: no thread");
	return 0;
}

void session_stop(struct session *session)
{
	const struct timespec pause = {.tv_nsec = STOP_POLL_MS * 1000000L};
	int flags = fcntl(session->dev_fd, F_GETFL);

	/* Threads go on until nothing is left to read; those that wait in a read are woken. The
	   signal may come just before the read, so it is sent until they are gone. */
	__atomic_store_n(&session->stopping, true, __ATOMIC_RELEASE);
	fcntl(session->dev_fd, F_SETFL, flags | O_NONBLOCK);
	if (session->lead)
		lead_stop(session->lead);
	for (int ms = 0; __atomic_load_n(&session->alive, __ATOMIC_ACQUIRE); ms += STOP_POLL_MS) {
		/* Clients that never stop asking are not waited for. */
		if (ms == STOP_WAIT_MS)
			fuse_session_exit(session->fuse);
		for (unsigned i = 0; i < session->threads; i++)
			pthread_kill(session->thread[i], WAKE_SIGNAL);
		nanosleep(&pause, NULL);
	}
	for (unsigned i = 0; i < session->threads; i++)
		pthread_join(session->thread[i], NULL);
	session->threads = 0;
}

void session_free(struct session **session)
{
	if (!*session)
		return;
	fuse_session_destroy((*session)->fuse); /* closes dev_fd */
	lead_free(&(*session)->lead);
	free((*session)->thread);
	free(*session);
	*session = NULL;
}
