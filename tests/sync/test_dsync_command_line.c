/*
 * dsync's command line, LOCATION2 and the command that reaches another machine: what the words
 * mean, what is refused, and what old scripts pass.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "store/base/file.h"
#include "sync/dsync_doveconf.h"
#include "sync/dsync_location.h"
#include "sync/dsync_options.h"
#include "sync/dsync_state.h"

#define LENGTH(list) (sizeof(list) / sizeof((list)[0]))

/* A line is split at its spaces; "_" is an empty word. */
struct words {
	char text[1024], empty[1];
	char *word[64];
	int count;
};

static void split(const char *line, struct words *words)
{
	words->count = 0;
	words->empty[0] = '\0';
	snprintf(words->text, sizeof(words->text), "%s", line);
	for (char *word = strtok(words->text, " "); word != NULL; word = strtok(NULL, " "))
		words->word[words->count++] = strcmp(word, "_") == 0 ? words->empty : word;
	words->word[words->count] = NULL;
}

static int parse(const char *line, struct words *words, struct dsync_options *options)
{
	struct error err = {0};

	split(line, words);
	int ret = dsync_options_parse(words->count, words->word, options, &err);
	if (ret < 0)
		assert_true(err.text[0] != '\0');
	return ret;
}

/* ---- options ---- */

static void all_of_the_manual(void **state)
{
	struct words words;
	struct dsync_options options;

	assert_int_equal(parse("dsync -c conf -o a=b -o c=d -u bob -m INBOX -m Work -x Junk "
			       "-x a*b -C % -fvD mirror maildir:/x",
			       &words, &options),
			 0);
	assert_int_equal(options.verb, DSYNC_MIRROR);
	assert_string_equal(options.config, "conf");
	assert_int_equal(options.overrides.count, 2);
	assert_string_equal(options.overrides.word[1], "c=d");
	assert_string_equal(options.user, "bob");
	assert_int_equal(options.boxes.count, 2);
	assert_string_equal(options.boxes.word[0], "INBOX");
	assert_string_equal(buf_str(&options.excludes), "Junk\ta*b");
	assert_int_equal(options.alt_char, '%');
	assert_true(options.full && options.verbose && options.debug && !options.reverse);
	assert_int_equal(options.location_count, 1);
	assert_string_equal(options.location[0], "maildir:/x");
	dsync_options_free(&options);
}

static void what_follows_the_verb_belongs_to_the_location(void **state)
{
	struct words words;
	struct dsync_options options;

	assert_int_equal(parse("dsync -u user mirror ssh -i id_dsa.dovecot mail@host dsync -u user",
			       &words, &options),
			 0);
	assert_string_equal(options.user, "user");
	assert_int_equal(options.location_count, 7);
	assert_string_equal(options.location[0], "ssh");
	assert_string_equal(options.location[1], "-i");
	dsync_options_free(&options);
	assert_int_equal(parse("dsync mirror -f host", &words, &options), 0);
	assert_true(options.full);
	assert_string_equal(options.location[0], "host");
	dsync_options_free(&options);
}

static void the_other_end_takes_all_that_peers_pass(void **state)
{
	static const char *const lines[] = {
		"dsync -u bob server",
		"dsync server -u bob",
		"dsync dsync-server -u bob -U",
		"dsync -u bob server dsync-server",
		"dsync -u bob -v dsync-server -T 60 -r /tmp/raw -E",
		"dsync server -D -ubob dsync-server",
	};

	for (size_t i = 0; i < LENGTH(lines); i++) {
		struct words words;
		struct dsync_options options;

		assert_int_equal(parse(lines[i], &words, &options), 0);
		assert_int_equal(options.verb, DSYNC_SERVER);
		assert_string_equal(options.user, "bob");
		dsync_options_free(&options);
	}
}

static void what_old_scripts_pass_is_taken(void **state)
{
	struct words words;
	struct dsync_options options;

	assert_int_equal(parse("dsync -l 30 -N -n _ -a Virtual/All -P -U -r raw -E -T 5 -d mirror",
			       &words, &options),
			 0);
	assert_true(options.use_replica);
	assert_int_equal(options.timeout_secs, 5);
	dsync_options_free(&options);
	assert_int_equal(parse("dsync -R backup host", &words, &options), 0);
	assert_true(options.reverse && options.verb == DSYNC_BACKUP);
	assert_false(options.dry_run);
	dsync_options_free(&options);
	assert_int_equal(parse("dsync --dry-run backup host", &words, &options), 0);
	assert_true(options.dry_run);
	dsync_options_free(&options);
}

/* In the forms that doveadm takes. */
static void filters(void **state)
{
	static const struct {
		const char *text;
		int64_t time;
	} times[] = {
		{"1700000000", 1700000000},
		{"1", 1},
		{"3 days", 2000000000 - (int64_t)3 * 86400},
		{"7d", 2000000000 - (int64_t)7 * 86400},
		{"2 weeks", 2000000000 - (int64_t)14 * 86400},
		{"90 mins", 2000000000 - (int64_t)90 * 60},
		{"2024-01-01", 1704067200},
		{"01-Jan-2024", 1704067200},
	};
	static const struct {
		const char *text;
		uint64_t size;
	} sizes[] = {
		{"500", 500}, {"1k", 1024}, {"10M", 10485760}, {"1 GB", 1073741824}, {"7B", 7},
	};
	struct words words;
	struct dsync_options options;

	setenv("TZ", "UTC", 1);
	for (size_t i = 0; i < LENGTH(times); i++) {
		int64_t at = 0;

		assert_int_equal(mail_filter_parse_time(times[i].text, 2000000000, &at), 0);
		assert_int_equal(at, times[i].time);
	}
	for (size_t i = 0; i < LENGTH(sizes); i++) {
		uint64_t size = 0;

		assert_int_equal(mail_filter_parse_size(sizes[i].text, &size), 0);
		assert_int_equal(size, sizes[i].size);
	}
	assert_int_equal(parse("dsync -1 -R -t 1700000000 -e 1800000000 -I 1M -O -\\Deleted "
			       "mirror host",
			       &words, &options),
			 0);
	assert_true(options.once && options.reverse);
	assert_int_equal(options.filter.since, 1700000000);
	assert_int_equal(options.filter.until, 1800000000);
	assert_int_equal(options.filter.max_size, 1048576);
	assert_string_equal(options.filter.flag, "-\\Deleted");
	dsync_options_free(&options);
}

static void what_a_filter_takes(void **state)
{
	static const char *const names[] = {"$Label1"};
	const struct keyword_set labels = {.names = names, .count = 1}, none = {.count = 0};
	const struct mail_filter dates = {.since = 100, .until = 200}, size = {.max_size = 10},
				 seen = {.flag = "\\SEEN"}, unseen = {.flag = "-\\Seen"},
				 labelled = {.flag = "$label1"}, other = {.flag = "-$Label1"};

	assert_true(mail_filter_takes(&dates, 100, 0, 0, none) &&
		    mail_filter_takes(&dates, 200, 0, 0, none));
	assert_false(mail_filter_takes(&dates, 99, 0, 0, none) ||
		     mail_filter_takes(&dates, 201, 0, 0, none));
	assert_true(mail_filter_takes(&size, 0, 10, 0, none));
	assert_false(mail_filter_takes(&size, 0, 11, 0, none));
	assert_true(mail_filter_takes(&seen, 0, 0, MAIL_SEEN | MAIL_DRAFT, none) &&
		    mail_filter_takes(&unseen, 0, 0, MAIL_DRAFT, none));
	assert_false(mail_filter_takes(&seen, 0, 0, MAIL_DRAFT, none) ||
		     mail_filter_takes(&unseen, 0, 0, MAIL_SEEN, none));
	assert_true(mail_filter_takes(&labelled, 0, 0, 0, labels) &&
		    mail_filter_takes(&other, 0, 0, 0, none));
	assert_false(mail_filter_takes(&labelled, 0, 0, 0, none) ||
		     mail_filter_takes(&other, 0, 0, 0, labels));
}

static void what_cannot_be_done_is_refused(void **state)
{
	static const struct {
		const char *line;
		int code;
	} cases[] = {
		{"dsync", -EINVAL},
		{"dsync -u bob", -EINVAL},
		{"dsync sideways host", -EINVAL},
		{"dsync mirror", -EINVAL},
		{"dsync -d mirror host", -EINVAL},
		{"dsync -R mirror host", -EINVAL},
		{"dsync -Q mirror host", -EINVAL},
		{"dsync mirror -u", -EINVAL},
		{"dsync -C ab mirror host", -EINVAL},
		{"dsync -C / mirror host", -EINVAL},
		{"dsync -l x mirror host", -EINVAL},
		{"dsync -t yesterday mirror host", -EINVAL},
		{"dsync -e 0x10 mirror host", -EINVAL},
		{"dsync -I big mirror host", -EINVAL},
		{"dsync -I 99999999T mirror host", -EINVAL},
		{"dsync -O - mirror host", -EINVAL},
		{"dsync -O \\Recent mirror host", -EINVAL},
		{"dsync --dry-run server", -EINVAL},
		{"dsync --wet-run mirror host", -EINVAL},
	};

	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct words words;
		struct dsync_options options;

		assert_int_equal(parse(cases[i].line, &words, &options), cases[i].code);
		dsync_options_free(&options);
	}
}

/* ---- LOCATION2 ---- */

static struct settings some_settings(void)
{
	return (struct settings){.dsync_remote_cmd = "", .doveadm_password = "secret"};
}

static int locate(const struct settings *set, const char *user, const char *const *word,
		  size_t count, struct dsync_location *location)
{
	struct error err = {0};
	int ret = dsync_location_parse((char *const *)word, count, set, user, location, &err);

	if (ret < 0)
		assert_true(err.text[0] != '\0');
	return ret;
}

static void assert_command(const struct dsync_location *location, const char *words)
{
	AUTO_BUF struct buf text = BUF_INIT(4096);

	assert_int_equal(location->place, DSYNC_PLACE_COMMAND);
	for (size_t i = 0; location->argv[i] != NULL; i++)
		buf_printf(&text, "%s%s", i > 0 ? "|" : "", location->argv[i]);
	assert_string_equal(buf_str(&text), words);
}

static void a_local_location(void **state)
{
	struct settings set = some_settings();
	struct dsync_location location;
	const char *word = "maildir:/backup/a b/Maildir:LAYOUT=fs";

	assert_int_equal(locate(&set, NULL, &word, 1, &location), 0);
	assert_int_equal(location.place, DSYNC_PLACE_LOCAL);
	assert_string_equal(location.mail, word);
	dsync_location_free(&location);
}

static void a_doveadm_port(void **state)
{
	static const struct {
		const char *word, *user, *host;
		unsigned port;
		int code;
	} cases[] = {
		{"tcp:mx2", "bob", "mx2", 12345, 0},
		{"tcp:mx2:24245", "bob", "mx2", 24245, 0},
		{"tcp:[::1]:24245", "bob", "::1", 24245, 0},
		{"tcp:mx2", NULL, NULL, 0, -EINVAL},
		{"tcp:", "bob", NULL, 0, -EINVAL},
		{"tcps:mx2", "bob", "mx2", 12345, 0},
		{"tcps:mx2", NULL, NULL, 0, -EINVAL},
	};
	struct settings set = some_settings();
	struct dsync_location location;

	for (size_t i = 0; i < LENGTH(cases); i++) {
		assert_int_equal(locate(&set, cases[i].user, &cases[i].word, 1, &location),
				 cases[i].code);
		if (cases[i].code == 0) {
			assert_int_equal(location.place, DSYNC_PLACE_TCP);
			assert_string_equal(location.host, cases[i].host);
			assert_int_equal(location.port, cases[i].port);
			assert_int_equal(location.tls, strncmp(cases[i].word, "tcps:", 5) == 0);
			assert_string_equal(location.user, cases[i].user);
		}
		dsync_location_free(&location);
	}
	set.doveadm_password = "";
	assert_int_equal(locate(&set, "bob", &cases[0].word, 1, &location), -EINVAL);
	set = some_settings();
	set.doveadm_peer_port = 4711;
	assert_int_equal(locate(&set, "bob", &cases[0].word, 1, &location), 0);
	assert_int_equal(location.port, 4711);
	dsync_location_free(&location);
}

/* One word is split here, several are taken as they are; the verb is appended where it is missing.
 */
static void a_command(void **state)
{
	static const struct {
		const char *line, *words;
	} cases[] = {
		{"/usr/local/bin/wrapper", "/usr/local/bin/wrapper|server"},
		{"ssh mail@host dsync -u bob", "ssh|mail@host|dsync|-u|bob|server"},
		{"ssh mail@host dsync -u bob server", "ssh|mail@host|dsync|-u|bob|server"},
		{"ssh mail@host dsync server -u bob", "ssh|mail@host|dsync|server|-u|bob"},
		{"ssh server dsync -u bob", "ssh|server|dsync|-u|bob|server"},
		{"doveadm -c /etc/x dsync-server -u bob", "doveadm|-c|/etc/x|dsync-server|-u|bob"},
		{"/usr/bin/doveadm -c x", "/usr/bin/doveadm|-c|x|dsync-server"},
		{"sh -c 'exec dsync  -u \"$1\" server' _ bob",
		 "sh|-c|exec dsync  -u \"$1\" server|_|bob|server"},
		{"a\\ b \"c d\"e ''", "a b|c de||server"},
	};
	static const char *const words[] = {"ssh", "mail@host", "echo a b; dsync", "-u", "bob"};
	struct settings set = some_settings();
	struct dsync_location location;

	for (size_t i = 0; i < LENGTH(cases); i++) {
		assert_int_equal(locate(&set, NULL, &cases[i].line, 1, &location), 0);
		assert_command(&location, cases[i].words);
		dsync_location_free(&location);
	}
	assert_int_equal(locate(&set, NULL, words, LENGTH(words), &location), 0);
	assert_command(&location, "ssh|mail@host|echo a b; dsync|-u|bob|server");
	dsync_location_free(&location);
	const char *open_quote = "ssh 'host";
	assert_int_equal(locate(&set, NULL, &open_quote, 1, &location), -EINVAL);
}

/* The user of a host is whose mail it is; the login of remote: is ssh's. */
static void another_machine(void **state)
{
#define FIND                                                                                       \
	"if command -v dsync >/dev/null 2>&1; then exec dsync%s server; else exec doveadm "        \
	"dsync-server%s; fi"
	static const struct {
		const char *word, *user, *argv, *dsync_user;
		bool on_stdin;
	} cases[] = {
		{"mx2", NULL, "ssh|mx2|", "", false},
		{"mx2", "bob", "ssh|mx2|", " -u 'bob'", false},
		{"al@mx2", "bob", "ssh|mx2|", " -u 'al'", false},
		{"al@example.org@mx2", NULL, "ssh|mx2|", " -u 'al@example.org'", false},
		{"remote:mx2", "o'b", "ssh|mx2|", " -u 'o'\\''b'", false},
		{"remote:vmail@mx2", "bob", "ssh|-l|vmail|mx2|", " -u 'bob'", false},
		{"remoteprefix:vmail@mx2", "bob", "ssh|-l|vmail|mx2|", " -u 'bob'", true},
	};
	struct settings set = some_settings();
	struct dsync_location location;

	for (size_t i = 0; i < LENGTH(cases); i++) {
		char expected[512];

		assert_int_equal(locate(&set, cases[i].user, &cases[i].word, 1, &location), 0);
		snprintf(expected, sizeof(expected), "%s" FIND, cases[i].argv, cases[i].dsync_user,
			 cases[i].dsync_user);
		assert_command(&location, expected);
		assert_true(location.user_on_stdin == cases[i].on_stdin);
		dsync_location_free(&location);
	}
	static const char *const refused[] = {"remoteprefix:mx2", "-oProxyCommand=x", "@mx2"};
	for (size_t i = 0; i < LENGTH(refused); i++)
		assert_int_equal(locate(&set, NULL, &refused[i], 1, &location), -EINVAL);
}

static void dsync_remote_cmd(void **state)
{
	static const struct {
		const char *command, *word, *user, *words;
	} cases[] = {
		{"ssh -l%{login} %{host} doveadm dsync-server -u%u -U", "remote:vmail@mx2", "bob",
		 "ssh|-lvmail|mx2|doveadm|dsync-server|-ubob|-U"},
		/* A word whose variables are empty goes. */
		{"ssh -l%{login} %{host} doveadm dsync-server -u%{user}", "remote:mx2", NULL,
		 "ssh|mx2|doveadm|dsync-server"},
		{"  wrap  %n@%{domain} 100%%", "mx2", "al@example.org", "wrap|al@example.org|100%"},
	};
	struct settings set = some_settings();
	struct dsync_location location;

	for (size_t i = 0; i < LENGTH(cases); i++) {
		set.dsync_remote_cmd = cases[i].command;
		assert_int_equal(locate(&set, cases[i].user, &cases[i].word, 1, &location), 0);
		assert_command(&location, cases[i].words);
		dsync_location_free(&location);
	}
	static const char *const wrong[] = {"ssh %{hots}", "ssh %{host", "ssh %", "%{login}"};
	const char *word = "remote:mx2";
	for (size_t i = 0; i < LENGTH(wrong); i++) {
		set.dsync_remote_cmd = wrong[i];
		assert_int_equal(locate(&set, NULL, &word, 1, &location), -EINVAL);
	}
}

static struct sync_mailbox_state a_state(unsigned char byte)
{
	struct sync_mailbox_state state = {.uid_validity = 1700000000 + byte,
					   .common_uid = 3,
					   .acked_modseq = 0x123456789aULL,
					   .peer_modseq = 0x123456789aULL,
					   .messages = byte};

	memset(state.guid.bytes, byte, sizeof state.guid.bytes);
	return state;
}

static void saved_states(void **state)
{
	/* As Dovecot 2.3.19 prints them: of no mailbox, and of two. */
	static const char none[] = "AQAAAHm4+Jk=";
	static const char old_none[] = "AAAAAA==";
	static const char *const wrong[] = {"x", "AQAA", "AQAAAHm4+Jo=", "AgAAAHm4+Jk=", "%%%%"};
	AUTO_BUF struct buf text = BUF_INIT(4096), again = BUF_INIT(4096);
	struct sync_state made = {.boxes = NULL}, read;
	struct sync_mailbox_state one = a_state(1), two = a_state(2);
	struct error err = {0};

	assert_int_equal(dsync_state_print(&made, &text), 0);
	assert_string_equal(buf_str(&text), none);
	assert_int_equal(dsync_state_parse(none, &read, &err), 0);
	assert_int_equal(read.count, 0);
	assert_int_equal(dsync_state_parse("", &read, &err), 0);
	assert_int_equal(dsync_state_parse(old_none, &read, &err), 0);
	for (size_t i = 0; i < LENGTH(wrong); i++)
		assert_int_equal(dsync_state_parse(wrong[i], &read, &err), -EINVAL);
	assert_int_equal(dsync_state_put(&made, &one), 0);
	assert_int_equal(dsync_state_put(&made, &two), 0);
	one.messages = 7;
	assert_int_equal(dsync_state_put(&made, &one), 0);
	assert_int_equal(made.count, 2);
	/* What one end is behind. */
	made.boxes[1].acked_modseq = 5;
	buf_clear(&text);
	assert_int_equal(dsync_state_print(&made, &text), 0);
	assert_int_equal(dsync_state_parse(buf_str(&text), &read, &err), 0);
	assert_int_equal(read.count, 2);
	assert_int_equal(read.boxes[0].messages, 7);
	assert_int_equal(read.boxes[0].peer_modseq, 0x123456789aULL);
	assert_int_equal(read.boxes[1].acked_modseq, 5);
	assert_int_equal(read.boxes[1].peer_modseq, 5);
	assert_int_equal(dsync_state_print(&read, &again), 0);
	assert_string_equal(buf_str(&again), buf_str(&text));
	/* A byte that was lost, or changed. */
	text.data[30] ^= 1;
	sync_state_free(&read);
	assert_int_equal(dsync_state_parse(buf_str(&text), &read, &err), -EINVAL);
	dsync_state_drop(&made, &one.guid);
	assert_int_equal(made.count, 1);
	assert_true(guid_equal(&made.boxes[0].guid, &two.guid));
	sync_state_free(&made);
}

/* What doveconf 2.4.1 -n prints. */
static void a_configuration_of_24(void **state)
{
	static const char text[] =
		"# 2.4.1-4 (7d8c0e5759): /tmp/d.conf\n"
		"dovecot_config_version = 2.4.0\n"
		"doveadm_password = \"secret # word\"\n"
		"doveadm_port = 4711\n"
		"dsync_remote_cmd = ssh -l%{login} %{host} dsync -u%{user}\n"
		"mail_driver = maildir\n"
		"mail_home = /srv/%{user | domain | lower}/%{user|username}\n"
		"mail_index_path = ~/index\n"
		"mail_path = %{home}/Maildir\n"
		"mailbox_list_layout = fs\n"
		"ssl_client {\n  ca_file = /etc/ssl/ca.pem\n}\n"
		"mail_attribute {\n  dict file {\n"
		"    path = %{home}/attributes\n  }\n}\n"
		"sieve_script personal {\n  active_path = ~/.dovecot.sieve\n"
		"  path = ~/sieve\n  type = personal\n}\n"
		"namespace inbox {\n  inbox = yes\n  separator = /\n"
		"  mailbox Old/Junk {\n    special_use = \\Junk\n  }\n"
		"  mailbox Junk {\n    special_use = \\Junk\n  }\n}\n"
		"userdb static {\n  fields {\n    home = /other/%{user}\n  }\n}\n";
	AUTO_BUF struct buf ours = BUF_INIT(65536);
	struct settings *set = NULL;
	struct error err = {0};

	if (dsync_doveconf_translate(text, strlen(text), "d.conf", &ours, &err) < 0 ||
	    settings_load_text(buf_str(&ours), ours.len, "d.conf", NULL, 0, SETTINGS_QUIET, &set,
			       &err) < 0)
		fail_msg("%s in:\n%s", err.text, buf_str(&ours));
	assert_string_equal(set->mail_location, "maildir:%h/Maildir:INDEX=~/index:LAYOUT=fs");
	assert_string_equal(set->mail_home, "/srv/%Ld/%n");
	assert_string_equal(set->doveadm_password, "secret # word");
	assert_string_equal(set->dsync_remote_cmd, "ssh -l%{login} %{host} dsync -u%u");
	assert_string_equal(set->ssl_client_ca_file, "/etc/ssl/ca.pem");
	assert_string_equal(set->mail_attribute_dict, "file:%h/attributes");
	assert_string_equal(set->sieve, "file:~/sieve;active=~/.dovecot.sieve");
	assert_int_equal(set->separator, '/');
	assert_int_equal(set->doveadm_peer_port, 4711);
	assert_string_equal(set->special_uses, "\\Junk\tOld/Junk\n\\Junk\tJunk\n");
	settings_free(&set);
}

/* "\Trash" stands for the mailboxes that the settings say it of. */
static void special_uses(void **state)
{
	char name[] = "alice", uses[] = "\\Trash\tOld.Trash\n\\Sent \\trash\tSent\n";
	struct mail_user user = {.name = name, .separator = '.', .special_uses = uses};
	struct dsync_options options;
	struct words words;
	struct error err = {0};

	assert_int_equal(parse("dsync -m \\Trash -m INBOX -x A -x \\sent -x \\None mirror host",
			       &words, &options),
			 0);
	assert_int_equal(dsync_options_special(&options, &user, &err), 0);
	assert_int_equal(options.boxes.count, 3);
	assert_string_equal(options.boxes.word[0], "Old/Trash");
	assert_string_equal(options.boxes.word[1], "Sent");
	assert_string_equal(options.boxes.word[2], "INBOX");
	assert_string_equal(buf_str(&options.excludes), "A\tSent");
	dsync_options_free(&options);
	assert_int_equal(parse("dsync -m \\Junk mirror host", &words, &options), 0);
	assert_int_equal(dsync_options_special(&options, &user, &err), -ENOENT);
	dsync_options_free(&options);
}

static void namespaces(void **state)
{
	struct settings set = {.prefix = "", .other_prefixes = "Shared/\nPublic/\n"};
	static const struct {
		const char *line;
		int code, with_prefix;
	} cases[] = {
		{"dsync -n Shared/ mirror host", -EOPNOTSUPP, -EOPNOTSUPP},
		{"dsync -n Share mirror host", 0, -EINVAL},
		{"dsync -n INBOX. mirror host", 0, 0},
		{"dsync -n '' -N mirror host", 0, -EINVAL},
		{"dsync -n Sent -n Public/ mirror host", -EOPNOTSUPP, -EINVAL},
	};

	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct dsync_options options;
		struct words words;
		struct error err = {0};

		assert_int_equal(parse(cases[i].line, &words, &options), 0);
		set.prefix = "";
		assert_int_equal(dsync_options_namespaces(&options, &set, &err), cases[i].code);
		set.prefix = "INBOX.";
		assert_int_equal(dsync_options_namespaces(&options, &set, &err),
				 cases[i].with_prefix);
		dsync_options_free(&options);
	}
}

/* The same of an mdbox. */
static void an_mdbox_of_24(void **state)
{
	static const char text[] =
		"dovecot_config_version = 2.4.0\n"
		"mail_alt_path = /slow/%{user}\n"
		"mail_compress_write_method = zstd\n"
		"mail_driver = mdbox\n"
		"mail_ext_attachment_path = ~/attachments\n"
		"mail_path = ~/mdbox\n"
		"mail_volatile_path = /run/mail/%{user}\n"
		"mdbox {\n  preallocate_space = yes\n  rotate_interval = 2 days\n"
		"  rotate_size = 3 M\n}\n"
		"namespace inbox {\n  inbox = yes\n  separator = /\n}\n";
	AUTO_BUF struct buf ours = BUF_INIT(65536);
	struct settings *set = NULL;
	struct error err = {0};

	if (dsync_doveconf_translate(text, strlen(text), "d.conf", &ours, &err) < 0 ||
	    settings_load_text(buf_str(&ours), ours.len, "d.conf", NULL, 0, SETTINGS_QUIET, &set,
			       &err) < 0)
		fail_msg("%s in:\n%s", err.text, buf_str(&ours));
	assert_string_equal(set->mail_location,
			    "mdbox:~/mdbox:ALT=/slow/%u:VOLATILEDIR=/run/mail/%u");
	assert_string_equal(set->zlib_save, "zstd");
	assert_string_equal(set->mail_attachment_dir, "~/attachments");
	assert_true(set->mdbox_preallocate_space);
	assert_int_equal(set->mdbox_rotate_interval, 172800);
	assert_int_equal(set->mdbox_rotate_size, 3 << 20);
	settings_free(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_of_the_manual),
		cmocka_unit_test(special_uses),
		cmocka_unit_test(namespaces),
		cmocka_unit_test(what_follows_the_verb_belongs_to_the_location),
		cmocka_unit_test(the_other_end_takes_all_that_peers_pass),
		cmocka_unit_test(what_old_scripts_pass_is_taken),
		cmocka_unit_test(filters),
		cmocka_unit_test(what_a_filter_takes),
		cmocka_unit_test(what_cannot_be_done_is_refused),
		cmocka_unit_test(a_local_location),
		cmocka_unit_test(a_doveadm_port),
		cmocka_unit_test(a_command),
		cmocka_unit_test(another_machine),
		cmocka_unit_test(dsync_remote_cmd),
		cmocka_unit_test(saved_states),
		cmocka_unit_test(a_configuration_of_24),
		cmocka_unit_test(an_mdbox_of_24),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
