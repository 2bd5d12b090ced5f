/*
 * dsyncctl: looks at and drives a running dsyncd.
 *
 *   dsyncctl [-c FILE] [--json] status [usermask] | replicate [-f] [-p priority] usermask |
 *            dsync-status | accept-store | purge [usermask] | users | showconf
 *
 * Exits 0, 64 for a wrong command line, 69 when dsyncd is not running, 78 for the settings; status
 * exits 1 when something is behind.
 */
#include "tools/dsyncctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <getopt.h>
#include <sysexits.h>

#include "store/base/log.h"

static const struct {
	const char *name;
	int (*run)(const struct dsyncctl *ctl, int argc, char **argv);
	const char *help;
} commands[] = {
	{"status", dsyncctl_status, "status [usermask]              is everything at the peers?"},
	{"replicate", dsyncctl_replicate,
	 "replicate [-f] [-p low|high|sync] usermask\n"
	 "                                 sync these users now (-f: completely)"},
	{"dsync-status", dsyncctl_dsync_status,
	 "dsync-status                   which syncs are running"},
	{"accept-store", dsyncctl_accept_store,
	 "accept-store                   the mount may start with another backing directory"},
	{"purge", dsyncctl_purge,
	 "purge [usermask]               give back the room of expunged mail (mdbox)"},
	{"users", dsyncctl_users, "users                          who has mail here"},
	{"showconf", dsyncctl_showconf,
	 "showconf [-P]                  the settings as understood (-P: with the password)"},
};

#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static int usage(void)
{
	fprintf(stderr, "usage: dsyncctl [-c FILE] [--json] command ...\n");
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		fprintf(stderr, "  %s\n", commands[i].help);
	return EX_USAGE;
}

int dsyncctl_fail(const struct error *err)
{
	fprintf(stderr, "dsyncctl: %s\n", err->text);
	switch (err->code) {
	case -ECONNREFUSED:
		return EX_UNAVAILABLE;
	case -EACCES:
	case -EPERM:
		return EX_NOPERM;
	case -EREMOTEIO:
		return EX_DATAERR;
	case -EPROTO:
		return EX_PROTOCOL;
	default:
		return EX_OSERR;
	}
}

int dsyncctl_print_json(json_t *root)
{
	int rc = root ? json_dumpf(root, stdout, JSON_INDENT(2) | JSON_SORT_KEYS) : -1;

	putchar('\n');
	json_decref(root);
	if (rc < 0) {
		fprintf(stderr, "dsyncctl: cannot write JSON\n");
		return EX_SOFTWARE;
	}
	return EX_OK;
}

const char *dsyncctl_ago(int64_t seconds, char text_r[32])
{
	long long n = seconds < 0 ? 0 : seconds;

	if (n < 120)
		snprintf(text_r, 32, "%lld s", n);
	else if (n < 7200)
		snprintf(text_r, 32, "%lld min", n / 60);
	else if (n < 172800)
		snprintf(text_r, 32, "%lld h", n / 3600);
	else
		snprintf(text_r, 32, "%lld days", n / 86400);
	return text_r;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {0}};
	struct dsyncctl ctl = {0};
	struct settings *set = NULL;
	const char *config = SETTINGS_DEFAULT_PATH;
	struct error err = {0};
	int option, rc = EX_USAGE;
	size_t i = 0;

	/* '+': what follows the subcommand is its own. */
	while ((option = getopt_long(argc, argv, "+c:", options, NULL)) != -1) {
		if (option == 'c')
			config = optarg;
		else if (option == 'j')
			ctl.json = true;
		else
			return usage();
	}
	argc -= optind;
	argv += optind;
	while (argc > 0 && i < COMMAND_COUNT && strcmp(argv[0], commands[i].name) != 0)
		i++;
	if (argc == 0 || i == COMMAND_COUNT)
		return usage();
	log_open("dsyncctl", LOG_TARGET_STDERR, LOG_LEVEL_INFO);
	if (settings_load(config, NULL, 0, SETTINGS_QUIET, &set, &err) < 0) {
		fprintf(stderr, "dsyncctl: %s\n", err.text);
		return EX_CONFIG;
	}
	ctl.set = set;
	optind = 0; /* glibc: start anew, for the subcommand */
	rc = commands[i].run(&ctl, argc, argv);
	if (fflush(stdout) != 0 && rc == EX_OK)
		rc = EX_IOERR;
	settings_free(&set);
	return rc;
}
