/* Settings: what a pasted Dovecot configuration means, what is refused and how it says so, and that
 * what is printed reads back. SAMPLES is defined by the build. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/settings.h"
#include "store/settings_private.h"

static struct settings *parse(const char *text)
{
	struct settings *set;
	struct error err = {0};

	if (settings_parse(text, strlen(text), "test.conf", SETTINGS_QUIET, &set, &err) != 0)
		fail_msg("%s\nfor:\n%s", err.text, text);
	return set;
}

/* The text is refused, and the message has all the parts (NULL ends them). */
static void refuse(const char *text, ...)
{
	struct settings *set;
	struct error err = {0};
	const char *part;
	va_list parts;

	if (settings_parse(text, strlen(text), "test.conf", SETTINGS_QUIET, &set, &err) == 0)
		fail_msg("accepted:\n%s", text);
	/* One of Dovecot 2.4 has its own, since doveconf may know it. */
	assert_int_equal(err.code,
			 strncmp(text, "dovecot_config", 14) == 0 ? -EPROTONOSUPPORT : -EINVAL);
	assert_null(set);
	va_start(parts, text);
	while ((part = va_arg(parts, const char *)) != NULL) {
		if (!strstr(err.text, part))
			fail_msg("no '%s' in: %s\nfor:\n%s", part, err.text, text);
	}
	va_end(parts);
}

static void print(const struct settings *set, bool only_set, struct buf *out)
{
	buf_init(out, (size_t)1 << 20);
	assert_int_equal(settings_print(set, true, only_set, out), 0);
}

/* parse(print(x)) == x, in both forms of printing. */
static void check_reads_back(const struct settings *set)
{
	struct buf first, again, brief;
	struct settings *copy;

	print(set, false, &first);
	copy = parse(buf_str(&first));
	print(copy, false, &again);
	assert_string_equal(buf_str(&first), buf_str(&again));
	settings_free(&copy);
	buf_free(&again);

	print(set, true, &brief);
	copy = parse(buf_str(&brief));
	print(copy, false, &again);
	assert_string_equal(buf_str(&first), buf_str(&again));
	settings_free(&copy);
	buf_free(&again);
	buf_free(&brief);
	buf_free(&first);
}

static void test_defaults(void **state)
{
	struct settings *set;
	struct error err = {0};

	assert_int_equal(settings_load(NULL, NULL, 0, SETTINGS_QUIET, &set, &err), 0);
	assert_string_equal(set->mail_root, "/var/mail/vhosts");
	assert_string_equal(set->mail_home, "/var/mail/vhosts/%d/%n");
	assert_string_equal(set->mail_location, "");
	assert_int_equal(set->peer_count, 0);
	assert_int_equal(set->doveadm_port, 0);
	assert_int_equal(set->listen_count, 2);
	assert_string_equal(set->listen[0], "*");
	assert_string_equal(set->listen[1], "::");
	assert_int_equal(set->replication_max_conns, 10);
	assert_int_equal(set->replication_full_sync_interval_secs, 86400);
	assert_int_equal(set->replication_poll_interval_secs, 30);
	assert_string_equal(set->state_dir, "/var/lib/dsyncfs");
	assert_int_equal(set->notify_socket.mode, 0600);
	check_reads_back(set);
	settings_free(&set);
	assert_null(set);
}

static void test_short_file(void **state)
{
	struct settings *set = parse("mail_root = /srv/mail/\n"
				     "mail_replica = tcp:mx2.example.org\n"
				     "doveadm_port = 12346 # ours\n"
				     "doveadm_password = \"se#cret \\\" \\\\ x\"\n"
				     "replication_poll_interval = 5 mins\n");

	assert_string_equal(set->mail_root, "/srv/mail");
	assert_string_equal(set->mail_home, "/srv/mail/%d/%n");
	assert_int_equal(set->peer_count, 1);
	assert_string_equal(set->peers[0].address, "tcp:mx2.example.org");
	assert_string_equal(set->peers[0].host, "mx2.example.org");
	assert_int_equal(set->peers[0].port, 12346);
	assert_int_equal(set->doveadm_port, 12346);
	assert_string_equal(set->doveadm_password, "se#cret \" \\ x");
	assert_int_equal(set->replication_poll_interval_secs, 300);
	check_reads_back(set);
	settings_free(&set);
}

static void test_pasted_dovecot_configuration(void **state)
{
	struct settings *set;
	struct error err = {0};

	if (settings_load(SAMPLES "/dovecot-2.3-replication.conf", NULL, 0, SETTINGS_QUIET, &set,
			  &err) != 0)
		fail_msg("%s", err.text);
	assert_string_equal(set->mail_root, "/var/mail/vhosts");
	assert_string_equal(set->mail_home, "/var/mail/vhosts/%d/%n");
	assert_string_equal(set->mail_location, "maildir:~/Maildir");
	assert_string_equal(set->mail_uid, "5000");
	assert_int_equal(set->separator, '/');
	assert_int_equal(set->peer_count, 1);
	assert_string_equal(set->peers[0].host, "mx2.example.org");
	assert_int_equal(set->peers[0].port, 12345);
	assert_int_equal(set->doveadm_port, 12345);
	assert_false(set->listen_ssl);
	assert_int_equal(set->listen_count, 1);
	assert_string_equal(set->listen[0], "192.0.2.1");
	assert_int_equal(set->replication_full_sync_interval_secs, 3600);
	assert_string_equal(set->notify_fifo.user, "vmail");
	assert_int_equal(set->notify_fifo.mode, 0666);
	assert_string_equal(set->doveadm_socket.user, "vmail");
	assert_int_equal(set->doveadm_socket.mode, 0600);
	assert_string_equal(set->ssl_cert, "/etc/dovecot/private/dovecot.pem");
	check_reads_back(set);
	settings_free(&set);
}

/* The tree that Debian's package installs, and everything that doveconf -a knows. */
static void test_installed_dovecot_configuration(void **state)
{
	static const char *const maildir[] = {"mail_location=maildir:~/Maildir"};
	struct settings *set;
	struct error err = {0};
	AUTO_BUF struct buf text = BUF_INIT((size_t)1 << 20);
	char version[64] = "";
	FILE *pipe;

	pipe = popen("dovecot --version 2>/dev/null", "r");
	assert_non_null(pipe);
	if (!fgets(version, sizeof version, pipe))
		version[0] = '\0';
	pclose(pipe);
	if (strncmp(version, "2.3.", 4) != 0 || access("/etc/dovecot/dovecot.conf", R_OK) < 0) {
		print_message("skipped: no Dovecot 2.3 is installed\n");
		skip();
	}
	/* It comes with mbox, which we do not have and say so. */
	assert_int_equal(
		settings_load("/etc/dovecot/dovecot.conf", NULL, 0, SETTINGS_QUIET, &set, &err),
		-EINVAL);
	if (!strstr(err.text, "10-mail.conf:") || !strstr(err.text, "mbox: is not supported"))
		fail_msg("%s", err.text);
	err = (struct error){0};
	if (settings_load("/etc/dovecot/dovecot.conf", maildir, 1, SETTINGS_QUIET, &set, &err) != 0)
		fail_msg("%s", err.text);
	check_reads_back(set);
	settings_free(&set);
	pipe = popen("doveconf -a 2>/dev/null", "r");
	assert_non_null(pipe);
	assert_int_equal(file_read(fileno(pipe), &text), 0);
	pclose(pipe);
	assert_true(text.len > 10000);
	buf_printf(&text, "%s\n", maildir[0]);
	if (settings_parse(text.data, text.len, "doveconf", SETTINGS_QUIET, &set, &err) != 0)
		fail_msg("%s", err.text);
	check_reads_back(set);
	settings_free(&set);
}

static void test_the_later_line_wins(void **state)
{
	struct settings *set = parse("mail_replica = tcp:a\n"
				     "plugin {\n  mail_replica = tcp:b:1\n}\n"
				     "mail_replica = tcp:[2001:db8::1]:77\n");

	assert_int_equal(set->peer_count, 1);
	assert_string_equal(set->peers[0].host, "2001:db8::1");
	assert_int_equal(set->peers[0].port, 77);
	check_reads_back(set);
	settings_free(&set);
	set = parse("plugin {\n mail_replica = tcp:a\n}\nplugin {\n mail_replica =\n}\n");
	assert_int_equal(set->peer_count, 0);
	settings_free(&set);
}

static void test_listener(void **state)
{
	struct settings *set =
		parse("doveadm_port = 4000\nlisten = 10.0.0.1, [::1]\n"
		      "service doveadm {\n  inet_listener x {\n    port = 5000\n  }\n}\n");

	assert_int_equal(set->doveadm_port, 5000);
	assert_int_equal(set->doveadm_peer_port, 4000);
	assert_int_equal(set->listen_count, 2);
	assert_string_equal(set->listen[1], "::1");
	check_reads_back(set);
	settings_free(&set);
	set = parse("doveadm_port = 4000\nservice doveadm {\n inet_listener {\n port = 0\n }\n}\n");
	assert_int_equal(set->doveadm_port, 0);
	check_reads_back(set);
	settings_free(&set);
	/* The global one is Dovecot's. */
	set = parse("ssl = required\nservice doveadm {\n inet_listener {\n port = 1\n }\n}\n");
	assert_false(set->listen_ssl);
	settings_free(&set);
	set = parse("ssl = yes\n");
	settings_free(&set);
}

static void test_userdb_of_every_user(void **state)
{
	struct settings *set = parse("userdb {\n driver = passwd-file\n args = /etc/x\n}\n"
				     "userdb {\n driver = static\n args = uid=vmail gid=mail "
				     "home=/srv/vmail/%d/%n allow_all_users=yes\n}\n");

	assert_string_equal(set->mail_home, "/srv/vmail/%d/%n");
	assert_string_equal(set->mail_root, "/srv/vmail");
	assert_string_equal(set->mail_uid, "vmail");
	assert_string_equal(set->mail_gid, "mail");
	check_reads_back(set);
	settings_free(&set);
	/* Ours is stronger; one that is no home of ours is not taken. */
	set = parse("mail_uid = me\nmail_root = /mail\n"
		    "userdb {\n driver = static\n args = uid=vmail home=/srv/%n\n}\n");
	assert_string_equal(set->mail_uid, "me");
	assert_string_equal(set->mail_home, "/mail/%d/%n");
	settings_free(&set);
	set = parse("userdb {\n driver = static\n args = home=/srv/one\n}\n");
	assert_string_equal(set->mail_home, "/var/mail/vhosts/%d/%n");
	settings_free(&set);
	set = parse("userdb {\n driver = sql\n args = /etc/sql\n default_fields = "
		    "home=/srv/%u\n}\n");
	assert_string_equal(set->mail_home, "/srv/%u");
	settings_free(&set);
}

/* What is said for the doveadm protocol alone wins, wherever it stands. */
static void test_protocol_doveadm(void **state)
{
	struct settings *set = parse("ssl_cert = </web.pem\nssl_key = </web.key\n"
				     "protocol doveadm {\n ssl_cert = </d.pem\n "
				     "ssl_key = </d.key\n}\n"
				     "protocol imap {\n ssl_cert = </imap.pem\n}\n"
				     "ssl_key = </late.key\n");

	assert_string_equal(set->ssl_cert, "/d.pem");
	assert_string_equal(set->ssl_key, "/d.key");
	check_reads_back(set);
	settings_free(&set);
}

/* It is Dovecot's replication plugin that waits. */
static void test_sync_timeout(void **state)
{
	struct settings *set = parse("plugin {\n replication_sync_timeout = 2s\n}\n");

	assert_int_equal(set->replication_sync_timeout_secs, 2);
	check_reads_back(set);
	settings_free(&set);
}

static void test_tls_listener(void **state)
{
	struct settings *set = parse("ssl_cert = </c.pem\nssl_key = </k.pem\nservice doveadm {\n "
				     "inet_listener {\n port = 1\n ssl = yes\n }\n}\n");

	assert_true(set->listen_ssl);
	check_reads_back(set);
	settings_free(&set);
	set = parse("ssl = required\nssl_cert = </c.pem\nssl_key = </k.pem\ndoveadm_port = 5\n"
		    "mail_replica = tcps:mx2.example.org\n");
	assert_true(set->listen_ssl);
	assert_int_equal(set->peers[0].transport, SETTINGS_TRANSPORT_TCPS);
	check_reads_back(set);
	settings_free(&set);
	refuse("service doveadm {\n inet_listener {\n port = 1\n ssl = yes\n }\n}\n", "test.conf:4",
	       "port 1 speak TLS", "ssl_cert is not set", NULL);
	refuse("ssl = yes\nssl_cert = </c.pem\ndoveadm_port = 5\n", "test.conf:1",
	       "ssl_key is not set", "speaks plainly", NULL);
}

static void test_syntax(void **state)
{
	struct settings *set = parse(
		"\xef\xbb\xbf# a byte order mark\r\n"
		"   mail_uid   =   vmail   \r\n"
		"mail_gid = 'single \\ #'\n"
		"mail_location = maildir:~/Maildir:INDEX=\\\n   /var/index/%u\n"
		"dsync_remote_cmd = ssh \\\n\t  %{host}\t\\\n  dsync\n"
		"ssl_client_ca_file = $mail_uid $mail_gid\n"
		"ssl_client_ca_dir = \"$mail_uid\"\n"
		"namespace other {\n prefix = x/\n mailbox T {\n special_use = \\Trash\n }\n}\n"
		"namespace \"a b\"{\n inbox=yes\n separator = \"\\\\\"\n"
		" mailbox \"Sent \\\"Mail\\\"\" {\n special_use = \\Sent \\X\n }\n }\n"
		"base_dir =# empty\n");

	assert_string_equal(set->mail_uid, "vmail");
	assert_string_equal(set->mail_gid, "single \\ #");
	assert_string_equal(set->mail_location, "maildir:~/Maildir:INDEX=/var/index/%u");
	assert_string_equal(set->dsync_remote_cmd, "ssh %{host}\tdsync");
	assert_string_equal(set->ssl_client_ca_file, "vmail single \\ #");
	assert_string_equal(set->ssl_client_ca_dir, "$mail_uid");
	assert_int_equal(set->separator, '\\');
	assert_string_equal(set->special_uses, "\\Sent \\X\tSent \"Mail\"\n");
	assert_string_equal(set->other_prefixes, "x/\n");
	check_reads_back(set);
	settings_free(&set);
}

static void test_mistakes_are_named_with_their_place(void **state)
{
	refuse("\nmail_replicas = tcp:x\n", "test.conf:2", "mail_replicas", "did you mean",
	       "mail_replica", NULL);
	refuse("mail_rot = /x\n", "test.conf:1", "mail_root", NULL);
	refuse("mail_locaton = /x\n", "mail_location", NULL);
	refuse("foo_bar_baz_qux = 1\n", "test.conf:1", "unknown setting 'foo_bar_baz_qux'", NULL);
	refuse("plugin {\n  mail_replika = tcp:x\n}\n", "test.conf:2", "mail_replica", NULL);
	refuse("servic doveadm {\n}\n", "test.conf:1", "unknown block 'servic'", "service", NULL);
	refuse("service x {\n  user = a\n  chrot = b\n}\n", "test.conf:3", "chroot", NULL);
	refuse("mail_replica = mx2\n", "test.conf:1", "mail_replica = mx2", "tcp:host[:port]",
	       NULL);
	refuse("mail_replica = tcp:mx2:99999\n", "test.conf:1", "port", NULL);
	refuse("mail_replica = tcp:\n", "test.conf:1", "host", NULL);
	refuse("mail_replica = tcp:a b\n", "test.conf:1", "host", NULL);
	refuse("doveadm_port = x\n", "test.conf:1", "not a number", NULL);
	refuse("doveadm_port = 65536\n", "test.conf:1", "too large", NULL);
	refuse("replication_max_conns = 0\n", "test.conf:1", "too small", NULL);
	refuse("replication_full_sync_interval = 5 parsecs\n", "test.conf:1", "parsecs", NULL);
	refuse("replication_full_sync_interval = 99999999999999999999 h\n", "too large", NULL);
	refuse("mail_root = mail\n", "test.conf:1", "absolute", NULL);
	refuse("mail_root = /a/../b\n", "test.conf:1", "'..'", NULL);
	refuse("mail_root = /\n", "test.conf:1", "is everything", NULL);
	refuse("mail_home = /srv/%d/users\n", "test.conf:1", "told apart", NULL);
	refuse("mail_home = /srv/%x/%n\n", "test.conf:1", "%x", NULL);
	refuse("mail_root = /a\nmail_home = /srv/%d/%n\n", "test.conf:2", "below mail_root", NULL);
	refuse("mail_location = mbox:~/mail\n", "test.conf:1", "mbox", NULL);
	refuse("mail_location = maildir:Maildir\n", "test.conf:1", "absolute", NULL);
	refuse("state_dir = /var/mail/vhosts/x\n", "test.conf:1", "inside mail_root", NULL);
	refuse("listen = 1.2.3.4, ???\n", "test.conf:1", "???", NULL);
	refuse("mail_uid\n", "test.conf:1", "name = value", NULL);
	refuse("plugin {\n", "test.conf", "line 1", "never closed", NULL);
	refuse("}\n", "test.conf:1", "without a block", NULL);
	refuse("mail_uid = \"x\n", "test.conf:1", "quote", NULL);
	refuse("mail_uid = $nosuch\n", "test.conf:1", "$nosuch", NULL);
	refuse("service aggregator {\n unix_listener replication-notify {\n mode = 9\n }\n}\n",
	       "test.conf:3", "mode", NULL);
	refuse("namespace {\n inbox = yes\n separator = ab\n}\n", "test.conf:3", "one character",
	       NULL);
	refuse("!include /nonexistent/file\n", "test.conf:1", "no such file", NULL);
	refuse("doveadm_password = </nonexistent/file\n", "test.conf:1", "No such file", NULL);
}

static void test_password_is_in_no_message(void **state)
{
	struct settings *set;
	struct error err = {0};
	struct buf out = BUF_INIT(1 << 20);
	const char *text = "doveadm_password = \"hush\thush\"\n";

	settings_parse("doveadm_password = hush\n", 24, "t", SETTINGS_QUIET, &set, &err);
	assert_int_equal(settings_print(set, false, false, &out), 0);
	assert_null(strstr(buf_str(&out), "hush"));
	assert_non_null(strstr(buf_str(&out), "doveadm_password = # hidden"));
	settings_free(&set);
	buf_free(&out);
	set = parse(text);
	assert_string_equal(set->doveadm_password, "hush\thush");
	settings_free(&set);
}

static void test_what_is_not_built_is_refused_by_name(void **state)
{
	refuse("mail_replica = tcp:a\nmail_replica2 = tcp:b\n", "test.conf:2", "mail_replica2",
	       "not built yet", NULL);
	refuse("replication_dsync_parameters = -d -x Trash\n", "test.conf:1", "-x", NULL);
	refuse("dovecot_config_version = 2.4.0\nmail_driver = maildir\n", "test.conf:1",
	       "Dovecot 2.4", NULL);
}

static void test_includes(void **state)
{
	char dir[] = "/tmp/dsyncfs-settings.XXXXXX", path[128], main_path[128];
	struct settings *set;
	struct error err = {0};
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/conf.d", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(main_path, sizeof main_path, "%s/main.conf", dir);
	fd = open(main_path, O_CREAT | O_WRONLY, 0600);
	dprintf(fd, "!include conf.d/*.conf\n!include_try local.conf\nplugin {\n"
		    "!include conf.d/plugin.inc\n}\n");
	close(fd);
	snprintf(path, sizeof path, "%s/conf.d/10.conf", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	dprintf(fd, "doveadm_password = <../secret\nmail_uid = a\n");
	close(fd);
	snprintf(path, sizeof path, "%s/conf.d/20.conf", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	dprintf(fd, "mail_uid = b\n");
	close(fd);
	snprintf(path, sizeof path, "%s/conf.d/plugin.inc", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	dprintf(fd, "mail_replica = tcp:c\n");
	close(fd);
	snprintf(path, sizeof path, "%s/secret", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	dprintf(fd, "s3cret\n");
	close(fd);
	if (settings_load(main_path, NULL, 0, SETTINGS_QUIET, &set, &err) != 0)
		fail_msg("%s", err.text);
	assert_string_equal(set->mail_uid, "b");
	assert_string_equal(set->doveadm_password, "s3cret");
	assert_string_equal(set->peers[0].host, "c");
	settings_free(&set);

	/* The place is the included file's. */
	snprintf(path, sizeof path, "%s/conf.d/20.conf", dir);
	fd = open(path, O_WRONLY | O_TRUNC);
	dprintf(fd, "\n\nmail_uit = b\n");
	close(fd);
	assert_int_equal(settings_load(main_path, NULL, 0, SETTINGS_QUIET, &set, &err), -EINVAL);
	assert_non_null(strstr(err.text, "conf.d/20.conf:3: "));
	assert_null(strstr(err.text, "main.conf"));

	/* A file that includes itself. */
	fd = open(main_path, O_WRONLY | O_TRUNC);
	dprintf(fd, "!include main.conf\n");
	close(fd);
	assert_int_equal(settings_load(main_path, NULL, 0, SETTINGS_QUIET, &set, &err), -EINVAL);
	assert_non_null(strstr(err.text, "nested too deeply"));

	snprintf(path, sizeof path, "%s/none.conf", dir);
	assert_int_equal(settings_load(path, NULL, 0, SETTINGS_QUIET, &set, &err), -ENOENT);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY);
	assert_int_equal(file_remove_tree(fd, dir + 5), 0);
	close(fd);
}

static void test_overrides_are_stronger(void **state)
{
	const char *const good[] = {"mail_uid=x", "plugin/mail_replica=tcp:h:9", "mail_debug=yes"};
	const char *const bad[] = {"mail_uidd=x"};
	struct settings *set;
	struct error err = {0};

	assert_int_equal(settings_load(SAMPLES "/dovecot-2.3-replication.conf", good, 3,
				       SETTINGS_QUIET, &set, &err),
			 0);
	assert_string_equal(set->mail_uid, "x");
	assert_string_equal(set->peers[0].host, "h");
	settings_free(&set);
	assert_int_equal(settings_load(NULL, bad, 1, SETTINGS_QUIET, &set, &err), -EINVAL);
	assert_non_null(strstr(err.text, "-o mail_uidd"));
}

/* Random pieces of settings files: never a crash; what is accepted reads back. */
static void test_random_files(void **state)
{
	static const char *const pieces[] = {"mail_uid",
					     "mail_replica",
					     "plugin",
					     "{",
					     "}",
					     "\n",
					     " = ",
					     "\"",
					     "'",
					     "\\",
					     "#",
					     "$mail_uid",
					     "<",
					     "/x",
					     "tcp:h",
					     "service doveadm {\n",
					     "inet_listener {\n",
					     "namespace {\n",
					     "inbox = yes\n",
					     "separator = .\n",
					     "port = 5\n",
					     "!include ",
					     "\\\n",
					     "mail_home = /m/%d/%n\n",
					     "doveadm_password = a b\n",
					     "a",
					     " ",
					     "}\n",
					     "listen = ::1\n",
					     "mail_replica = tcp:h:1\n",
					     "mail_gid = x\n"};
	unsigned seed = 1, accepted = 0;

	for (int round = 0; round < 20000; round++) {
		AUTO_BUF struct buf text = BUF_INIT(2048);
		struct settings *set;
		struct error err = {0};
		unsigned count;

		seed = seed * 1103515245 + 12345;
		count = 1 + (seed >> 16) % 14;
		for (unsigned i = 0; i < count; i++) {
			seed = seed * 1103515245 + 12345;
			buf_append_str(&text,
				       pieces[(seed >> 16) % (sizeof pieces / sizeof pieces[0])]);
		}
		if (settings_parse(text.data, text.len, "r", SETTINGS_QUIET, &set, &err) == 0) {
			accepted++;
			check_reads_back(set);
			settings_free(&set);
		} else {
			assert_true(err.text[0] != '\0');
		}
	}
	assert_true(accepted > 100);
}

static void must_be_found(void *ctx, const char *path)
{
	if (settings_dovecot_find(path) != SETTINGS_DOVECOT_23)
		fail_msg("%s is not found", path);
}

static void test_names_are_sorted(void **state)
{
	const char *last = "";

	for (size_t i = 0; i < settings_dovecot_list_count; i++) {
		assert_true(strcmp(last, settings_dovecot_list[i]) < 0);
		last = settings_dovecot_list[i];
	}
	settings_dovecot_each(must_be_found, NULL);
	assert_int_equal(settings_dovecot_find("dovecot_config_version"), SETTINGS_DOVECOT_24);
	assert_int_equal(settings_dovecot_find("acl_driver"), SETTINGS_DOVECOT_24);
	assert_int_equal(settings_dovecot_find("userdb_driver"), SETTINGS_DOVECOT_24);
	assert_int_equal(settings_dovecot_find("no_such"), SETTINGS_DOVECOT_NO);
}

static void test_values(void **state)
{
	unsigned secs;
	uint64_t size;
	struct error err = {0};

	assert_int_equal(settings_parse_secs("24h", 1000000, &secs, &err), 0);
	assert_int_equal(secs, 86400);
	assert_int_equal(settings_parse_secs("1 day", 1000000, &secs, &err), 0);
	assert_int_equal(secs, 86400);
	assert_int_equal(settings_parse_secs("7", 1000000, &secs, &err), 0);
	assert_int_equal(secs, 7);
	assert_int_equal(settings_parse_secs("", 1000000, &secs, &err), -EINVAL);
	assert_int_equal(settings_parse_secs("-1", 1000000, &secs, &err), -EINVAL);
	assert_int_equal(settings_parse_secs("20 ms", 1000000, &secs, &err), -EINVAL);
	assert_int_equal(settings_parse_size("10 M", UINT64_MAX, &size, &err), 0);
	assert_int_equal(size, 10 << 20);
	assert_int_equal(settings_parse_size("99999999T", UINT64_MAX, &size, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_short_file),
		cmocka_unit_test(test_pasted_dovecot_configuration),
		cmocka_unit_test(test_installed_dovecot_configuration),
		cmocka_unit_test(test_the_later_line_wins),
		cmocka_unit_test(test_listener),
		cmocka_unit_test(test_userdb_of_every_user),
		cmocka_unit_test(test_protocol_doveadm),
		cmocka_unit_test(test_sync_timeout),
		cmocka_unit_test(test_tls_listener),
		cmocka_unit_test(test_syntax),
		cmocka_unit_test(test_mistakes_are_named_with_their_place),
		cmocka_unit_test(test_password_is_in_no_message),
		cmocka_unit_test(test_what_is_not_built_is_refused_by_name),
		cmocka_unit_test(test_includes),
		cmocka_unit_test(test_overrides_are_stronger),
		cmocka_unit_test(test_random_files),
		cmocka_unit_test(test_names_are_sorted),
		cmocka_unit_test(test_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
