/* dsyncd's workers. See worker_pool.h. */
#include "sync/worker_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <event2/event.h>
#include <utlist.h>

#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/lost_mapping.h"

#define IDLE_SECS	  5
#define SETTINGS_TEXT_MAX (1024 * 1024)
#define OUTPUT_MAX	  (8 * 1024 * 1024) /* queued for one worker: more than any job has */
#define MESSAGES_A_TURN	  32		    /* from one worker before others get their turn */

struct packet {
	struct packet *prev, *next;
	struct buf message;
	int fd;
};

struct worker {
	struct worker *prev, *next;
	struct worker_pool *pool;
	struct worker_key key;
	pid_t pid;
	int socket_fd;
	bool retired;
	unsigned generation;
	void *owner; /* NULL: idle, or dying */
	char *user;
	bool ending; /* its socket is closed */
	struct event *read_event, *write_event, *timer;
	struct packet *output;
	size_t output_bytes;
};

struct worker_pool {
	struct event_base *base;
	struct guid node_id;
	struct worker_pool_handlers handlers;
	enum log_target target;
	enum log_level level;
	struct worker *workers;
	unsigned count, busy[WORKER_HELPER + 1];
	int settings_fd;
	int64_t mounted;
	unsigned generation; /* of the settings and the mount that workers are told of */
	struct buf input;
};

struct worker_pool *worker_pool_new(struct event_base *base, const struct guid *node_id,
				    const struct worker_pool_handlers *handlers,
				    enum log_target target, enum log_level level)
{
	struct worker_pool *pool = calloc(1, sizeof *pool);

	if (!pool)
		return NULL;
	pool->base = base;
	pool->node_id = *node_id;
	pool->handlers = *handlers;
	pool->target = target;
	pool->level = level;
	pool->settings_fd = -1;
	pool->input = (struct buf)BUF_INIT(WORKER_MESSAGE_MAX);
	return pool;
}

static void drop_output(struct worker *worker)
{
	struct packet *packet, *next;

	DL_FOREACH_SAFE(worker->output, packet, next)
	{
		DL_DELETE(worker->output, packet);
		file_close(&packet->fd);
		buf_free(&packet->message);
		free(packet);
	}
	worker->output_bytes = 0;
}

static void free_event(struct event **event)
{
	if (*event)
		event_free(*event);
	*event = NULL;
}

/* Closes the socket: the process ends by itself. It stays in the list until it is reaped. */
static void end_worker(struct worker *worker)
{
	if (worker->owner)
		worker->pool->busy[worker->key.kind]--;
	worker->owner = NULL;
	worker->ending = true;
	free_event(&worker->read_event);
	free_event(&worker->write_event);
	file_close(&worker->socket_fd);
	drop_output(worker);
}

static void free_worker(struct worker *worker)
{
	if (!worker->ending)
		end_worker(worker);
	free_event(&worker->timer);
	DL_DELETE(worker->pool->workers, worker);
	worker->pool->count--;
	free(worker->user);
	free(worker);
}

void worker_pool_free(struct worker_pool **pool)
{
	if (!*pool)
		return;
	while ((*pool)->workers) {
		kill((*pool)->workers->pid, SIGKILL);
		free_worker((*pool)->workers);
	}
	file_close(&(*pool)->settings_fd);
	buf_free(&(*pool)->input);
	free(*pool);
	*pool = NULL;
}

int worker_pool_set_settings(struct worker_pool *pool, const struct settings *set,
			     struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(SETTINGS_TEXT_MAX);
	AUTO_CLOSE int fd = -1;
	int rc = settings_print(set, true, false, &text);

	if (rc < 0)
		return error_errno(err, rc, "settings for workers");
	fd = memfd_create("dsyncd-settings", MFD_CLOEXEC);
	if (fd < 0)
		return error_errno(err, -errno, "memfd_create");
	rc = file_write_all(fd, text.data, text.len);
	if (rc < 0)
		return error_errno(err, rc, "settings for workers");
	file_close(&pool->settings_fd);
	pool->settings_fd = fd;
	fd = -1;
	pool->generation++;
	worker_pool_end_idle(pool);
	return 0;
}

void worker_pool_set_mounted(struct worker_pool *pool, int64_t began)
{
	if (began == pool->mounted)
		return;
	pool->mounted = began;
	pool->generation++;
	worker_pool_end_idle(pool);
}

/* ---- one worker's life ---- */

/* The owner hears of it, then the process has nobody. */
static void lose_worker(struct worker *worker, const char *why)
{
	void *owner = worker->owner;

	kill(worker->pid, SIGKILL);
	if (owner)
		worker->pool->handlers.gone(owner, worker, why);
	if (!worker->ending)
		end_worker(worker);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct worker *worker = ctx;

	if (worker->ending) {
		kill(worker->pid, SIGKILL); /* It was told to end a while ago. */
		return;
	}
	if (worker->owner) {
		log_error("worker hangs and is killed pid=%d user=%s", (int)worker->pid,
			  worker->user ? worker->user : "-");
		lose_worker(worker, "the worker hung");
		return;
	}
	end_worker(worker);
	event_add(worker->timer, &(struct timeval){.tv_sec = IDLE_SECS});
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
	struct worker *worker = ctx;
	struct worker_pool *pool = worker->pool;

	for (unsigned i = 0; i < MESSAGES_A_TURN && !worker->ending; i++) {
		struct worker_reader reader;
		int rc = worker_receive(worker->socket_fd, &pool->input, NULL);

		if (rc == -EAGAIN)
			return;
		if (rc <= 0 || worker_get_begin(&reader, &pool->input) < 0) {
			lose_worker(worker,
				    rc == 0 ? "the worker died" : "the worker broke its protocol");
			return;
		}
		if (!worker->owner) {
			/* Nothing is expected from an idle one but that its peer has gone. */
			if (reader.type != WORKER_CLOSED)
				lose_worker(worker, "the worker broke its protocol");
			continue;
		}
		pool->handlers.message(worker->owner, worker, &reader);
	}
}

static void send_output(struct worker *worker)
{
	while (worker->output) {
		struct packet *packet = worker->output;
		int rc = worker_send(worker->socket_fd, &packet->message, packet->fd);

		if (rc == -EAGAIN) {
			event_add(worker->write_event, NULL);
			return;
		}
		/* A dead worker is noticed by its closed socket. */
		worker->output_bytes -= packet->message.len;
		DL_DELETE(worker->output, packet);
		file_close(&packet->fd);
		buf_free(&packet->message);
		free(packet);
	}
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
	send_output(ctx);
}

void worker_tell(struct worker *worker, const struct buf *message, int fd)
{
	struct packet *packet;

	if (worker->ending)
		return;
	if (!worker->output) {
		int rc = worker_send(worker->socket_fd, message, fd);

		if (rc == 0 || rc == -EPIPE)
			return;
		if (rc != -EAGAIN) {
			log_error("cannot send to a worker: %s", strerror(-rc));
			kill(worker->pid, SIGKILL);
			return;
		}
	}
	packet = calloc(1, sizeof *packet);
	if (packet) {
		packet->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
		packet->message = (struct buf)BUF_INIT(WORKER_MESSAGE_MAX);
		buf_append(&packet->message, message->data, message->len);
	}
	if (!packet || packet->message.failed || (fd >= 0 && packet->fd < 0) ||
	    worker->output_bytes + message->len > OUTPUT_MAX) {
		log_error("cannot queue a message to a worker");
		if (packet) {
			file_close(&packet->fd);
			buf_free(&packet->message);
		}
		free(packet);
		kill(worker->pid, SIGKILL); /* It would wait for that message forever. */
		return;
	}
	DL_APPEND(worker->output, packet);
	worker->output_bytes += message->len;
	event_add(worker->write_event, NULL);
}

void worker_expect_within(struct worker *worker, unsigned ms)
{
	struct timeval timeout = {.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};

	if (ms)
		event_add(worker->timer, &timeout);
	else
		event_del(worker->timer);
}

/* ---- starting ---- */

static int spawn(struct worker_pool *pool, const struct worker_key *key, int socket_fd,
		 pid_t *pid_r)
{
	char program[] = "dsyncd", argument[] = WORKER_ARGUMENT;
	char kind[16], uid[16], gid[16], token[16], node[GUID_HEX_SIZE], target[16], parent[16];
	char mounted[24];
	char *argv[WORKER_ARGC + 1] = {program, argument, kind,	  uid,	   gid, token,
				       node,	target,	  parent, mounted, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t signals;
	int rc;

	snprintf(kind, sizeof kind, "%u", key->kind);
	snprintf(uid, sizeof uid, "%u", key->uid);
	snprintf(gid, sizeof gid, "%u", key->gid);
	snprintf(token, sizeof token, "%u", key->token);
	guid_to_hex(&pool->node_id, node);
	snprintf(target, sizeof target, "%u", pool->target * 16 + pool->level);
	snprintf(parent, sizeof parent, "%d", (int)getpid());
	snprintf(mounted, sizeof mounted, "%lld", (long long)pool->mounted);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	/* Both are above 4 (checked when they were made), so the order does not matter. */
	posix_spawn_file_actions_adddup2(&actions, socket_fd, WORKER_FD_SOCKET);
	posix_spawn_file_actions_adddup2(&actions, pool->settings_fd, WORKER_FD_SETTINGS);
	sigemptyset(&signals);
	posix_spawnattr_setsigmask(&attributes, &signals);
	sigfillset(&signals);
	posix_spawnattr_setsigdefault(&attributes, &signals);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	/* This very file, also after the package was upgraded under us. */
	rc = posix_spawn(pid_r, "/proc/self/exe", &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -rc;
}

/* A copy of fd above those that a worker has its own on. */
static int move_up(int *fd)
{
	int high;

	if (*fd > WORKER_FD_SETTINGS)
		return 0;
	high = fcntl(*fd, F_DUPFD_CLOEXEC, WORKER_FD_SETTINGS + 1);
	if (high < 0)
		return -errno;
	close(*fd);
	*fd = high;
	return 0;
}

static int start_process(struct worker_pool *pool, const struct worker_key *key, int *socket_r,
			 pid_t *pid_r, struct error *err)
{
	int pair[2];
	int rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno(err, -errno, "cannot make a worker's socket");
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	rc = move_up(&pair[1]);
	if (rc == 0)
		rc = move_up(&pool->settings_fd);
	if (rc == 0)
		rc = spawn(pool, key, pair[1], pid_r);
	close(pair[1]);
	if (rc < 0) {
		close(pair[0]);
		return error_errno(err, rc, "cannot start a worker");
	}
	*socket_r = pair[0];
	return 0;
}

static int start_worker(struct worker_pool *pool, const struct worker_key *key,
			struct worker **worker_r, struct error *err)
{
	struct worker *worker = calloc(1, sizeof *worker);
	int rc;

	if (!worker)
		return error_errno(err, -ENOMEM, "worker");
	worker->pool = pool;
	worker->key = *key;
	worker->generation = pool->generation;
	rc = start_process(pool, key, &worker->socket_fd, &worker->pid, err);
	if (rc < 0) {
		free(worker);
		return rc;
	}
	DL_APPEND(pool->workers, worker);
	pool->count++;
	worker->read_event =
		event_new(pool->base, worker->socket_fd, EV_READ | EV_PERSIST, on_readable, worker);
	worker->write_event =
		event_new(pool->base, worker->socket_fd, EV_WRITE, on_writable, worker);
	worker->timer = evtimer_new(pool->base, on_timer, worker);
	if (!worker->read_event || !worker->write_event || !worker->timer ||
	    event_add(worker->read_event, NULL) < 0) {
		kill(worker->pid, SIGKILL);
		end_worker(worker);
		return error_errno(err, -ENOMEM, "worker");
	}
	*worker_r = worker;
	return 0;
}

static bool key_equal(const struct worker_key *a, const struct worker_key *b)
{
	return a->kind == b->kind && a->uid == b->uid && a->gid == b->gid && a->token == b->token;
}

int worker_pool_take(struct worker_pool *pool, const struct worker_key *key, const char *user,
		     void *owner, struct worker **worker_r, struct error *err)
{
	struct worker *worker, *found = NULL;
	char *copy = strdup(user);
	int rc = 0;

	if (!copy)
		return error_errno(err, -ENOMEM, "worker");
	DL_FOREACH (pool->workers, worker) {
		if (worker->owner || worker->ending || !key_equal(&worker->key, key))
			continue;
		found = worker;
		if (worker->user && strcmp(worker->user, user) == 0)
			break;
	}
	if (!found)
		rc = start_worker(pool, key, &found, err);
	if (rc < 0) {
		free(copy);
		return rc;
	}
	free(found->user);
	found->user = copy;
	found->owner = owner;
	pool->busy[key->kind]++;
	event_del(found->timer);
	*worker_r = found;
	return 0;
}

bool worker_is_outdated(const struct worker *worker)
{
	return worker->generation != worker->pool->generation;
}

void worker_release(struct worker **worker)
{
	struct worker *w = *worker;

	*worker = NULL;
	if (!w || w->ending)
		return;
	w->owner = NULL;
	w->pool->busy[w->key.kind]--;
	if (w->retired || worker_is_outdated(w))
		end_worker(w);
	event_add(w->timer, &(struct timeval){.tv_sec = IDLE_SECS});
}

void worker_retire(struct worker *worker)
{
	if (worker)
		worker->retired = true;
}

void worker_kill(struct worker **worker)
{
	struct worker *w = *worker;

	*worker = NULL;
	if (!w)
		return;
	kill(w->pid, SIGKILL);
	if (!w->ending)
		end_worker(w);
}

void *worker_owner(const struct worker *worker)
{
	return worker->owner;
}

const struct worker_key *worker_key(const struct worker *worker)
{
	return &worker->key;
}

pid_t worker_pid(const struct worker *worker)
{
	return worker->pid;
}

unsigned worker_pool_busy(const struct worker_pool *pool, enum worker_kind kind)
{
	return pool->busy[kind];
}

unsigned worker_pool_count(const struct worker_pool *pool)
{
	return pool->count;
}

void worker_pool_end_idle(struct worker_pool *pool)
{
	struct worker *worker;

	DL_FOREACH (pool->workers, worker) {
		if (worker->owner || worker->ending)
			continue;
		end_worker(worker);
		event_add(worker->timer, &(struct timeval){.tv_sec = IDLE_SECS});
	}
}

void worker_pool_reap(struct worker_pool *pool)
{
	struct worker *worker, *next;

	DL_FOREACH_SAFE(pool->workers, worker, next)
	{
		char why[128] = "the worker died";
		int status;

		if (waitpid(worker->pid, &status, WNOHANG) != worker->pid)
			continue;
		if (WIFSIGNALED(status))
			snprintf(why, sizeof why, "the worker was ended by signal %d",
				 WTERMSIG(status));
		else if (WEXITSTATUS(status) == EX_IOERR)
			snprintf(why, sizeof why, "%s", LOST_MAPPING_TEXT);
		else if (WEXITSTATUS(status))
			snprintf(why, sizeof why, "the worker ended with status %d",
				 WEXITSTATUS(status));
		/* What it said before it died counts. */
		if (!worker->ending)
			on_readable(worker->socket_fd, EV_READ, worker);
		if (!worker->ending && worker->owner)
			worker->pool->handlers.gone(worker->owner, worker, why);
		free_worker(worker);
	}
}
