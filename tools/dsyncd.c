/*
 * dsyncd: the daemon that replicates. Start, signals, end; the work is in sync/.
 *
 *   dsyncd [-F] [-D] [-c FILE]      -D: log what is done to each mail, too
 *
 * Exits as sysexits.h says: 78 for the settings, 71 for the system's refusal, 69 when an address
 * cannot be listened on or another dsyncd runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>
#include <event2/event.h>

#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/service.h"
#include "store/settings.h"
#include "sync/control.h"
#include "sync/listener.h"
#include "sync/notify.h"
#include "sync/replicator.h"
#include "sync/replicator_socket.h"
#include "sync/worker.h"

struct daemon {
	const char *config;
	bool foreground;
	enum log_level log_level;
	int ready_fd; /* tells the process that started us how it went */
	int lock_fd;
	struct settings *set;
	struct event_base *base;
	struct replicator *replicator;
	struct listener *listener;
	struct control *control;
	struct notify *notify;
	struct replicator_socket *replicator_socket;
};

static int usage(void)
{
	fprintf(stderr, "usage: dsyncd [-F] [-D] [-c FILE]\n");
	return EX_USAGE;
}

static int exit_status(int code)
{
	switch (code) {
	case -EINVAL:
	case -ENOENT:
		return EX_CONFIG;
	case -EADDRINUSE:
	case -EADDRNOTAVAIL:
	case -EWOULDBLOCK:
		return EX_UNAVAILABLE;
	case -EACCES:
	case -EPERM:
		return EX_NOPERM;
	default:
		return EX_OSERR;
	}
}

/* One dsyncd for a state_dir: the journal has one writer. Held until the process ends. */
static int take_lock(struct daemon *d, struct error *err)
{
	char path[4096];

	if (mkdir(d->set->state_dir, 0700) < 0 && errno != EEXIST)
		return error_errno(err, -errno, "state_dir %s", d->set->state_dir);
	if (snprintf(path, sizeof path, "%s/dsyncd.lock", d->set->state_dir) >= (int)sizeof path)
		return error_set(err, -EINVAL, "state_dir is too long");
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (d->lock_fd < 0)
		return error_errno(err, -errno, "%s", path);
	if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return error_set(err, -EWOULDBLOCK, "another dsyncd holds %s", path);
	return 0;
}

/* The process that was started waits until this one is ready, and ends with its status. */
static void detach(struct daemon *d)
{
	int ready[2];
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		log_error("cannot detach: %s", strerror(errno));
		exit(EX_OSERR);
	}
	if (pid > 0) {
		unsigned char status = EX_SOFTWARE;

		close(ready[1]);
		(void)!read(ready[0], &status, 1);
		_exit(status);
	}
	close(ready[0]);
	d->ready_fd = ready[1];
	setsid();
}

static void tell_ready(struct daemon *d)
{
	unsigned char status = EX_OK;
	int null;

	if (d->foreground)
		return;
	null = open("/dev/null", O_RDWR);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		if (null > STDERR_FILENO)
			close(null);
	}
	log_open("dsyncd", LOG_TARGET_SYSLOG, d->log_level);
	(void)!write(d->ready_fd, &status, 1);
	file_close(&d->ready_fd);
}

static int fail(struct daemon *d, int status, const char *text)
{
	unsigned char byte = (unsigned char)status;

	log_error("%s", text);
	if (d->ready_fd >= 0)
		(void)!write(d->ready_fd, &byte, 1);
	return status;
}

/* ---- signals ---- */

static void on_finished(void *ctx)
{
	struct daemon *d = ctx;

	event_base_loopbreak(d->base);
}

static void on_terminate(evutil_socket_t signal_number, short what, void *ctx)
{
	struct daemon *d = ctx;

	service_stopping();
	log_notice("ending on signal %d", (int)signal_number);
	listener_stop(d->listener);
	replicator_drain(d->replicator, on_finished, d);
}

static void on_reload(evutil_socket_t signal_number, short what, void *ctx)
{
	struct daemon *d = ctx;
	struct settings *set = NULL;
	struct error err = {0};
	int rc;

	service_reloading();
	rc = settings_load(d->config, NULL, 0, 0, &set, &err);
	if (rc == 0)
		rc = listener_set_settings(d->listener, set, &err);
	if (rc == 0)
		rc = replicator_set_settings(d->replicator, set, &err);
	if (rc < 0) {
		struct error ignored;

		log_error("the old settings stay: %s", err.text);
		(void)listener_set_settings(d->listener, d->set, &ignored);
		settings_free(&set);
	} else {
		settings_free(&d->set);
		d->set = set;
		log_notice("settings were read again");
	}
	service_ready();
}

static void on_alive(evutil_socket_t fd, short what, void *ctx)
{
	service_alive();
}

/* NULL: nobody waits for it. */
static struct event *add_watchdog(struct daemon *d)
{
	unsigned ms = service_alive_interval_ms();
	struct timeval interval = {.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};
	struct event *event = ms ? event_new(d->base, -1, EV_PERSIST, on_alive, d) : NULL;

	if (event)
		event_add(event, &interval);
	return event;
}

static struct event *add_signal(struct daemon *d, int signal_number, event_callback_fn handler)
{
	struct event *event = evsignal_new(d->base, signal_number, handler, d);

	if (event)
		event_add(event, NULL);
	return event;
}

static int run(struct daemon *d)
{
	struct event *events[] = {add_signal(d, SIGTERM, on_terminate),
				  add_signal(d, SIGINT, on_terminate),
				  add_signal(d, SIGHUP, on_reload), add_watchdog(d)};

	tell_ready(d);
	service_ready();
	log_notice("started mail_root=%s state_dir=%s peers=%zu", d->set->mail_root,
		   d->set->state_dir, d->set->peer_count);
	event_base_dispatch(d->base);
	for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
		if (events[i])
			event_free(events[i]);
	}
	return EX_OK;
}

static int start(struct daemon *d, struct error *err)
{
	int rc = take_lock(d, err);

	if (rc < 0)
		return rc;
	d->base = event_base_new();
	if (!d->base)
		return error_errno(err, -ENOMEM, "event_base_new");
	rc = replicator_new(d->base, d->set, d->foreground ? LOG_TARGET_STDERR : LOG_TARGET_SYSLOG,
			    d->log_level, &d->replicator, err);
	if (rc == 0)
		rc = listener_new(d->base, d->set, d->replicator, &d->listener, err);
	if (rc == 0)
		rc = control_new(d->base, d->set->state_dir, d->replicator, &d->control, err);
	if (rc == 0)
		rc = notify_new(d->base, d->set, d->replicator, &d->notify, err);
	if (rc == 0)
		rc = replicator_socket_new(d->base, d->set, d->replicator, &d->replicator_socket,
					   err);
	return rc;
}

static void stop(struct daemon *d)
{
	replicator_socket_free(&d->replicator_socket);
	notify_free(&d->notify);
	control_free(&d->control);
	listener_free(&d->listener);
	replicator_free(&d->replicator);
	if (d->base)
		event_base_free(d->base);
	settings_free(&d->set);
	file_close(&d->lock_fd);
}

int main(int argc, char **argv)
{
	struct daemon d = {.config = SETTINGS_DEFAULT_PATH,
			   .log_level = LOG_LEVEL_INFO,
			   .ready_fd = -1,
			   .lock_fd = -1};
	struct error err = {0};
	int option, rc;

	if (argc > 1 && strcmp(argv[1], WORKER_ARGUMENT) == 0)
		return worker_main(argc, argv);
	while ((option = getopt(argc, argv, "FDc:")) != -1) {
		if (option == 'F')
			d.foreground = true;
		else if (option == 'D')
			d.log_level = LOG_LEVEL_DEBUG;
		else if (option == 'c')
			d.config = optarg;
		else
			return usage();
	}
	if (optind != argc)
		return usage();
	log_open("dsyncd", LOG_TARGET_STDERR, d.log_level);
	service_init();
	rc = settings_load(d.config, NULL, 0, 0, &d.set, &err);
	if (rc < 0)
		return fail(&d, EX_CONFIG, err.text);
	signal(SIGPIPE, SIG_IGN);
	umask(0077);
	if (!d.foreground)
		detach(&d);
	rc = start(&d, &err);
	rc = rc < 0 ? fail(&d, exit_status(rc), err.text) : run(&d);
	stop(&d);
	return rc;
}
