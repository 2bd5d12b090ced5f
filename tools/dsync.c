/*
 * dsync: makes two mail stores equal, as Dovecot's command of that name did.
 *
 *   dsync [options] mirror|backup LOCATION2
 *   dsync [options] server
 *
 * Exits with 0 in sync, 2 done but to be run again, 1 or more failed: 64 for the command line, 67
 * for an unknown user, 77 for a refusal, 78 for the settings.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "store/base/log.h"
#include "store/base/lost_mapping.h"
#include "store/settings.h"
#include "sync/dsync_doveconf.h"
#include "sync/dsync_location.h"
#include "sync/dsync_options.h"
#include "sync/dsync_run.h"
#include "sync/dsync_user.h"

#define DOVECOT_SETTINGS "/etc/dovecot/dovecot.conf"

static int fail(int status, const struct error *err)
{
	log_error("%s", err->text);
	return status;
}

/* The -c file, or the first of the usual ones that there is, or none. */
static const char *settings_path(const struct dsync_options *options)
{
	if (options->config)
		return options->config;
	if (access(SETTINGS_DEFAULT_PATH, F_OK) == 0)
		return SETTINGS_DEFAULT_PATH;
	return access(DOVECOT_SETTINGS, F_OK) == 0 ? DOVECOT_SETTINGS : NULL;
}

static int user_status(int code)
{
	switch (code) {
	case -ENOENT:
	case -EINVAL:
		return EX_NOUSER;
	case -EPERM:
	case -EACCES:
		return EX_NOPERM;
	default:
		return DSYNC_EXIT_FAILED;
	}
}

static int find_location(const struct dsync_options *options, const struct settings *set,
			 struct dsync_location *location_r, struct error *err)
{
	char *replica;

	if (!options->use_replica)
		return dsync_location_parse(options->location, options->location_count, set,
					    options->user, location_r, err);
	if (set->peer_count == 0)
		return error_set(err, -EINVAL, "-d: the settings have no mail_replica");
	replica = (char *)set->peers[0].address;
	return dsync_location_parse(&replica, 1, set, options->user, location_r, err);
}

static int run_as_user(const struct dsync_run *run)
{
	struct dsync_location location;
	struct error err = {0};
	int rc, status;

	if (run->options->verb == DSYNC_SERVER) {
		rc = dsync_user_become(run->user, &err);
		return rc < 0 ? fail(EX_NOPERM, &err)
			      : dsync_run_server(run, STDIN_FILENO, STDOUT_FILENO);
	}
	rc = find_location(run->options, run->set, &location, &err);
	if (rc < 0)
		return fail(EX_USAGE, &err);
	rc = dsync_user_become(run->user, &err);
	status = rc < 0 ? fail(EX_NOPERM, &err) : dsync_run_master(run, &location);
	dsync_location_free(&location);
	return status;
}

static int run_command(struct dsync_options *options)
{
	unsigned flags = SETTINGS_ONE_SYNC | (options->debug ? 0 : SETTINGS_QUIET);
	struct settings *set = NULL;
	struct mail_user *user = NULL;
	struct error err = {0};
	const char *path = settings_path(options);
	const struct dsync_words *overrides = &options->overrides;
	int rc = settings_load(path, overrides->word, overrides->count, flags, &set, &err);
	int status;

	if (rc == -EPROTONOSUPPORT && path)
		rc = dsync_doveconf_load(path, overrides->word, overrides->count, flags, &set,
					 &err);

	if (rc < 0)
		return fail(EX_CONFIG, &err);
	rc = dsync_user_find(set, options->user, options->verb == DSYNC_SERVER, &user, &err);
	if (rc < 0) {
		status = fail(user_status(rc), &err);
	} else if (dsync_options_namespaces(options, set, &err) < 0 ||
		   dsync_options_special(options, user, &err) < 0) {
		status = fail(EX_CONFIG, &err);
	} else {
		struct dsync_run run = {
			.options = options, .set = set, .user = user, .side = "here"};

		status = run_as_user(&run);
	}
	mail_user_free(&user);
	settings_free(&set);
	return status;
}

int main(int argc, char **argv)
{
	struct dsync_options options;
	struct error err = {0};
	int status, rc = dsync_options_parse(argc, argv, &options, &err);

	log_open("dsync", LOG_TARGET_STDERR,
		 options.debug	   ? LOG_LEVEL_DEBUG
		 : options.verbose ? LOG_LEVEL_INFO
				   : LOG_LEVEL_NOTICE);
	signal(SIGPIPE, SIG_IGN);
	lost_mapping_ends_process();
	umask(0077);
	if (rc < 0) {
		log_error("%s", err.text);
		fputs(DSYNC_USAGE, stderr);
		status = EX_USAGE;
	} else if (options.help) {
		fputs(DSYNC_USAGE, stdout);
		status = EX_OK;
	} else {
		status = run_command(&options);
	}
	dsync_options_free(&options);
	return status;
}
