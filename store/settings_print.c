/* Settings as text, in the syntax of the file: what settings_parse() reads back as the same. See
 * settings.h. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/settings_private.h"

static bool needs_quotes(const char *value)
{
	size_t len = strlen(value);

	if (!len)
		return false;
	return strchr(value, '#') || strchr(value, '$') || strchr("\"'< \t", value[0]) ||
	       strchr(" \t\\", value[len - 1]);
}

void settings_append_quoted(struct buf *out, const char *value)
{
	if (!needs_quotes(value)) {
		buf_append_str(out, value);
		return;
	}
	buf_append_byte(out, '"');
	for (; *value; value++) {
		if (*value == '"' || *value == '\\')
			buf_append_byte(out, '\\');
		buf_append_byte(out, (unsigned char)*value);
	}
	buf_append_byte(out, '"');
}

static void print_line(struct buf *out, const char *indent, const char *name, const char *value)
{
	buf_printf(out, "%s%s = ", indent, name);
	settings_append_quoted(out, value);
	buf_append_byte(out, '\n');
}

/* The unit that leaves a whole number. */
static void print_size(struct buf *out, const char *name, unsigned bytes)
{
	if (bytes % (1U << 20) == 0)
		buf_printf(out, "%s = %u M\n", name, bytes >> 20);
	else if (bytes % (1U << 10) == 0)
		buf_printf(out, "%s = %u k\n", name, bytes >> 10);
	else
		buf_printf(out, "%s = %u\n", name, bytes);
}

static void print_secs(struct buf *out, const char *name, unsigned secs)
{
	static const struct {
		unsigned secs;
		const char *name;
	} units[] = {{604800, "weeks"}, {86400, "days"}, {3600, "hours"}, {60, "mins"}};

	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		if (secs && secs % units[i].secs == 0) {
			buf_printf(out, "%s = %u %s\n", name, secs / units[i].secs, units[i].name);
			return;
		}
	}
	buf_printf(out, secs ? "%s = %u secs\n" : "%s = %u\n", name, secs);
}

static void print_listen(struct buf *out, const struct settings *set)
{
	buf_append_str(out, "listen = ");
	for (size_t i = 0; i < set->listen_count; i++)
		buf_printf(out, "%s%s", i ? ", " : "", set->listen[i]);
	buf_append_byte(out, '\n');
}

static void print_quoted_path(struct buf *out, const char *name, const char *path)
{
	struct buf value = BUF_INIT(SETTINGS_LINE_MAX);

	buf_printf(&value, "<%s", path);
	print_line(out, "", name, buf_str(&value));
	buf_free(&value);
}

static void print_value(struct buf *out, const struct settings *set, const struct setting_def *def,
			bool secrets)
{
	const void *field = (const char *)set + def->offset;
	const char *text;

	switch (def->type) {
	case SETTING_TEXT:
	case SETTING_PATH:
		print_line(out, "", def->name, *(const char *const *)field);
		break;
	case SETTING_SECRET:
		text = *(const char *const *)field;
		if (!secrets && text[0])
			buf_printf(out, "%s = # hidden, use -P to show it\n", def->name);
		else
			print_line(out, "", def->name, text);
		break;
	case SETTING_FILE:
		text = *(const char *const *)field;
		/* In quotes only where it has to be: Dovecot reads a quoted one as text. */
		if (strchr(text, '#') || (text[0] && strchr(" \t\\", text[strlen(text) - 1])))
			print_quoted_path(out, def->name, text);
		else
			buf_printf(out, "%s = %s%s\n", def->name, text[0] ? "<" : "", text);
		break;
	case SETTING_BOOL:
		buf_printf(out, "%s = %s\n", def->name, *(const bool *)field ? "yes" : "no");
		break;
	case SETTING_NUMBER:
		buf_printf(out, "%s = %u\n", def->name, *(const unsigned *)field);
		break;
	case SETTING_PORT:
		buf_printf(out, "%s = %u\n", def->name, *(const uint16_t *)field);
		break;
	case SETTING_TIME:
		print_secs(out, def->name, *(const unsigned *)field);
		break;
	case SETTING_SIZE:
		print_size(out, def->name, *(const unsigned *)field);
		break;
	case SETTING_WORDS:
		print_listen(out, set);
		break;
	}
}

/* What the value would look like if nobody had set it. */
static bool is_default(const struct settings *set, const struct settings *defaults,
		       const struct setting_def *def)
{
	struct buf now = BUF_INIT(SETTINGS_LINE_MAX), then = BUF_INIT(SETTINGS_LINE_MAX);
	bool same;

	print_value(&now, set, def, true);
	print_value(&then, defaults, def, true);
	same = strcmp(buf_str(&now), buf_str(&then)) == 0;
	buf_free(&now);
	buf_free(&then);
	return same;
}

static void print_peers(struct buf *out, const struct settings *set)
{
	for (size_t i = 0; i < set->peer_count; i++) {
		if (i)
			buf_printf(out, "mail_replica%zu = ", i + 1);
		else
			buf_append_str(out, "mail_replica = ");
		settings_append_quoted(out, set->peers[i].address);
		buf_append_byte(out, '\n');
	}
}

static void print_special_uses(struct buf *out, const char *lines)
{
	while (*lines) {
		size_t uses = strcspn(lines, "\t"), len = strcspn(lines, "\n");
		AUTO_FREE char *attributes = strndup(lines, uses);
		AUTO_FREE char *mailbox = strndup(lines + uses + 1, len - uses - 1);

		lines += len + 1;
		if (!attributes || !mailbox)
			continue;
		buf_append_str(out, "  mailbox ");
		settings_append_quoted(out, mailbox);
		buf_append_str(out, " {\n");
		print_line(out, "    ", "special_use", attributes);
		buf_append_str(out, "  }\n");
	}
}

static void print_namespace(struct buf *out, const struct settings *set, bool only_set)
{
	char separator[2] = {set->separator, '\0'};

	if (only_set && !set->separator && !set->prefix[0] && !set->special_uses[0])
		return;
	buf_append_str(out, "namespace inbox {\n  inbox = yes\n");
	print_line(out, "  ", "separator", separator);
	print_line(out, "  ", "prefix", set->prefix);
	print_special_uses(out, set->special_uses);
	buf_append_str(out, "}\n");
}

static bool socket_is_default(const struct settings_socket *socket)
{
	return !socket->user[0] && !socket->group[0] && socket->mode == 0600;
}

static void print_socket(struct buf *out, const char *type, const char *name,
			 const struct settings_socket *socket)
{
	buf_printf(out, "  %s %s {\n", type, name);
	print_line(out, "    ", "user", socket->user);
	print_line(out, "    ", "group", socket->group);
	buf_printf(out, "    mode = 0%03o\n  }\n", (unsigned)socket->mode);
}

static void print_services(struct buf *out, const struct settings *set, bool only_set)
{
	if (!only_set || !socket_is_default(&set->notify_socket) ||
	    !socket_is_default(&set->notify_fifo)) {
		buf_append_str(out, "service aggregator {\n");
		print_socket(out, "unix_listener", "replication-notify", &set->notify_socket);
		print_socket(out, "fifo_listener", "replication-notify-fifo", &set->notify_fifo);
		buf_append_str(out, "}\n");
	}
	/* Always where it differs from doveadm_port; its addresses are those of listen. */
	if (!only_set || set->doveadm_port != set->doveadm_peer_port || set->doveadm_port)
		buf_printf(out,
			   "service doveadm {\n  inet_listener {\n    port = %u\n    ssl = %s\n  "
			   "}\n}\n",
			   set->doveadm_port, set->listen_ssl ? "yes" : "no");
	if (!only_set || !socket_is_default(&set->doveadm_socket)) {
		buf_append_str(out, "service replicator {\n");
		print_socket(out, "unix_listener", "replicator-doveadm", &set->doveadm_socket);
		buf_append_str(out, "}\n");
	}
}

int settings_print(const struct settings *set, bool secrets, bool only_set, struct buf *out)
{
	struct settings *defaults;
	int rc = settings_load(NULL, NULL, 0, SETTINGS_QUIET, &defaults, NULL);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < settings_table_count; i++) {
		if (!only_set || !is_default(set, defaults, &settings_table[i]))
			print_value(out, set, &settings_table[i], secrets);
	}
	settings_free(&defaults);
	print_peers(out, set);
	print_namespace(out, set, only_set);
	print_services(out, set, only_set);
	return out->failed;
}
