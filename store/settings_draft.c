/*
 * What each line of a settings file means: ours or meaningful here goes into the draft; Dovecot's
 * without a meaning here is named in one notice; what nobody knows is an error. The later line
 * wins. See settings_private.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/settings_private.h"
#include "store/special_use.h"

#define BLOCK_PATH_MAX 256
#define NAMES_MAX      20000 /* of variables and ignored names; no configuration comes near */
#define NOTICE_BYTES   1800

struct draft_name {
	UT_hash_handle hh;
	char *value; /* of a variable */
	char name[];
};

/* ---- sets of names ---- */

static struct draft_name *name_find(struct draft_name *set, const char *name)
{
	struct draft_name *found;

	HASH_FIND_STR(set, name, found);
	return found;
}

static struct draft_name *name_add(struct draft_name **set, const char *name)
{
	struct draft_name *entry = name_find(*set, name);

	if (entry || HASH_COUNT(*set) >= NAMES_MAX)
		return entry;
	entry = calloc(1, sizeof *entry + strlen(name) + 1);
	if (!entry)
		return NULL;
	memcpy(entry->name, name, strlen(name) + 1);
	HASH_ADD_STR(*set, name, entry);
	return entry;
}

static void names_free(struct draft_name **set)
{
	struct draft_name *entry, *next;

	HASH_ITER (hh, *set, entry, next) {
		HASH_DEL(*set, entry);
		free(entry->value);
		free(entry);
	}
}

static void raw_free(struct raw_value *raw)
{
	free(raw->text);
	raw->text = NULL;
}

static void userdb_free(struct raw_userdb *userdb)
{
	raw_free(&userdb->driver);
	raw_free(&userdb->args);
	raw_free(&userdb->default_fields);
	raw_free(&userdb->override_fields);
}

void settings_draft_free(struct settings_draft *draft)
{
	for (size_t i = 0; i < SETTINGS_TABLE_MAX; i++)
		raw_free(&draft->values[i]);
	for (size_t i = 0; i < SETTINGS_REPLICA_MAX; i++)
		raw_free(&draft->replicas[i]);
	for (size_t i = 0; i < RAW_SOCKETS; i++) {
		raw_free(&draft->sockets[i].user);
		raw_free(&draft->sockets[i].group);
		raw_free(&draft->sockets[i].mode);
	}
	raw_free(&draft->global_ssl);
	raw_free(&draft->listener.port);
	raw_free(&draft->listener.ssl);
	raw_free(&draft->listener.address);
	raw_free(&draft->current_listener.port);
	raw_free(&draft->current_listener.ssl);
	raw_free(&draft->current_listener.address);
	raw_free(&draft->inbox.separator);
	raw_free(&draft->inbox.prefix);
	raw_free(&draft->inbox.location);
	raw_free(&draft->current_namespace.separator);
	raw_free(&draft->current_namespace.prefix);
	raw_free(&draft->current_namespace.location);
	buf_free(&draft->inbox.special_uses);
	buf_free(&draft->other_prefixes);
	buf_free(&draft->current_namespace.special_uses);
	raw_free(&draft->user_fields);
	userdb_free(&draft->current_userdb);
	names_free(&draft->variables);
	names_free(&draft->ignored);
}

static int raw_set(struct raw_value *raw, const char *value, const struct settings_place *place,
		   struct error *err)
{
	char *copy;

	/* No value here has a reason for them, and they end up in logs, paths and protocols. */
	for (const char *p = value; *p; p++) {
		if ((unsigned char)*p < 0x20 && *p != '\t')
			return error_set(err, -EINVAL,
					 "the value has a control character or line break");
	}
	copy = strdup(value);
	if (!copy)
		return error_errno(err, -ENOMEM, "settings");
	free(raw->text);
	raw->text = copy;
	if (place->line)
		snprintf(raw->place, sizeof raw->place, "%s:%u", place->file, place->line);
	else
		snprintf(raw->place, sizeof raw->place, "%s", place->file);
	return 0;
}

int settings_raw_error(const struct raw_value *raw, const char *name, int code, struct error *err)
{
	const struct setting_def *def = settings_table_find(name);
	bool secret = def && def->type == SETTING_SECRET;
	const char *value = raw->text && !secret ? raw->text : "...";

	if (!raw->text)
		error_prefix(err, "%s", name);
	else
		error_prefix(err, "%s: %s = %.200s", raw->place, name, value);
	return code;
}

/* ---- where a line is ---- */

/* Blocks that only say for whom the settings in them are. */
static bool is_filter(const char *type)
{
	return strcmp(type, "protocol") == 0 || strcmp(type, "local") == 0 ||
	       strcmp(type, "remote") == 0 || strcmp(type, "local_name") == 0;
}

/* Dovecot's listener for dsync, and its client: what is said for them is said for us. */
static bool is_doveadm(const struct settings_block *filter)
{
	return strcmp(filter->type, "protocol") == 0 && strcmp(filter->title, "doveadm") == 0;
}

/* "service/inet_listener/port"; filters are left out, *filter_r is the outermost of them. */
static void make_path(const struct settings_block *block, const char *name,
		      const struct settings_block **filter_r, char path_r[BLOCK_PATH_MAX])
{
	const struct settings_block *chain[SETTINGS_DEPTH_MAX + 1];
	size_t count = 0, len = 0;

	*filter_r = NULL;
	path_r[0] = '\0';
	for (; block && count < SETTINGS_DEPTH_MAX; block = block->parent) {
		if (is_filter(block->type))
			*filter_r = block;
		else
			chain[count++] = block;
	}
	while (count-- > 0 && len < BLOCK_PATH_MAX) {
		int n = snprintf(path_r + len, BLOCK_PATH_MAX - len, "%s/", chain[count]->type);

		len += n > 0 ? (size_t)n : 0;
	}
	if (len < BLOCK_PATH_MAX)
		snprintf(path_r + len, BLOCK_PATH_MAX - len, "%s", name);
}

static bool in_block(const struct settings_block *block, const char *type, const char *title)
{
	return block && strcmp(block->type, type) == 0 &&
	       (!title || strcmp(block->title, title) == 0);
}

/* What holds names of the admin's own. */
static bool is_free_form(const char *path)
{
	static const char *const types[] = {"plugin/", "dict/", "environment/"};

	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
		if (strncmp(path, types[i], strlen(types[i])) == 0)
			return true;
	}
	/* metric, event_exporter and the like take filters and labels. */
	return strncmp(path, "metric/", 7) == 0 || strncmp(path, "event_exporter/", 15) == 0;
}

/* ---- what is ours ---- */

/* mail_replica is 0, mail_replica2 is 1, and so on; -1: neither. */
static int replica_index(const char *name)
{
	unsigned n;

	if (strncmp(name, "mail_replica", 12) != 0)
		return -1;
	if (name[12] == '\0')
		return 0;
	if (settings_parse_number(name + 12, 2, SETTINGS_REPLICA_MAX, &n, NULL) < 0 ||
	    name[12] == '0')
		return -1;
	return (int)n - 1;
}

static struct raw_value *find_ours(struct settings_draft *draft, const char *name)
{
	const struct setting_def *def = settings_table_find(name);
	int replica = replica_index(name);

	if (def)
		return &draft->values[def - settings_table];
	return replica >= 0 ? &draft->replicas[replica] : NULL;
}

static struct raw_socket *find_socket(struct settings_draft *draft,
				      const struct settings_block *block)
{
	static const struct {
		const char *service, *type, *name;
	} sockets[RAW_SOCKETS] = {
		[RAW_NOTIFY_SOCKET] = {"aggregator", "unix_listener", "replication-notify"},
		[RAW_NOTIFY_FIFO] = {"aggregator", "fifo_listener", "replication-notify-fifo"},
		[RAW_DOVEADM_SOCKET] = {"replicator", "unix_listener", "replicator-doveadm"},
	};

	for (size_t i = 0; i < RAW_SOCKETS; i++) {
		if (in_block(block, sockets[i].type, sockets[i].name) &&
		    in_block(block->parent, "service", sockets[i].service))
			return &draft->sockets[i];
	}
	return NULL;
}

static bool is_doveadm_listener(const struct settings_block *block)
{
	return in_block(block, "inet_listener", NULL) &&
	       in_block(block->parent, "service", "doveadm");
}

/* NULL: not a value of a block that means something here. */
static struct raw_value *find_in_block(struct settings_draft *draft,
				       const struct settings_block *block, const char *name)
{
	struct raw_socket *socket = find_socket(draft, block);

	if (socket) {
		return strcmp(name, "user") == 0    ? &socket->user
		       : strcmp(name, "group") == 0 ? &socket->group
		       : strcmp(name, "mode") == 0  ? &socket->mode
						    : NULL;
	}
	if (is_doveadm_listener(block)) {
		struct raw_listener *listener = &draft->current_listener;

		return strcmp(name, "port") == 0      ? &listener->port
		       : strcmp(name, "ssl") == 0     ? &listener->ssl
		       : strcmp(name, "address") == 0 ? &listener->address
						      : NULL;
	}
	if (in_block(block, "namespace", NULL) && !block->parent) {
		struct raw_namespace *ns = &draft->current_namespace;

		return strcmp(name, "separator") == 0  ? &ns->separator
		       : strcmp(name, "prefix") == 0   ? &ns->prefix
		       : strcmp(name, "location") == 0 ? &ns->location
						       : NULL;
	}
	if (in_block(block, "userdb", NULL) && !block->parent) {
		struct raw_userdb *userdb = &draft->current_userdb;

		return strcmp(name, "driver") == 0	      ? &userdb->driver
		       : strcmp(name, "args") == 0	      ? &userdb->args
		       : strcmp(name, "default_fields") == 0  ? &userdb->default_fields
		       : strcmp(name, "override_fields") == 0 ? &userdb->override_fields
							      : NULL;
	}
	return NULL;
}

/* ---- what is not ---- */

static void ignore(struct settings_draft *draft, const char *name)
{
	/* Out of memory costs the name in a notice. */
	(void)name_add(&draft->ignored, name);
}

/* path: of a setting, or with a '/' at its end of a block. */
static int unknown(const char *path, struct error *err)
{
	const char *nearest = settings_nearest(path), *name = path;
	size_t len = strlen(path);
	bool is_block = len && path[len - 1] == '/';
	const char *what = is_block ? "block" : "setting";

	for (size_t i = 0; i + is_block < len; i++) {
		if (path[i] == '/')
			name = path + i + 1;
	}
	len -= (size_t)(name - path) + is_block;
	if (nearest)
		return error_set(err, -EINVAL, "unknown %s '%.*s'; did you mean '%.*s'?", what,
				 (int)len, name, (int)strcspn(nearest, "/"), nearest);
	return error_set(err, -EINVAL, "unknown %s '%.*s'", what, (int)len, name);
}

static int is_24(const char *name, struct error *err)
{
	return error_set(err, -EPROTONOSUPPORT,
			 "%s: this is a Dovecot 2.4 configuration; settings have to be in the "
			 "syntax of Dovecot 2.3 so far",
			 name);
}

/* A plugin's settings are whatever the plugin wants; but one that is nearly ours is a mistake. */
static int ignore_plugin(struct settings_draft *draft, const char *path, struct error *err)
{
	const char *name = strchr(path, '/') + 1, *nearest;

	if (settings_dovecot_find(path) == SETTINGS_DOVECOT_NO) {
		nearest = settings_nearest(name);
		if (nearest && (settings_table_find(nearest) || replica_index(nearest) >= 0))
			return unknown(name, err);
	}
	ignore(draft, path);
	return 0;
}

static int ignore_value(struct settings_draft *draft, const struct settings_block *block,
			const char *path, struct error *err)
{
	char name[BLOCK_PATH_MAX];

	if (strncmp(path, "plugin/", 7) == 0)
		return ignore_plugin(draft, path, err);
	if (!is_free_form(path)) {
		switch (settings_dovecot_find(path)) {
		case SETTINGS_DOVECOT_NO:
			return unknown(path, err);
		case SETTINGS_DOVECOT_24:
			return is_24(path, err);
		case SETTINGS_DOVECOT_23:
			break;
		}
	}
	/* Of a block, the block is named. */
	if (!block) {
		ignore(draft, path);
		return 0;
	}
	while (block->parent)
		block = block->parent;
	snprintf(name, sizeof name, "%s%s%s", block->type, block->title[0] ? " " : "",
		 block->title);
	ignore(draft, name);
	return 0;
}

static int remember_variable(struct settings_draft *draft, const char *path, const char *value,
			     struct error *err)
{
	struct draft_name *variable = name_add(&draft->variables, path);
	char *copy = variable ? strdup(value) : NULL;

	if (!copy)
		return error_set(err, -EINVAL, "too many settings");
	free(variable->value);
	variable->value = copy;
	return 0;
}

/* ---- the handler ---- */

static int on_value(void *ctx, const struct settings_block *block, const char *name,
		    const char *value, const struct settings_place *place, struct error *err)
{
	struct settings_draft *draft = ctx;
	const struct settings_block *filter;
	struct raw_value *raw = NULL;
	char path[BLOCK_PATH_MAX];
	const char *own_name;
	int rc;

	make_path(block, name, &filter, path);
	own_name = strncmp(path, "plugin/", 7) == 0 ? path + 7 : path;
	rc = remember_variable(draft, path, value, err);
	if (rc < 0)
		return rc;
	if (!strchr(own_name, '/'))
		raw = find_ours(draft, own_name);
	if (raw && filter && is_doveadm(filter)) {
		raw->by_protocol = true;
		return raw_set(raw, value, place, err);
	}
	if (raw && filter) {
		/* The same name for others. */
		log_at(draft->flags & SETTINGS_QUIET ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
		       "%s:%u: %s inside %s %s { } is not used here", place->file, place->line,
		       name, filter->type, filter->title);
		return 0;
	}
	if (raw)
		return raw->by_protocol ? 0 : raw_set(raw, value, place, err);
	if (strcmp(path, "ssl") == 0 && !filter)
		return raw_set(&draft->global_ssl, value, place, err);
	if (strcmp(path, "namespace/inbox") == 0 && !filter) {
		rc = settings_parse_bool(value, &draft->current_namespace.inbox, err);
		if (rc < 0)
			error_prefix(err, "inbox = %.20s", value);
		return rc;
	}
	if (strcmp(path, "namespace/mailbox/special_use") == 0 && !filter)
		return special_use_add(&draft->current_namespace.special_uses, value,
				       block->title) < 0
			       ? error_set(err, -EINVAL, "special_use of mailbox %.100s",
					   block->title)
			       : 0;
	raw = filter || !block ? NULL : find_in_block(draft, block, name);
	if (raw)
		return raw_set(raw, value, place, err);
	return ignore_value(draft, block, path, err);
}

static int on_begin(void *ctx, const struct settings_block *block,
		    const struct settings_place *place, struct error *err)
{
	struct settings_draft *draft = ctx;
	const struct settings_block *filter;
	char path[BLOCK_PATH_MAX], type[BLOCK_PATH_MAX];

	snprintf(type, sizeof type, "%s/", block->type);
	make_path(block->parent, type, &filter, path);
	if (!is_free_form(path) && !is_filter(block->type)) {
		switch (settings_dovecot_find(path)) {
		case SETTINGS_DOVECOT_NO:
			return unknown(path, err);
		case SETTINGS_DOVECOT_24:
			return is_24(path, err);
		case SETTINGS_DOVECOT_23:
			break;
		}
	}
	if (strcmp(path, "namespace/") == 0)
		draft->current_namespace.inbox = false;
	return 0;
}

static void raw_move(struct raw_value *to, struct raw_value *from)
{
	if (!from->text)
		return;
	raw_free(to);
	*to = *from;
	from->text = NULL;
}

/* A port of 0 closes a listener, as in Dovecot. */
static void end_listener(struct settings_draft *draft)
{
	draft->listener.seen = true;
	raw_move(&draft->listener.port, &draft->current_listener.port);
	raw_move(&draft->listener.ssl, &draft->current_listener.ssl);
	raw_move(&draft->listener.address, &draft->current_listener.address);
}

/* Only the namespace that holds the INBOX is replicated. */
static void end_namespace(struct settings_draft *draft, const struct settings_block *block,
			  const struct settings_place *place)
{
	struct raw_namespace *ns = &draft->current_namespace;
	bool known = draft->inbox.inbox && strcmp(draft->inbox.title, block->title) == 0;
	bool elsewhere = ns->location.text && ns->location.text[0];

	if (ns->inbox || known) {
		draft->inbox.inbox = true;
		snprintf(draft->inbox.title, sizeof draft->inbox.title, "%s", block->title);
		raw_move(&draft->inbox.separator, &ns->separator);
		raw_move(&draft->inbox.prefix, &ns->prefix);
		raw_move(&draft->inbox.location, &ns->location);
		buf_append_str(&draft->inbox.special_uses, buf_str(&ns->special_uses));
	} else if (ns->prefix.text && ns->prefix.text[0]) {
		buf_printf(&draft->other_prefixes, "%s\n", ns->prefix.text);
	}
	if (!ns->inbox && !known && elsewhere && !(draft->flags & SETTINGS_QUIET)) {
		log_warning("%s:%u: namespace %s with a location of its own is not replicated",
			    place->file, place->line, block->title);
	}
	raw_free(&ns->separator);
	raw_free(&ns->prefix);
	raw_free(&ns->location);
	buf_clear(&ns->special_uses);
	ns->inbox = false;
}

/* What a file or a database says of each user is not asked for. */
static void end_userdb(struct settings_draft *draft)
{
	struct raw_userdb *userdb = &draft->current_userdb;
	bool is_static = userdb->driver.text && strcmp(userdb->driver.text, "static") == 0;
	struct raw_value *fields = userdb->override_fields.text ? &userdb->override_fields
				   : is_static			? &userdb->args
								: &userdb->default_fields;

	if (!draft->user_fields.text)
		raw_move(&draft->user_fields, fields);
	userdb_free(userdb);
}

static int on_end(void *ctx, const struct settings_block *block, const struct settings_place *place,
		  struct error *err)
{
	struct settings_draft *draft = ctx;

	if (is_doveadm_listener(block))
		end_listener(draft);
	else if (in_block(block, "namespace", NULL) && !block->parent)
		end_namespace(draft, block, place);
	else if (in_block(block, "userdb", NULL) && !block->parent)
		end_userdb(draft);
	return 0;
}

/* Defaults of Dovecot that other settings refer to. */
static const char *dovecot_default(const char *name)
{
	static const char *const defaults[][2] = {
		{"default_internal_user", "dovecot"}, {"default_internal_group", "dovecot"},
		{"default_login_user", "dovenull"},   {"default_client_limit", "1000"},
		{"default_process_limit", "100"},     {"default_vsz_limit", "256M"}};

	for (size_t i = 0; i < sizeof defaults / sizeof defaults[0]; i++) {
		if (strcmp(defaults[i][0], name) == 0)
			return defaults[i][1];
	}
	return NULL;
}

/* From the block outwards; then the defaults. */
static const char *on_lookup(void *ctx, const struct settings_block *block, const char *name)
{
	struct settings_draft *draft = ctx;
	const struct settings_block *filter;
	const struct setting_def *def;
	const char *value;

	for (;;) {
		char path[BLOCK_PATH_MAX];
		const struct draft_name *found;

		make_path(block, name, &filter, path);
		found = name_find(draft->variables, path);
		if (found)
			return found->value;
		if (!block)
			break;
		block = block->parent;
	}
	value = dovecot_default(name);
	if (value)
		return value;
	def = settings_table_find(name);
	if (def)
		return def->value;
	/* Dovecot knows it, and nobody has set it: most such are empty. */
	return settings_dovecot_find(name) == SETTINGS_DOVECOT_23 ? "" : NULL;
}

static bool on_wants_path(void *ctx, const struct settings_block *block, const char *name)
{
	const struct setting_def *def = settings_table_find(name);

	/* The content of other certificates means nothing here, and a key that cannot be read is
	   no mistake of ours. */
	return (def && def->type == SETTING_FILE) || (!def && replica_index(name) < 0);
}

static void on_warn(void *ctx, const struct settings_place *place, const char *text)
{
	const struct settings_draft *draft = ctx;

	if (!(draft->flags & SETTINGS_QUIET))
		log_warning("%s:%u: %s", place->file, place->line, text);
}

const struct settings_handler settings_draft_handler = {
	.value = on_value,
	.begin = on_begin,
	.end = on_end,
	.lookup = on_lookup,
	.wants_path = on_wants_path,
	.warn = on_warn,
};

/* ---- beside the file ---- */

int settings_draft_override(struct settings_draft *draft, const char *text, struct error *err)
{
	struct settings_place place = {.file = "command line"};
	const char *equals = strchr(text, '=');
	char name[BLOCK_PATH_MAX];
	struct raw_value *raw;

	if (!equals || equals == text || equals - text >= BLOCK_PATH_MAX)
		return error_set(err, -EINVAL, "-o %.100s: not name=value", text);
	snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
	if (strncmp(name, "plugin/", 7) == 0)
		memmove(name, name + 7, strlen(name + 7) + 1);
	raw = find_ours(draft, name);
	if (raw) {
		int rc = raw_set(raw, equals + 1, &place, err);

		if (rc < 0)
			error_prefix(err, "-o %s", name);
		return rc;
	}
	/* Dovecot's, without a meaning here: taken, as in a file. */
	if (settings_dovecot_find(name) == SETTINGS_DOVECOT_23)
		return 0;
	unknown(name, err);
	error_prefix(err, "-o %s", name);
	return -EINVAL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void settings_draft_notice(const struct settings_draft *draft, const char *file)
{
	unsigned count = HASH_COUNT(draft->ignored);
	AUTO_FREE const char **names = count ? calloc(count, sizeof *names) : NULL;
	AUTO_BUF struct buf text = BUF_INIT(NOTICE_BYTES);
	struct draft_name *entry, *next;
	unsigned n = 0, shown = 0;

	if (!names || draft->flags & SETTINGS_QUIET)
		return;
	HASH_ITER (hh, draft->ignored, entry, next) {
		names[n++] = entry->name;
	}
	qsort(names, n, sizeof *names, by_name);
	for (; shown < n && text.len + strlen(names[shown]) + 32 < NOTICE_BYTES; shown++)
		buf_printf(&text, "%s%s", shown ? ", " : "", names[shown]);
	if (shown < n)
		buf_printf(&text, " and %u more", n - shown);
	log_notice("%s: Dovecot's settings without a meaning here: %s", file, buf_str(&text));
}
