/* A Dovecot beside the fixture's Maildir. See dovecot_fixture.h. */
#include "tests/maildir/dovecot_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"
#include "tests/dovecot_config.h"

static void make_config(struct fixture *fx)
{
	assert_int_equal(dovecot_config_write(fx->root, fx->home, "maildir:~/Maildir", '/'), 0);
	must_shell("mkdir -p '%s/run' && touch '%s/dovecot.log' && chown -R %d:%d '%s'", fx->root,
		   fx->root, MAIL_UID, MAIL_UID, fx->root);
	fx->user.uid = MAIL_UID;
	fx->user.gid = MAIL_UID;
}

int dovecot_setup(void **state)
{
	struct fixture *fx;

	if (fixture_setup(state) < 0)
		return -1;
	fx = *state;
	fixture_make_maildir(fx);
	make_config(fx);
	return 0;
}

void dovecot_set_location(struct fixture *fx, const char *location, char separator)
{
	struct error err = {0};

	assert_int_equal(dovecot_config_write(fx->root, fx->home, location, separator), 0);
	mail_location_free(&fx->user.location);
	must(mail_location_parse(location, fx->home, &fx->user.location, &err), &err);
	fx->user.separator = separator;
}

/* Whatever it says on stderr goes to where assert_no_complaints() looks. */
char *doveadm_with(struct fixture *fx, const char *input, const char *command)
{
	return shell_output("cd '%s' && cat '%s' | setpriv --reuid=%d --regid=%d --clear-groups "
			    "env HOME='%s' USER=alice TZ=UTC '%s/doveadm' %s "
			    "2>> '%s/dovecot.log'",
			    fx->home, input, MAIL_UID, MAIL_UID, fx->home, fx->root, command,
			    fx->root);
}

char *doveadm(struct fixture *fx, const char *command)
{
	return doveadm_with(fx, "/dev/null", command);
}

void assert_no_complaints(struct fixture *fx)
{
	static const char *const words[] = {"warning:", "error:",     "panic:", "fatal:",
					    "corrupt",	"rebuilding", "fsck",	"reset=yes"};
	char path[400], *log;

	snprintf(path, sizeof path, "%s/dovecot.log", fx->root);
	log = read_file(path);
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
		const char *found = strcasestr(log, words[i]);

		while (found && found > log && found[-1] != '\n')
			found--;
		if (found)
			fail_msg("Dovecot complained: %.600s", found);
	}
	free(log);
}

static int word_cmp(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void append_sorted_words(struct buf *out, char *text)
{
	char *words[64], *save = NULL;
	size_t count = 0;

	for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		if (strcmp(word, "\\Recent") != 0 && count < 64)
			words[count++] = word;
	}
	qsort(words, count, sizeof *words, word_cmp);
	for (size_t i = 0; i < count; i++)
		buf_printf(out, " %s", words[i]);
}

bool dovecot_is_there(void)
{
	return geteuid() == 0 && access("/usr/bin/doveadm", X_OK) == 0 &&
	       access("/usr/lib/dovecot/imap", X_OK) == 0;
}
