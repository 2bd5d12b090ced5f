/*
 * A worker's sync with a remote: or remoteprefix: peer: a command, run as the mail's owner, whose
 * keys ssh then uses, with the peer's dsync at the other end of two pipes.
 *
 * There is nobody but that process: no node that keeps states, so it is spoken to as a Dovecot is,
 * whichever it is. What the command says on its error output becomes the reason of a failure.
 */
#include "sync/worker_private.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

#include "store/base/file.h"
#include "sync/dsync_location.h"

#define ANSWER_MS	 30000 /* ssh may have to try several addresses */
#define ERROR_OUTPUT_MAX 16384
#define TOLD_MAX	 300
#define NSS_BUFFER	 16384
#define NOT_FOUND	 127 /* as a shell says it, and ssh of the command there */
#define NOT_EXECUTABLE	 126
#define SSH_FAILED	 255

/* ssh and scripts look for the owner's files there. */
static void set_environment(void)
{
	char buffer[NSS_BUFFER];
	struct passwd entry, *found = NULL;

	if (getpwuid_r(geteuid(), &entry, buffer, sizeof buffer, &found) != 0 || !found)
		return;
	setenv("HOME", found->pw_dir, 1);
	setenv("USER", found->pw_name, 1);
	setenv("LOGNAME", found->pw_name, 1);
}

/* A file in memory that takes so much and no more. */
static int open_error_output(void)
{
	int fd = memfd_create("error-output", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && (ftruncate(fd, ERROR_OUTPUT_MAX) < 0 ||
			fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) < 0))
		file_close(&fd);
	return fd;
}

int worker_command_start(const struct worker_process *w, const struct settings_peer *peer,
			 struct worker_command *command_r, struct error *err)
{
	char *word = (char *)peer->address;
	struct dsync_location location;
	int rc;

	*command_r = (struct worker_command){.stderr_fd = -1};
	rc = dsync_location_parse(&word, 1, w->set, w->user->name, &location, err);
	if (rc < 0)
		return rc;
	set_environment();
	command_r->stderr_fd = open_error_output();
	rc = dsync_connect_command(&location, WORKER_STREAM_SECS, command_r->stderr_fd,
				   &command_r->end, err);
	dsync_location_free(&location);
	if (rc < 0)
		worker_command_end(command_r, NULL);
	else
		stream_set_deadline(command_r->end.stream, ANSWER_MS);
	return rc;
}

/* The end of what it said, on one line. */
static void append_told(int fd, struct error *err)
{
	char text[ERROR_OUTPUT_MAX + 1] = "";
	ssize_t n = fd >= 0 ? pread(fd, text, ERROR_OUTPUT_MAX, 0) : 0;
	size_t len = n > 0 ? strnlen(text, (size_t)n) : 0, at;
	char why[ERROR_TEXT_MAX];

	while (len && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--;
	if (!len)
		return;
	text[len] = '\0';
	at = len > TOLD_MAX ? len - TOLD_MAX : 0;
	/* Whole lines, where there are any. */
	if (at && strchr(text + at, '\n'))
		at = (size_t)(strchr(text + at, '\n') - text) + 1;
	for (size_t i = at; i < len; i++) {
		if ((unsigned char)text[i] < 0x20)
			text[i] = ' ';
	}
	snprintf(why, sizeof why, "%s", err->text);
	error_set(err, err->code, "%.500s: %s", why, text + at);
}

enum worker_failure worker_command_end(struct worker_command *command, struct error *err)
{
	enum worker_failure failure = WORKER_FAILURE_SESSION;
	bool answered = command->end.stream && stream_bytes_in(command->end.stream) > 0;
	int status = dsync_disconnect(&command->end);

	if (err && !answered) {
		error_set(err, err->code, "the command ended with status %d before it answered",
			  status);
		if (status == EX_NOUSER)
			failure = WORKER_FAILURE_USER;
		else if (status == SSH_FAILED || status == NOT_FOUND || status == NOT_EXECUTABLE)
			failure = WORKER_FAILURE_CONNECT;
	}
	if (err)
		append_told(command->stderr_fd, err);
	file_close(&command->stderr_fd);
	return failure;
}
