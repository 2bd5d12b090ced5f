/* Dovecot's configuration in the syntax of the installed version. See dovecot_config.h. */
#include "tests/dovecot_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "store/base/buf.h"
#include "store/base/file.h"

#define TEXT_MAX 8192

bool dovecot_is_24(void)
{
	static int answer = -1;
	char version[64] = "";
	FILE *pipe;

	if (answer >= 0)
		return answer;
	pipe = popen("PATH=$PATH:/usr/sbin dovecot --version 2>/dev/null",
		     "r"); // NOLINT(cert-env33-c)
	if (pipe) {
		if (!fgets(version, sizeof version, pipe))
			version[0] = '\0';
		pclose(pipe);
	}
	answer = version[0] != '\0' && strncmp(version, "2.3.", 4) != 0;
	return answer;
}

/* What 2.3 has in one setting: "driver:path:KEY=value:FLAG". */
static void add_location_24(struct buf *text, const char *location)
{
	static const struct {
		const char *option, *setting;
	} names[] = {
		{"INDEX=", "mail_index_path = "},     {"CONTROL=", "mail_control_path = "},
		{"ALT=", "mail_alt_path = "},	      {"LAYOUT=", "mailbox_list_layout = "},
		{"UTF-8", "mailbox_list_utf8 = yes"}, {"VOLATILEDIR=", "mail_volatile_path = "},
	};
	char *copy = strdup(location), *save = NULL;
	const char *driver = strtok_r(copy, ":", &save);
	const char *path = strtok_r(NULL, ":", &save);

	buf_printf(text, "mail_driver = %s\nmail_path = %s\n", driver, path);
	if (strcmp(driver, "maildir") == 0 && !strstr(location, ":LAYOUT="))
		buf_printf(text, "mailbox_list_layout = maildir++\n");
	for (char *part = strtok_r(NULL, ":", &save); part; part = strtok_r(NULL, ":", &save)) {
		for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
			size_t len = strlen(names[i].option);

			if (strncmp(part, names[i].option, len) == 0)
				buf_printf(text, "%s%s\n", names[i].setting, part + len);
		}
	}
	free(copy);
}

static void add_config(struct buf *text, const char *root, const char *home, const char *location,
		       char separator)
{
	if (dovecot_is_24()) {
		buf_printf(text,
			   "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
			   "mail_home = %s\nmail_plugins {\n  mail_compress = yes\n}\n",
			   home);
		add_location_24(text, location);
	} else {
		buf_printf(text, "mail_location = %s\nmail_plugins = zlib\n", location);
	}
	buf_printf(text,
		   "base_dir = %s/run\nstate_dir = %s/run\nlog_path = %s/dovecot.log\nssl = no\n"
		   "stats_writer_socket_path =\nfirst_valid_uid = 1\n"
		   "namespace inbox {\n  inbox = yes\n  separator = %c\n}\n",
		   root, root, root, separator);
}

/* An option of 2.4's mail commands follows the command's words. */
static void add_program(struct buf *text, const char *root)
{
	buf_printf(text, "#!/bin/sh\n");
	if (dovecot_is_24())
		buf_printf(text,
			   "options=\n"
			   "while :; do\n"
			   "	case $1 in\n"
			   "	-f | -o) options=\"$options $1 $2\"; shift 2 ;;\n"
			   "	-*) options=\"$options $1\"; shift ;;\n"
			   "	*) break ;;\n"
			   "	esac\n"
			   "done\n"
			   "case $1 in\n"
			   "dump | exec) exec doveadm -c '%s/dovecot.conf' $options \"$@\" ;;\n"
			   "flags | mailbox) words=\"$1 $2\"; shift 2 ;;\n"
			   "*) words=$1; shift ;;\n"
			   "esac\n"
			   "exec doveadm -c '%s/dovecot.conf' $options $words --no-userdb-lookup "
			   "\"$@\"\n",
			   root, root);
	else
		buf_printf(text, "exec doveadm -c '%s/dovecot.conf' \"$@\"\n", root);
}

static int write_text(const char *root, const char *name, mode_t mode, const struct buf *text)
{
	char path[4096];
	int rc;

	snprintf(path, sizeof path, "%s/%s", root, name);
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	rc = text->failed ? text->failed : file_write_all(fd, text->data, text->len);
	return rc == 0 && fchmod(fd, mode) < 0 ? -errno : rc;
}

int dovecot_config_write(const char *root, const char *home, const char *location, char separator)
{
	AUTO_BUF struct buf config = BUF_INIT(TEXT_MAX);
	AUTO_BUF struct buf program = BUF_INIT(TEXT_MAX);
	int rc;

	add_config(&config, root, home, location, separator);
	add_program(&program, root);
	rc = write_text(root, "dovecot.conf", 0644, &config);
	return rc < 0 ? rc : write_text(root, "doveadm", 0755, &program);
}
