/* From a draft to settings: defaults, types, and what settings demand of each other. See settings.h
 * and settings_private.h. */
#include <assert.h>
#include "store/settings.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/mail_home.h"
#include "store/mail_location.h"
#include "store/mail_variables.h"
#include "store/settings_private.h"

#define LISTEN_MAX 64

/* The struct that callers see, and what its strings lie in. */
struct settings_chunk {
	struct settings_chunk *next;
	char text[];
};

struct settings_owner {
	struct settings set; /* first: a pointer to it is one to the owner */
	struct settings_chunk *chunks;
	struct settings_peer peers[SETTINGS_REPLICA_MAX];
	const char *listen[LISTEN_MAX];
};

void settings_free(struct settings **set)
{
	struct settings_owner *owner = (struct settings_owner *)*set;

	*set = NULL;
	while (owner && owner->chunks) {
		struct settings_chunk *chunk = owner->chunks;

		owner->chunks = chunk->next;
		free(chunk);
	}
	free(owner);
}

static const char *keep(struct settings_owner *owner, const char *text, size_t len)
{
	struct settings_chunk *chunk = malloc(sizeof *chunk + len + 1);

	if (!chunk)
		return NULL;
	memcpy(chunk->text, text, len);
	chunk->text[len] = '\0';
	chunk->next = owner->chunks;
	owner->chunks = chunk;
	return chunk->text;
}

static int keep_str(struct settings_owner *owner, const char *text, const char **kept_r,
		    struct error *err)
{
	*kept_r = keep(owner, text, strlen(text));
	return *kept_r ? 0 : error_errno(err, -ENOMEM, "settings");
}

/* ---- one value of the table ---- */

static int keep_path(struct settings_owner *owner, const char *text, const char **kept_r,
		     struct error *err)
{
	AUTO_BUF struct buf path = BUF_INIT(PATH_MAX);
	int rc = settings_parse_path(text, &path, err);

	return rc < 0 ? rc : keep_str(owner, buf_str(&path), kept_r, err);
}

static bool is_address(const char *text)
{
	struct in_addr in;
	struct in6_addr in6;

	return inet_pton(AF_INET, text, &in) == 1 || inet_pton(AF_INET6, text, &in6) == 1;
}

/* "*, ::" or "[::1], 10.0.0.1, mx1.example.org". */
static int keep_listen(struct settings_owner *owner, const char *text, struct error *err)
{
	struct settings *set = &owner->set;

	set->listen = owner->listen;
	set->listen_count = 0;
	for (const char *p = text;;) {
		size_t len;
		const char *word;

		p += strspn(p, ", \t");
		len = strcspn(p, ", \t");
		if (!len)
			return 0;
		if (set->listen_count == LISTEN_MAX)
			return error_set(err, -EINVAL, "has too many addresses");
		word = p[0] == '[' && p[len - 1] == ']' && len > 2 ? keep(owner, p + 1, len - 2)
								   : keep(owner, p, len);
		if (!word)
			return error_errno(err, -ENOMEM, "settings");
		if (strcmp(word, "*") != 0 && !is_address(word) &&
		    (strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				  ".-") != strlen(word)))
			return error_set(err, -EINVAL, "'%.64s' is no address and no host name",
					 word);
		owner->listen[set->listen_count++] = word;
		p += len;
	}
}

static int keep_value(struct settings_owner *owner, const struct setting_def *def, const char *text,
		      struct error *err)
{
	void *field = (char *)&owner->set + def->offset;
	unsigned port;
	int rc;

	switch (def->type) {
	case SETTING_TEXT:
	case SETTING_SECRET:
		return keep_str(owner, text, field, err);
	case SETTING_FILE:
		return keep_str(owner, text[0] == '<' ? text + 1 : text, field, err);
	case SETTING_PATH:
		return keep_path(owner, text, field, err);
	case SETTING_BOOL:
		return settings_parse_bool(text, field, err);
	case SETTING_NUMBER:
		return settings_parse_number(text, def->min, def->max, field, err);
	case SETTING_PORT:
		rc = settings_parse_number(text, def->min, def->max, &port, err);
		*(uint16_t *)field = (uint16_t)(rc == 0 ? port : 0);
		return rc;
	case SETTING_TIME: {
		unsigned *secs = field;

		rc = settings_parse_secs(text, def->max, secs, err);
		if (rc == 0 && *secs < def->min)
			rc = error_set(err, -EINVAL, "is too short (at least %u s)", def->min);
		return rc;
	}
	case SETTING_SIZE: {
		uint64_t bytes;

		rc = settings_parse_size(text, def->max, &bytes, err);
		if (rc == 0 && bytes < def->min)
			rc = error_set(err, -EINVAL, "is too small (at least %u)", def->min);
		*(unsigned *)field = (unsigned)(rc == 0 ? bytes : 0);
		return rc;
	}
	case SETTING_WORDS:
		return keep_listen(owner, text, err);
	}
	return -EINVAL;
}

static int keep_table(struct settings_owner *owner, const struct settings_draft *draft,
		      struct error *err)
{
	for (size_t i = 0; i < settings_table_count; i++) {
		const struct setting_def *def = &settings_table[i];
		const struct raw_value *raw = &draft->values[i];
		int rc = keep_value(owner, def, raw->text ? raw->text : def->value, err);

		if (rc < 0)
			return settings_raw_error(raw, def->name, rc, err);
	}
	return 0;
}

static const struct raw_value *raw_of(const struct settings_draft *draft, const char *name)
{
	return &draft->values[settings_table_find(name) - settings_table];
}

/* The end of a check: puts the setting's place in front of the reason. */
static int refuse(const struct settings_draft *draft, const char *name, int rc, struct error *err)
{
	return rc < 0 ? settings_raw_error(raw_of(draft, name), name, rc, err) : 0;
}

/* ---- mail_root and mail_home ---- */

/* What of mail_home comes before its first variable, without the last name if that is cut. */
static int root_from_home(struct settings_owner *owner, struct error *err)
{
	struct settings *set = &owner->set;
	size_t len = strcspn(set->mail_home, "%");

	while (len > 1 && set->mail_home[len - 1] != '/')
		len--;
	if (len <= 1)
		return 0; /* the check of mail_home says what is wrong */
	set->mail_root = keep(owner, set->mail_home, len - 1);
	return set->mail_root ? 0 : error_errno(err, -ENOMEM, "settings");
}

static int check_home(struct settings_owner *owner, const struct settings_draft *draft,
		      struct error *err)
{
	struct settings *set = &owner->set;
	size_t root_len;
	int rc = 0;

	assert(set->mail_home && set->mail_root);
	if (strcmp(set->mail_root, "/") == 0)
		return refuse(draft, "mail_root",
			      error_set(err, -EINVAL, "is everything: name the users' directory"),
			      err);
	if (!set->mail_home[0]) {
		AUTO_BUF struct buf home = BUF_INIT(PATH_MAX);

		buf_printf(&home, "%s/%%d/%%n", set->mail_root);
		return keep_str(owner, buf_str(&home), &set->mail_home, err);
	}
	rc = keep_path(owner, set->mail_home, &set->mail_home, err);
	if (rc == 0 && !raw_of(draft, "mail_root")->text)
		rc = root_from_home(owner, err);
	if (rc < 0)
		return refuse(draft, "mail_home", rc, err);
	root_len = strlen(set->mail_root);
	if (strncmp(set->mail_home, set->mail_root, root_len) != 0 ||
	    set->mail_home[root_len] != '/')
		rc = error_set(err, -EINVAL, "is not below mail_root (%s)", set->mail_root);
	if (rc == 0)
		rc = mail_home_check(set->mail_home + root_len + 1, err);
	return refuse(draft, "mail_home", rc, err);
}

static int check_location(struct settings_owner *owner, const struct settings_draft *draft,
			  struct error *err)
{
	struct mail_variables variables = {.user = "user@example.org", .home = "/home"};
	AUTO_BUF struct buf text = BUF_INIT(2 * PATH_MAX);
	struct mail_location location;
	int rc;

	/* The inbox namespace's own location is the one that counts. */
	if (draft->inbox.location.text && draft->inbox.location.text[0]) {
		rc = keep_str(owner, draft->inbox.location.text, &owner->set.mail_location, err);
		if (rc < 0)
			return rc;
	}
	if (!owner->set.mail_location[0])
		return 0;
	rc = mail_variables_expand(owner->set.mail_location, &variables, &text, err);
	if (rc == 0)
		rc = mail_location_parse(buf_str(&text), "/home", &location, err);
	if (rc == 0)
		mail_location_free(&location);
	return refuse(draft, "mail_location", rc, err);
}

static int check_storing(struct settings_owner *owner, const struct settings_draft *draft,
			 struct error *err)
{
	enum compress_method method;
	int rc = compress_method_find(owner->set.zlib_save, &method);

	if (rc < 0)
		error_set(err, rc, "is none of gz, bz2, zstd and lz4");
	return refuse(draft, "zlib_save", rc, err);
}

static int check_namespace(struct settings_owner *owner, const struct settings_draft *draft,
			   struct error *err)
{
	const struct raw_namespace *ns = &draft->inbox;
	const char *separator = ns->separator.text ? ns->separator.text : "";

	if (strlen(separator) > 1 || separator[0] == '"' || (separator[0] & 0x80))
		return settings_raw_error(&ns->separator, "separator",
					  error_set(err, -EINVAL, "is not one character"), err);
	if (ns->special_uses.failed || draft->other_prefixes.failed)
		return error_set(err, -EINVAL, "the namespaces say too much to be kept");
	int rc = keep_str(owner, buf_str(&ns->special_uses), &owner->set.special_uses, err);

	if (rc == 0)
		rc = keep_str(owner, buf_str(&draft->other_prefixes), &owner->set.other_prefixes,
			      err);
	owner->set.separator = separator[0];
	return rc < 0 ? rc
		      : keep_str(owner, ns->prefix.text ? ns->prefix.text : "", &owner->set.prefix,
				 err);
}

/* ---- peers and the listener ---- */

static int keep_peer(struct settings_owner *owner, const char *text, unsigned flags,
		     struct error *err)
{
	bool one_sync = flags & SETTINGS_ONE_SYNC;
	struct settings *set = &owner->set;
	struct settings_peer *peer = &owner->peers[set->peer_count];
	AUTO_BUF struct buf strings = BUF_INIT(1024);
	struct settings_peer_text parts;
	int rc = settings_parse_peer(text, &parts, &strings, err);

	if (rc < 0)
		return rc;
	if (set->peer_count > 0 && !one_sync)
		return error_set(err, -EINVAL, "more than one peer is not built yet");
	peer->transport = parts.transport;
	peer->port = parts.port		      ? parts.port
		     : set->doveadm_peer_port ? set->doveadm_peer_port
					      : SETTINGS_DOVEADM_PORT;
	rc = keep_str(owner, text, &peer->address, err);
	if (rc == 0)
		rc = keep_str(owner, strings.data + parts.login, &peer->login, err);
	if (rc == 0)
		rc = keep_str(owner, strings.data + parts.host, &peer->host, err);
	set->peer_count++;
	return rc;
}

static int keep_peers(struct settings_owner *owner, const struct settings_draft *draft,
		      struct error *err)
{
	owner->set.peers = owner->peers;
	for (unsigned i = 0; i < SETTINGS_REPLICA_MAX; i++) {
		const struct raw_value *raw = &draft->replicas[i];
		char name[32];
		int rc;

		/* Empty switches replication off, as in Dovecot. */
		if (!raw->text || !raw->text[0])
			continue;
		rc = keep_peer(owner, raw->text, draft->flags, err);
		if (rc < 0) {
			if (i)
				snprintf(name, sizeof name, "mail_replica%u", i + 1);
			else
				snprintf(name, sizeof name, "mail_replica");
			return settings_raw_error(raw, name, rc, err);
		}
	}
	return 0;
}

static int keep_listener(struct settings_owner *owner, const struct settings_draft *draft,
			 struct error *err)
{
	const struct raw_listener *listener = &draft->listener;
	const struct raw_value *ssl = listener->seen ? &listener->ssl : &draft->global_ssl;
	struct settings *set = &owner->set;
	unsigned port = set->doveadm_peer_port;
	int rc = 0;

	if (listener->seen && listener->port.text) {
		rc = settings_parse_number(listener->port.text, 0, 65535, &port, err);
		if (rc < 0)
			return settings_raw_error(&listener->port, "port", rc, err);
	}
	set->doveadm_port = (uint16_t)port;
	if (listener->address.text && listener->address.text[0]) {
		rc = keep_listen(owner, listener->address.text, err);
		if (rc < 0)
			return settings_raw_error(&listener->address, "address", rc, err);
	}
	if (!port || !ssl->text || draft->flags & SETTINGS_ONE_SYNC)
		return 0;
	/* The global one also knows "required". */
	if (ssl == &draft->global_ssl && strcmp(ssl->text, "required") == 0)
		set->listen_ssl = true;
	else
		rc = settings_parse_bool(ssl->text, &set->listen_ssl, err);
	if (rc == 0 && set->listen_ssl && (!set->ssl_cert[0] || !set->ssl_key[0]))
		rc = error_set(err, -EINVAL, "makes port %u speak TLS, but %s is not set%s", port,
			       set->ssl_cert[0] ? "ssl_key" : "ssl_cert",
			       listener->seen ? ""
					      : ": set it, or give the port in service doveadm { "
						"inet_listener { port = ... } }, which speaks "
						"plainly");
	return rc < 0 ? settings_raw_error(ssl, "ssl", rc, err) : 0;
}

static int keep_socket(struct settings_owner *owner, const struct raw_socket *raw,
		       struct settings_socket *socket_r, struct error *err)
{
	int rc = keep_str(owner, raw->user.text ? raw->user.text : "", &socket_r->user, err);

	if (rc == 0)
		rc = keep_str(owner, raw->group.text ? raw->group.text : "", &socket_r->group, err);
	socket_r->mode = 0600;
	if (rc < 0 || !raw->mode.text)
		return rc;
	rc = settings_parse_mode(raw->mode.text, &socket_r->mode, err);
	return rc < 0 ? settings_raw_error(&raw->mode, "mode", rc, err) : 0;
}

static int keep_sockets(struct settings_owner *owner, const struct settings_draft *draft,
			struct error *err)
{
	struct settings *set = &owner->set;
	int rc = keep_socket(owner, &draft->sockets[RAW_NOTIFY_SOCKET], &set->notify_socket, err);

	if (rc == 0)
		rc = keep_socket(owner, &draft->sockets[RAW_NOTIFY_FIFO], &set->notify_fifo, err);
	if (rc == 0)
		rc = keep_socket(owner, &draft->sockets[RAW_DOVEADM_SOCKET], &set->doveadm_socket,
				 err);
	return rc;
}

/* ---- what is not built, or not safe ---- */

/* Options of `doveadm sync` that say what a sync here does anyway. */
static int check_dsync_parameters(const char *text, struct error *err)
{
	while (*(text += strspn(text, " \t"))) {
		size_t len = strcspn(text, " \t");
		bool takes_value = len == 2 && (text[1] == 'l' || text[1] == 'T');

		if (len != 2 || text[0] != '-' || !strchr("dNUlTE", text[1]))
			return error_set(
				err, -EINVAL,
				"%.*s is not built yet: only -d, -N, -U, -E, -l SECS and -T "
				"SECS",
				(int)len, text);
		text += len;
		if (takes_value) {
			text += strspn(text, " \t");
			len = strcspn(text, " \t");
			if (!len || strspn(text, "0123456789") != len)
				return error_set(err, -EINVAL,
						 "-l and -T need a number behind them");
			text += len;
		}
	}
	return 0;
}

static int check(const struct settings *set, const struct settings_draft *draft, struct error *err)
{
	size_t root_len = strlen(set->mail_root);
	int rc = 0;

	if (draft->flags & SETTINGS_ONE_SYNC)
		return 0;
	/* Dovecot's replication plugin, which has the setting from Dovecot, waits at our socket. */
	if (set->replication_sync_timeout_secs && !(draft->flags & SETTINGS_QUIET))
		log_notice(
			"replication_sync_timeout: deliveries by Dovecot's replication plugin wait "
			"so long (its own setting says it), others do not wait");
	rc = check_dsync_parameters(set->replication_dsync_parameters, err);
	if (rc < 0)
		return refuse(draft, "replication_dsync_parameters", rc, err);
	if (strcmp(set->ssl_min_protocol, "TLSv1.2") != 0 &&
	    strcmp(set->ssl_min_protocol, "TLSv1.3") != 0 &&
	    strcmp(set->ssl_min_protocol, "TLSv1") != 0 &&
	    strcmp(set->ssl_min_protocol, "TLSv1.1") != 0 &&
	    strcmp(set->ssl_min_protocol, "ANY") != 0 &&
	    strcmp(set->ssl_min_protocol, "LATEST") != 0)
		return refuse(draft, "ssl_min_protocol",
			      error_set(err, -EINVAL, "is neither TLSv1.2 nor TLSv1.3"), err);
	if (strncmp(set->state_dir, set->mail_root, root_len) == 0 &&
	    (set->state_dir[root_len] == '/' || set->state_dir[root_len] == '\0'))
		return refuse(draft, "state_dir",
			      error_set(err, -EINVAL,
					"lies inside mail_root (%s), whose changes it records",
					set->mail_root),
			      err);
	if (set->doveadm_port && !set->doveadm_password[0] && !(draft->flags & SETTINGS_QUIET))
		log_warning(
			"port %u is open, but doveadm_password is empty: no peer will be let in",
			set->doveadm_port);
	return 0;
}

/* ---- what a userdb says of every user ---- */

/* "home=" in "uid=vmail home=/x/%n"; malloc'ed, NULL: not there. */
static char *user_field(const char *fields, const char *name)
{
	size_t len = strlen(name);

	while (*fields) {
		size_t size;

		fields += strspn(fields, " \t");
		size = strcspn(fields, " \t");
		if (size > len && strncmp(fields, name, len) == 0 && fields[len] == '=')
			return strndup(fields + len + 1, size - len - 1);
		fields += size;
	}
	return NULL;
}

/* One that mail_home could be: it tells users apart, below mail_root. */
static bool is_home(const struct settings_draft *draft, const char *home)
{
	const char *root = raw_of(draft, "mail_root")->text;
	size_t len = root ? strlen(root) : strcspn(home, "%");

	while (!root && len > 0 && home[len - 1] != '/')
		len--;
	if (!root && len > 0)
		len--;
	return home[0] == '/' && len > 0 && strlen(home) > len && home[len] == '/' &&
	       (!root || strncmp(home, root, len) == 0) &&
	       mail_home_check(home + len + 1, NULL) == 0;
}

static void take_user_field(struct settings_draft *draft, const char *name, const char *setting)
{
	struct raw_value *raw = &draft->values[settings_table_find(setting) - settings_table];
	char *value = user_field(draft->user_fields.text, name);

	if (!value || raw->text || (strcmp(name, "home") == 0 && !is_home(draft, value))) {
		free(value);
		return;
	}
	raw->text = value;
	snprintf(raw->place, sizeof raw->place, "%s", draft->user_fields.place);
}

/* Settings of our own name are stronger. */
static void take_user_fields(struct settings_draft *draft)
{
	if (!draft->user_fields.text)
		return;
	take_user_field(draft, "home", "mail_home");
	take_user_field(draft, "uid", "mail_uid");
	take_user_field(draft, "gid", "mail_gid");
}

static int build(struct settings_owner *owner, const struct settings_draft *draft,
		 struct error *err)
{
	int rc = keep_table(owner, draft, err);

	if (rc == 0)
		rc = check_home(owner, draft, err);
	if (rc == 0)
		rc = check_location(owner, draft, err);
	if (rc == 0)
		rc = check_storing(owner, draft, err);
	if (rc == 0)
		rc = check_namespace(owner, draft, err);
	if (rc == 0)
		rc = keep_peers(owner, draft, err);
	if (rc == 0)
		rc = keep_listener(owner, draft, err);
	if (rc == 0)
		rc = keep_sockets(owner, draft, err);
	if (rc == 0)
		rc = check(&owner->set, draft, err);
	return rc;
}

/* ---- entry ---- */

static int finish(struct settings_draft *draft, struct settings **set_r, struct error *err)
{
	struct settings_owner *owner = calloc(1, sizeof *owner);
	struct settings *set;
	int rc;

	take_user_fields(draft);
	rc = owner ? build(owner, draft, err) : error_errno(err, -ENOMEM, "settings");

	if (rc == 0) {
		*set_r = &owner->set;
		return 0;
	}
	if (owner) {
		set = &owner->set;
		settings_free(&set);
	}
	return rc;
}

int settings_load(const char *path, const char *const *overrides, size_t override_count,
		  unsigned flags, struct settings **set_r, struct error *err)
{
	struct settings_draft draft = SETTINGS_DRAFT_INIT(flags);
	struct settings_handler handler = settings_draft_handler;
	int rc = 0;

	*set_r = NULL;
	handler.ctx = &draft;
	if (path)
		rc = settings_file_read(path, &handler, err);
	for (size_t i = 0; i < override_count && rc == 0; i++)
		rc = settings_draft_override(&draft, overrides[i], err);
	if (rc == 0)
		rc = finish(&draft, set_r, err);
	if (rc == 0 && path)
		settings_draft_notice(&draft, path);
	settings_draft_free(&draft);
	return rc;
}

int settings_load_text(const char *text, size_t len, const char *name, const char *const *overrides,
		       size_t override_count, unsigned flags, struct settings **set_r,
		       struct error *err)
{
	struct settings_draft draft = SETTINGS_DRAFT_INIT(flags);
	struct settings_handler handler = settings_draft_handler;
	int rc;

	*set_r = NULL;
	handler.ctx = &draft;
	rc = settings_text_read(text, len, name, &handler, err);
	for (size_t i = 0; i < override_count && rc == 0; i++)
		rc = settings_draft_override(&draft, overrides[i], err);
	if (rc == 0)
		rc = finish(&draft, set_r, err);
	if (rc == 0)
		settings_draft_notice(&draft, name);
	settings_draft_free(&draft);
	return rc;
}

int settings_parse(const char *text, size_t len, const char *name, unsigned flags,
		   struct settings **set_r, struct error *err)
{
	return settings_load_text(text, len, name, NULL, 0, flags, set_r, err);
}
