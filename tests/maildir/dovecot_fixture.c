/* A Dovecot beside the fixture's Maildir. See dovecot_fixture.h. */
#include "tests/maildir/dovecot_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"

static void make_config(struct fixture *fx)
{
	AUTO_BUF struct buf text = BUF_INIT(4096);
	char path[400];

	buf_printf(&text,
		   "base_dir = %s/run\nstate_dir = %s/run\nlog_path = %s/dovecot.log\n"
		   "mail_location = maildir:~/Maildir\nssl = no\nstats_writer_socket_path =\n"
		   "mail_plugins = zlib\nnamespace inbox {\n  inbox = yes\n  separator = /\n}\n",
		   fx->root, fx->root, fx->root);
	snprintf(path, sizeof path, "%s/dovecot.conf", fx->root);
	write_file(path, text.data, text.len);
	must_shell("mkdir -p '%s/run' && touch '%s/dovecot.log' && chmod 644 '%s' && "
		   "chown -R %d:%d '%s'",
		   fx->root, fx->root, path, MAIL_UID, MAIL_UID, fx->root);
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

void dovecot_set_location(struct fixture *fx, const char *options)
{
	char path[400], text[400];
	struct error err = {0};
	int fd;

	snprintf(path, sizeof path, "%s/dovecot.conf", fx->root);
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_true(fd >= 0);
	snprintf(text, sizeof text, "mail_location = maildir:~/Maildir%s\n", options);
	assert_int_equal(file_write_all(fd, text, strlen(text)), 0);
	close(fd);
	mail_location_free(&fx->user.location);
	snprintf(text, sizeof text, "maildir:~/Maildir%s", options);
	must(mail_location_parse(text, fx->home, &fx->user.location, &err), &err);
}

/* Whatever it says on stderr goes to where assert_no_complaints() looks. */
char *doveadm_with(struct fixture *fx, const char *input, const char *command)
{
	return shell_output("cd '%s' && cat '%s' | setpriv --reuid=%d --regid=%d --clear-groups "
			    "env HOME='%s' USER=alice TZ=UTC doveadm -c '%s/dovecot.conf' %s "
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
