/* A Dovecot 2.4 configuration for the dsync command. See dsync_doveconf.h. */
#include "sync/dsync_doveconf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/base/file.h"
#include "store/settings_file.h"

#define PROGRAM	  "doveconf"
#define NOT_FOUND 127
#define PATH_SIZE 256
#define NAMES_MAX 32

/* ---- names ---- */

/* Types of the blocks and the name, with the block's title where it matters. */
static const struct name_pair {
	const char *from, *to;
} names[] = {
	{"mail_home", "mail_home"},
	{"mail_uid", "mail_uid"},
	{"mail_gid", "mail_gid"},
	{"mail_replica", "mail_replica"},
	{"doveadm_port", "doveadm_port"},
	{"doveadm_password", "doveadm_password"},
	{"dsync_remote_cmd", "dsync_remote_cmd"},
	{"ssl_min_protocol", "ssl_min_protocol"},
	{"ssl_client/ca_file", "ssl_client_ca_file"},
	{"ssl_client/ca_dir", "ssl_client_ca_dir"},
	{"ssl_client_ca_file", "ssl_client_ca_file"},
	{"ssl_client_ca_dir", "ssl_client_ca_dir"},
	{"mail_compress_write_method", "zlib_save"},
	{"mail_compress/write_method", "zlib_save"},
	{"mail_ext_attachment_path", "mail_attachment_dir"},
	{"mail_ext_attachment/path", "mail_attachment_dir"},
	{"mdbox_preallocate_space", "mdbox_preallocate_space"},
	{"mdbox/preallocate_space", "mdbox_preallocate_space"},
	{"mdbox_rotate_interval", "mdbox_rotate_interval"},
	{"mdbox/rotate_interval", "mdbox_rotate_interval"},
	{"mdbox_rotate_size", "mdbox_rotate_size"},
	{"mdbox/rotate_size", "mdbox_rotate_size"},
};

/* What becomes part of another setting. */
enum piece {
	DRIVER,
	MAIL_PATH,
	INDEX_PATH,
	CONTROL_PATH,
	INBOX_PATH,
	ALT_PATH,
	VOLATILE_PATH,
	LAYOUT,
	DICT_PATH,
	PIECES
};
static const char *const pieces[PIECES] = {
	[DRIVER] = "mail_driver",
	[MAIL_PATH] = "mail_path",
	[INDEX_PATH] = "mail_index_path",
	[CONTROL_PATH] = "mail_control_path",
	[INBOX_PATH] = "mail_inbox_path",
	[ALT_PATH] = "mail_alt_path",
	[VOLATILE_PATH] = "mail_volatile_path",
	[LAYOUT] = "mailbox_list_layout",
	[DICT_PATH] = "mail_attribute/dict/path",
};

#define MAILBOXES_MAX 65536

struct translation {
	struct buf *out;
	char *piece[PIECES];
	char *separator, *prefix; /* of the namespace that is being read */
	struct buf mailboxes;	  /* its blocks that say a special use */
	bool inbox;
	char *sieve_path, *sieve_active, *sieve_type; /* of the script that is being read */
	bool has_home;
};

/* ---- variables: "%{user | domain}" was "%d" ---- */

static void trim(const char **text, size_t *len)
{
	while (*len && strchr(" \t", (*text)[0])) {
		(*text)++;
		(*len)--;
	}
	while (*len && strchr(" \t", (*text)[*len - 1]))
		(*len)--;
}

static bool is_word(const char *text, size_t len, const char *word)
{
	return strlen(word) == len && strncmp(text, word, len) == 0;
}

/* 0: it has no name of one letter. */
static char letter_of(const char *text, size_t len, bool *lower_r)
{
	char letter = 0;

	*lower_r = false;
	while (len) {
		const char *bar = memchr(text, '|', len), *word = text;
		size_t word_len = bar ? (size_t)(bar - text) : len;

		len -= bar ? word_len + 1 : word_len;
		text += bar ? word_len + 1 : word_len;
		trim(&word, &word_len);
		if (!letter && is_word(word, word_len, "user"))
			letter = 'u';
		else if (!letter && is_word(word, word_len, "home"))
			letter = 'h';
		else if (letter == 'u' && is_word(word, word_len, "username"))
			letter = 'n';
		else if (letter == 'u' && is_word(word, word_len, "domain"))
			letter = 'd';
		else if (letter && is_word(word, word_len, "lower"))
			*lower_r = true;
		else
			return 0;
	}
	return letter;
}

static void append_value(struct buf *out, const char *value)
{
	while (*value) {
		const char *end = strncmp(value, "%{", 2) == 0 ? strchr(value, '}') : NULL;
		bool lower = false;
		char letter =
			end ? letter_of(value + 2, (size_t)(end - value) - 2, &lower) : (char)0;

		if (!letter) {
			buf_append_byte(out, (unsigned char)*value++);
			continue;
		}
		buf_printf(out, "%%%s%c", lower ? "L" : "", letter);
		value = end + 1;
	}
}

/* ---- lines ---- */

static void put_quoted(struct buf *out, const char *text)
{
	buf_append_byte(out, '"');
	for (const char *p = text; *p; p++)
		buf_printf(out, "%s%c", *p == '"' || *p == '\\' ? "\\" : "", *p);
	buf_append_byte(out, '"');
}

static void put(struct buf *out, const char *name, const char *value)
{
	AUTO_BUF struct buf text = BUF_INIT(SETTINGS_LINE_MAX);

	append_value(&text, value);
	buf_printf(out, "%s = ", name);
	put_quoted(out, buf_str(&text));
	buf_append_byte(out, '\n');
}

static int keep(char **kept, const char *value)
{
	free(*kept);
	*kept = strdup(value);
	return *kept ? 0 : -ENOMEM;
}

static void make_path(const struct settings_block *block, const char *name, char path[PATH_SIZE])
{
	const char *types[NAMES_MAX];
	size_t count = 0, len = 0;

	for (; block && count < NAMES_MAX; block = block->parent)
		types[count++] = block->type;
	path[0] = '\0';
	while (count-- > 0 && len < PATH_SIZE)
		len += (size_t)snprintf(path + len, PATH_SIZE - len, "%s/", types[count]);
	if (len < PATH_SIZE)
		snprintf(path + len, PATH_SIZE - len, "%s", name);
}

static bool in_static_userdb(const struct settings_block *block)
{
	return block && block->parent && strcmp(block->parent->type, "userdb") == 0 &&
	       strcmp(block->parent->title, "static") == 0;
}

static void put_special_use(struct buf *out, const char *mailbox, const char *uses)
{
	buf_append_str(out, "mailbox ");
	put_quoted(out, mailbox);
	buf_append_str(out, " {\n  special_use = ");
	put_quoted(out, uses);
	buf_append_str(out, "\n}\n");
}

static int on_value(void *ctx, const struct settings_block *block, const char *name,
		    const char *value, const struct settings_place *place, struct error *err)
{
	struct translation *t = ctx;
	char path[PATH_SIZE];
	int rc = 0;

	make_path(block, name, path);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (strcmp(names[i].from, path) == 0)
			put(t->out, names[i].to, value);
	}
	t->has_home |= strcmp(path, "mail_home") == 0;
	for (unsigned i = 0; i < PIECES && rc == 0; i++) {
		if (strcmp(pieces[i], path) == 0)
			rc = keep(&t->piece[i], value);
	}
	if (strcmp(path, "userdb/fields/home") == 0 && in_static_userdb(block) && !t->has_home)
		put(t->out, "mail_home", value);
	else if (strcmp(path, "namespace/inbox") == 0)
		t->inbox = strcmp(value, "yes") == 0;
	else if (strcmp(path, "namespace/mailbox/special_use") == 0)
		put_special_use(&t->mailboxes, block->title, value);
	else if (strcmp(path, "namespace/separator") == 0)
		rc = keep(&t->separator, value);
	else if (strcmp(path, "namespace/prefix") == 0)
		rc = keep(&t->prefix, value);
	else if (strcmp(path, "sieve_script/path") == 0)
		rc = keep(&t->sieve_path, value);
	else if (strcmp(path, "sieve_script/active_path") == 0)
		rc = keep(&t->sieve_active, value);
	else if (strcmp(path, "sieve_script/type") == 0)
		rc = keep(&t->sieve_type, value);
	return rc < 0 ? error_errno(err, rc, "settings") : 0;
}

static int on_begin(void *ctx, const struct settings_block *block,
		    const struct settings_place *place, struct error *err)
{
	return 0;
}

static void forget(char **text)
{
	free(*text);
	*text = NULL;
}

static void end_namespace(struct translation *t)
{
	if (t->inbox) {
		buf_append_str(t->out, "namespace inbox {\n  inbox = yes\n");
		if (t->separator)
			put(t->out, "separator", t->separator);
		if (t->prefix)
			put(t->out, "prefix", t->prefix);
		buf_append_str(t->out, buf_str(&t->mailboxes));
		buf_append_str(t->out, "}\n");
	} else if (t->prefix && t->prefix[0]) {
		buf_append_str(t->out, "namespace {\n");
		put(t->out, "prefix", t->prefix);
		buf_append_str(t->out, "}\n");
	}
	buf_clear(&t->mailboxes);
	t->inbox = false;
	forget(&t->separator);
	forget(&t->prefix);
}

static void end_script(struct translation *t)
{
	AUTO_BUF struct buf text = BUF_INIT(SETTINGS_LINE_MAX);
	bool personal = !t->sieve_type || strcmp(t->sieve_type, "personal") == 0;

	if (t->sieve_path && personal) {
		buf_printf(&text, "file:%s", t->sieve_path);
		if (t->sieve_active)
			buf_printf(&text, ";active=%s", t->sieve_active);
		put(t->out, "sieve", buf_str(&text));
	}
	forget(&t->sieve_path);
	forget(&t->sieve_active);
	forget(&t->sieve_type);
}

static int on_end(void *ctx, const struct settings_block *block, const struct settings_place *place,
		  struct error *err)
{
	if (strcmp(block->type, "namespace") == 0)
		end_namespace(ctx);
	else if (strcmp(block->type, "sieve_script") == 0)
		end_script(ctx);
	return 0;
}

/* 2.4 has no such references in what doveconf prints. */
static const char *on_lookup(void *ctx, const struct settings_block *block, const char *name)
{
	return "";
}

static bool on_wants_path(void *ctx, const struct settings_block *block, const char *name)
{
	return true;
}

static void on_warn(void *ctx, const struct settings_place *place, const char *text)
{
}

/* "maildir:~/Maildir:INDEX=...:LAYOUT=fs" */
static void put_location(struct translation *t)
{
	static const struct {
		enum piece piece;
		const char *option;
	} options[] = {{INDEX_PATH, "INDEX"}, {CONTROL_PATH, "CONTROL"},      {INBOX_PATH, "INBOX"},
		       {ALT_PATH, "ALT"},     {VOLATILE_PATH, "VOLATILEDIR"}, {LAYOUT, "LAYOUT"}};
	AUTO_BUF struct buf text = BUF_INIT(SETTINGS_LINE_MAX);

	if (!t->piece[DRIVER] || !t->piece[MAIL_PATH])
		return;
	buf_printf(&text, "%s:%s", t->piece[DRIVER], t->piece[MAIL_PATH]);
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		const char *value = t->piece[options[i].piece];

		if (value && value[0])
			buf_printf(&text, ":%s=%s", options[i].option, value);
	}
	put(t->out, "mail_location", buf_str(&text));
}

int dsync_doveconf_translate(const char *text, size_t len, const char *name, struct buf *out,
			     struct error *err)
{
	struct translation t = {.out = out, .mailboxes = BUF_INIT(MAILBOXES_MAX)};
	struct settings_handler handler = {
		.ctx = &t,
		.value = on_value,
		.begin = on_begin,
		.end = on_end,
		.lookup = on_lookup,
		.wants_path = on_wants_path,
		.warn = on_warn,
	};
	int rc = settings_text_read(text, len, name, &handler, err);

	put_location(&t);
	if (t.piece[DICT_PATH]) {
		AUTO_BUF struct buf dict = BUF_INIT(SETTINGS_LINE_MAX);

		buf_printf(&dict, "file:%s", t.piece[DICT_PATH]);
		put(out, "mail_attribute_dict", buf_str(&dict));
	}
	for (unsigned i = 0; i < PIECES; i++)
		free(t.piece[i]);
	t.inbox = false;
	end_namespace(&t);
	buf_free(&t.mailboxes);
	forget(&t.sieve_path);
	end_script(&t);
	if (rc == 0 && out->failed)
		rc = error_errno(err, out->failed, "%s", name);
	return rc;
}

/* ---- the program ---- */

static void exec_doveconf(const char *path, int out)
{
	if (dup2(out, STDOUT_FILENO) >= 0)
		execlp(PROGRAM, PROGRAM, "-c", path, "-n", "-P", (char *)NULL);
	_exit(NOT_FOUND);
}

/* Its output, and how it ended. */
static int run_doveconf(const char *path, struct buf *text, int *status_r, struct error *err)
{
	AUTO_CLOSE int read_fd = -1;
	int fds[2], rc;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_errno(err, -errno, "pipe");
	read_fd = fds[0];
	pid = fork();
	if (pid == 0)
		exec_doveconf(path, fds[1]);
	close(fds[1]);
	if (pid < 0)
		return error_errno(err, -errno, "fork");
	rc = file_read(read_fd, text);
	file_close(&read_fd);
	while (waitpid(pid, status_r, 0) < 0 && errno == EINTR)
		continue;
	return rc < 0 ? error_errno(err, rc, "output of " PROGRAM) : 0;
}

int dsync_doveconf_load(const char *path, const char *const *overrides, size_t override_count,
			unsigned flags, struct settings **set_r, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(SETTINGS_TOTAL_MAX);
	AUTO_BUF struct buf ours = BUF_INIT(SETTINGS_FILE_MAX);
	int status = 0, rc = run_doveconf(path, &text, &status, err);

	if (rc < 0)
		return rc;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return error_set(err, -EPROTONOSUPPORT,
				 "%s: this is a Dovecot 2.4 configuration, which is read by that "
				 "Dovecot's " PROGRAM ", and that %s",
				 path,
				 WIFEXITED(status) && WEXITSTATUS(status) == NOT_FOUND
					 ? "is not installed"
					 : "does not take it");
	rc = dsync_doveconf_translate(text.data ? text.data : "", text.len, path, &ours, err);
	if (rc == 0)
		rc = settings_load_text(buf_str(&ours), ours.len, path, overrides, override_count,
					flags, set_r, err);
	return rc;
}
