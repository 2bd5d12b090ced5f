/* The command line of dsync. See dsync_options.h. */
#include "sync/dsync_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/tabescape.h"

/* '+': the first word that is no option ends them. ':': we say ourselves what is wrong. */
#define MASTER_LETTERS "+:C:DEI:NO:PRT:U1a:c:de:fg:l:m:n:o:r:s:t:u:vx:h"
/* Options and words may stand in any order. */
#define SERVER_LETTERS ":C:DET:UNc:fl:o:r:u:vh"

#define DRY_RUN 256 /* beyond every letter */
#define JSON	257

static int add_word(struct dsync_words *words, const char *word, int letter, struct error *err)
{
	if (words->count == DSYNC_WORDS_MAX)
		return error_set(err, -EINVAL, "-%c is given more than %d times", letter,
				 DSYNC_WORDS_MAX);
	words->word[words->count++] = word;
	return 0;
}

int dsync_excludes_append(struct buf *excludes, const char *pattern)
{
	if (excludes->len > 0)
		buf_append_byte(excludes, '\t');
	return tabescape_append(excludes, pattern, strlen(pattern));
}

static int add_exclude(struct dsync_options *options, const char *pattern, struct error *err)
{
	return dsync_excludes_append(&options->excludes, pattern) < 0
		       ? error_set(err, -EINVAL, "too many mailboxes are excluded")
		       : 0;
}

static int take_alt_char(struct dsync_options *options, const char *text, struct error *err)
{
	if (strlen(text) != 1 || text[0] <= 0x20 || text[0] >= 0x7f || strchr("/.\\", text[0]))
		return error_set(err, -EINVAL,
				 "-C %s: has to be one printable character, and none of / . \\",
				 text);
	options->alt_char = text[0];
	return 0;
}

static int take_number(const char *text, int letter, unsigned *number_r, struct error *err)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end != '\0' || value == 0 || value > 86400)
		return error_set(err, -EINVAL, "-%c %s: not a number of seconds", letter, text);
	*number_r = (unsigned)value;
	return 0;
}

static int take_filter(struct mail_filter *filter, int letter, const char *value, struct error *err)
{
	int64_t now = time(NULL);
	const char *fault;

	switch (letter) {
	case 'I':
		return mail_filter_parse_size(value, &filter->max_size) == 0
			       ? 0
			       : error_set(err, -EINVAL, "-I %s: not a size", value);
	case 'O':
		fault = mail_filter_flag_fault(value);
		filter->flag = value;
		return fault == NULL ? 0 : error_set(err, -EINVAL, "-O %s: %s", value, fault);
	default:
		return mail_filter_parse_time(value, now,
					      letter == 't' ? &filter->since : &filter->until) == 0
			       ? 0
			       : error_set(err, -EINVAL, "-%c %s: not a time", letter, value);
	}
}

static int take_option(struct dsync_options *options, int letter, const char *value,
		       struct error *err)
{
	unsigned ignored;

	switch (letter) {
	case 'c':
		options->config = value;
		return 0;
	case 'o':
		return add_word(&options->overrides, value, letter, err);
	case 'u':
		options->user = value;
		return 0;
	case 'm':
		options->tree_only |= value[0] == '\0';
		return value[0] == '\0' ? 0 : add_word(&options->boxes, value, letter, err);
	case 'x':
		return add_exclude(options, value, err);
	case 'C':
		return take_alt_char(options, value, err);
	case 'f':
		options->full = true;
		return 0;
	case 'R':
		options->reverse = true;
		return 0;
	case 'v':
		options->verbose = true;
		return 0;
	case 'D':
		options->verbose = options->debug = true;
		return 0;
	case DRY_RUN:
		options->dry_run = true;
		return 0;
	case 'd':
		options->use_replica = true;
		return 0;
	case 'T':
		return take_number(value, letter, &options->timeout_secs, err);
	case 'h':
		options->help = true;
		return 0;
	case 'l':
		/* Dovecot's lock of the user is not taken. */
		return take_number(value, letter, &ignored, err);
	case 'n':
		return value[0] == '\0' ? 0 : add_word(&options->namespaces, value, letter, err);
	case 's':
		options->state = value;
		return 0;
	case 'r':
		options->raw_log = value;
		return 0;
	case 'P':
		options->purge = true;
		return 0;
	case 'g':
		options->tree_only |= value[0] == '\0';
		if (value[0] == '\0')
			return 0;
		if (guid_from_hex(value, &options->only_guid) < 0 ||
		    guid_is_empty(&options->only_guid))
			return error_set(err, -EINVAL, "-g %s: not a mailbox GUID (32 hex digits)",
					 value);
		return 0;
	case JSON:
		options->json = true;
		return 0;
	case '1':
		options->once = true;
		return 0;
	case 't':
	case 'e':
	case 'I':
	case 'O':
		return take_filter(&options->filter, letter, value, err);
	default:
		/* -N -U -E -a: what they ask for is so anyway, or means nothing here. */
		return 0;
	}
}

static const struct option long_options[] = {
	{"dry-run", no_argument, NULL, DRY_RUN},
	{"json", no_argument, NULL, JSON},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

static int take_options(struct dsync_options *options, int argc, char **argv, const char *letters,
			struct error *err)
{
	int letter;

	optind = 0;
	while ((letter = getopt_long(argc, argv, letters, long_options, NULL)) != -1) {
		int rc;

		if (letter == ':')
			return error_set(err, -EINVAL, "-%c needs a value", optopt);
		if (letter == '?' && optopt != 0)
			return error_set(err, -EINVAL, "unknown option -%c", optopt);
		if (letter == '?')
			return error_set(err, -EINVAL, "unknown option %s", argv[optind - 1]);
		rc = take_option(options, letter, optarg, err);
		if (rc < 0)
			return rc;
	}
	return optind;
}

static int take_verb(struct dsync_options *options, const char *word, struct error *err)
{
	static const struct {
		const char *word;
		enum dsync_verb verb;
	} verbs[] = {
		{"mirror", DSYNC_MIRROR},
		{"backup", DSYNC_BACKUP},
		{"server", DSYNC_SERVER},
		/* What Dovecot puts behind a command. */
		{"dsync-server", DSYNC_SERVER},
	};

	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		if (strcmp(verbs[i].word, word) == 0) {
			options->verb = verbs[i].verb;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "%s: neither mirror, backup nor server", word);
}

static int take_location(struct dsync_options *options, int argc, char **argv, struct error *err)
{
	options->location = argv;
	options->location_count = (size_t)argc;
	if (options->use_replica && argc > 0)
		return error_set(err, -EINVAL, "-d: and yet there is a LOCATION2");
	if (!options->use_replica && argc == 0)
		return error_set(err, -EINVAL, "LOCATION2 is missing");
	if (options->reverse && options->verb == DSYNC_MIRROR && !options->once)
		return error_set(err, -EINVAL, "-R is for backup and -1: mirror goes both ways");
	return 0;
}

int dsync_options_parse(int argc, char **argv, struct dsync_options *options_r, struct error *err)
{
	int rc, at;

	*options_r =
		(struct dsync_options){.alt_char = '_', .excludes = BUF_INIT(DSYNC_EXCLUDES_MAX)};
	at = take_options(options_r, argc, argv, MASTER_LETTERS, err);
	if (at < 0 || options_r->help)
		return at < 0 ? at : 0;
	if (at == argc)
		return error_set(err, -EINVAL, "what to do is missing");
	rc = take_verb(options_r, argv[at], err);
	if (rc < 0)
		return rc;
	/* A word that begins with '-' is no location, so options are taken here, too. The verb
	   stands in for the program's name. */
	argc -= at;
	argv += at;
	at = take_options(options_r, argc, argv,
			  options_r->verb == DSYNC_SERVER ? SERVER_LETTERS : MASTER_LETTERS, err);
	if (at < 0 || options_r->help)
		return at < 0 ? at : 0;
	if (options_r->verb == DSYNC_SERVER)
		return options_r->dry_run
			       ? error_set(err, -EINVAL, "--dry-run is for mirror and backup")
			       : 0;
	return take_location(options_r, argc - at, argv + at, err);
}

void dsync_options_free(struct dsync_options *options)
{
	for (size_t i = 0; i < options->name_count; i++)
		free(options->names[i]);
	buf_free(&options->excludes);
}
