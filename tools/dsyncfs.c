/*
 * dsyncfs: mounts a directory of mail and journals what happens in it. Arguments, settings, going
 * into the background; the mount itself is in fs/.
 *
 *   dsyncfs [-f] [-o opt,...] SOURCE MOUNTPOINT
 *   mount.dsyncfs SOURCE MOUNTPOINT [-sfnv] [-o opt,...]     (as mount(8) calls it)
 *
 * Exits as sysexits.h says: 64 for the command line, 78 for the settings, 71 for the system's
 * refusal, 69 when a dsyncfs is mounted there already.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>
#include "fs/fs.h"
#include "fs/mount.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/service.h"
#include "store/mail_user.h"
#include "store/settings.h"

#define THREADS_MAX 64

struct command {
	bool foreground;
	bool fake; /* mount -f: everything but the mount */
	const char *config;
	const char *state_dir; /* NULL: as the settings say */
	const char *home_depth;
	const char *fsname;
	const char *threads;
	bool debug;
	unsigned long mount_flags;
	int ready_fd;
};

/* Options of mount(8) that are flags of mount(2). */
static const struct {
	const char *name;
	unsigned long set, clear;
} flag_options[] = {
	{"ro", MS_RDONLY, 0},
	{"rw", 0, MS_RDONLY},
	{"noexec", MS_NOEXEC, 0},
	{"exec", 0, MS_NOEXEC},
	{"sync", MS_SYNCHRONOUS, 0},
	{"async", 0, MS_SYNCHRONOUS},
	{"dirsync", MS_DIRSYNC, 0},
	{"atime", 0, MS_NOATIME},
	{"noatime", MS_NOATIME, 0},
	{"diratime", 0, MS_NODIRATIME},
	{"nodiratime", MS_NODIRATIME, 0},
	{"relatime", MS_RELATIME, 0},
	{"norelatime", 0, MS_RELATIME},
	{"strictatime", MS_STRICTATIME, 0},
	/* What we do anyway, and what is for those who read fstab. */
	{"nosuid", 0, 0},
	{"nodev", 0, 0},
	{"allow_other", 0, 0},
	{"default_permissions", 0, 0},
	{"defaults", 0, 0},
	{"auto", 0, 0},
	{"noauto", 0, 0},
	{"nofail", 0, 0},
	{"_netdev", 0, 0},
};

static int usage(void)
{
	fprintf(stderr, "usage: dsyncfs [-f] [-o opt,...] SOURCE MOUNTPOINT\n"
			"options: config=FILE state_dir=DIR home_depth=N fsname=NAME max_threads=N "
			"debug, and those of mount(8)\n");
	return EX_USAGE;
}

static bool take_flag(struct command *command, const char *option)
{
	for (size_t i = 0; i < sizeof flag_options / sizeof flag_options[0]; i++) {
		if (strcmp(option, flag_options[i].name) != 0)
			continue;
		command->mount_flags |= flag_options[i].set;
		command->mount_flags &= ~flag_options[i].clear;
		return true;
	}
	/* Comments in fstab. */
	return strncmp(option, "x-", 2) == 0 || strncmp(option, "comment=", 8) == 0;
}

static bool take_value(const char *option, const char *name, const char **value_r)
{
	size_t len = strlen(name);

	if (strncmp(option, name, len) != 0 || option[len] != '=')
		return false;
	*value_r = option + len + 1;
	return true;
}

static bool take_option(struct command *command, const char *option)
{
	if (take_value(option, "config", &command->config) ||
	    take_value(option, "state_dir", &command->state_dir) ||
	    take_value(option, "home_depth", &command->home_depth) ||
	    take_value(option, "fsname", &command->fsname) ||
	    take_value(option, "max_threads", &command->threads))
		return true;
	if (strcmp(option, "debug") == 0) {
		command->debug = command->foreground = true;
		return true;
	}
	return take_flag(command, option);
}

/* options is cut at its commas, in place. */
static int take_options(struct command *command, char *options)
{
	char *option;

	while ((option = strsep(&options, ",")) != NULL) {
		if (*option && !take_option(command, option)) {
			log_error("unknown option -o %s", option);
			return -EINVAL;
		}
	}
	return 0;
}

static int parse_number(const char *text, unsigned min, unsigned max, unsigned *number_r)
{
	char *end;
	unsigned long number;

	errno = 0;
	number = strtoul(text, &end, 10);
	if (errno || end == text || *end || number < min || number > max)
		return -EINVAL;
	*number_r = (unsigned)number;
	return 0;
}

/* The options of fs_run() that are not on the command line come from the settings. A file that is
 * not named and not there means the defaults. */
static int take_settings(const struct command *command, struct settings **set_r,
			 struct fs_options *options, struct error *err)
{
	const char *path = command->config ? command->config : SETTINGS_DEFAULT_PATH;
	int rc = settings_load(path, NULL, 0, SETTINGS_QUIET, set_r, err);

	if (rc == -ENOENT && !command->config)
		rc = settings_load(NULL, NULL, 0, SETTINGS_QUIET, set_r, err);
	if (rc < 0)
		return rc;
	options->state_dir = command->state_dir ? command->state_dir : (*set_r)->state_dir;
	options->home_depth = mail_user_home_depth(*set_r);
	if (command->home_depth &&
	    parse_number(command->home_depth, 0, 16, &options->home_depth) < 0)
		return error_set(err, -EINVAL, "-o home_depth=%s: not a number from 0 to 16",
				 command->home_depth);
	if (command->threads &&
	    parse_number(command->threads, 1, THREADS_MAX, &options->threads) < 0)
		return error_set(err, -EINVAL, "-o max_threads=%s: not a number from 1 to %d",
				 command->threads, THREADS_MAX);
	return 0;
}

/* Whether path is dir or below it; both absolute. */
static bool is_within(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* The journal must not be in the mount: it would wait for itself. */
static int check_state_dir(const struct fs_options *options, struct error *err)
{
	AUTO_FREE char *real = realpath(options->state_dir, NULL);
	const char *path = real ? real : options->state_dir;

	if (path[0] != '/')
		return error_set(err, -EINVAL, "state_dir %s: not an absolute path", path);
	if (is_within(path, options->mount_point))
		return error_set(err, -EINVAL, "state_dir %s is inside the mount %s", path,
				 options->mount_point);
	return 0;
}

static void tell_status(struct command *command, int status)
{
	unsigned char byte = (unsigned char)status;

	if (command->ready_fd >= 0)
		(void)!write(command->ready_fd, &byte, 1);
	file_close(&command->ready_fd);
}

static void on_ready(void *ctx)
{
	struct command *command = ctx;
	int null;

	if (command->foreground)
		return;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		if (null > STDERR_FILENO)
			close(null);
	}
	log_open("dsyncfs", LOG_TARGET_SYSLOG, LOG_LEVEL_INFO);
	tell_status(command, EX_OK);
}

/* The process that was started waits until the mount is there, and ends with its status. */
static int detach(struct command *command)
{
	unsigned char status = EX_SOFTWARE;
	int ready[2];
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		log_error("cannot detach: %s", strerror(errno));
		return EX_OSERR;
	}
	if (pid > 0) {
		close(ready[1]);
		(void)!read(ready[0], &status, 1);
		_exit(status);
	}
	close(ready[0]);
	command->ready_fd = ready[1];
	setsid();
	return EX_OK;
}

static int exit_status(int rc)
{
	switch (rc) {
	case 0:
		return EX_OK;
	case -EINVAL:
	case -EPROTONOSUPPORT: /* of another version */
		return EX_CONFIG;
	case -EBUSY:
		return EX_UNAVAILABLE;
	case -ENOENT:
	case -ENOTDIR:
	case -ESTALE:
		return EX_NOINPUT;
	case -EPERM:
	case -EACCES:
		return EX_NOPERM;
	default:
		return EX_OSERR;
	}
}

/* Everything from the settings to the end of the mount. */
static int run(struct command *command, const char *source, const char *mount_point)
{
	struct fs_options options = {.mount_flags = command->mount_flags, .debug = command->debug};
	AUTO_FREE char *real_source = NULL, *real_mount_point = NULL;
	struct settings *set = NULL;
	struct error err = {0};
	int rc = take_settings(command, &set, &options, &err);

	if (rc == 0)
		rc = mount_point_resolve(mount_point, &real_mount_point, &err);
	if (rc == 0)
		rc = mount_point_resolve(source, &real_source, &err);
	if (rc == 0) {
		options.source = real_source;
		options.mount_point = real_mount_point;
		options.fsname = command->fsname ? command->fsname : real_source;
		rc = check_state_dir(&options, &err);
	}
	/* No directory is kept from being unmounted by us. */
	if (rc == 0 && chdir("/") < 0)
		rc = error_errno(&err, -errno, "/");
	if (rc == 0 && !command->fake)
		rc = fs_run(&options, on_ready, command, &err);
	if (rc < 0)
		log_error("%s", err.text);
	settings_free(&set);
	tell_status(command, exit_status(rc));
	return exit_status(rc);
}

static bool called_as_mount_helper(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	return strncmp(slash ? slash + 1 : argv0, "mount.", 6) == 0;
}

static int parse_arguments(struct command *command, int argc, char **argv)
{
	bool helper = called_as_mount_helper(argv[0]);
	int option;

	while ((option = getopt(argc, argv, helper ? "sfnvo:t:N:" : "fo:")) != -1) {
		switch (option) {
		case 'f':
			if (helper)
				command->fake = true;
			else
				command->foreground = true;
			break;
		case 'o':
			if (take_options(command, optarg) < 0)
				return EX_USAGE;
			break;
		case 's':
		case 'n':
		case 'v':
		case 't':
		case 'N':
			break;
		default:
			return usage();
		}
	}
	return argc - optind == 2 ? EX_OK : usage();
}

int main(int argc, char **argv)
{
	struct command command = {.ready_fd = -1};
	int status;

	log_open("dsyncfs", LOG_TARGET_STDERR, LOG_LEVEL_INFO);
	status = parse_arguments(&command, argc, argv);
	if (status != EX_OK)
		return status;
	service_init();
	umask(0077);
	if (!command.foreground) {
		status = detach(&command);
		if (status != EX_OK)
			return status;
	}
	return run(&command, argv[optind], argv[optind + 1]);
}
