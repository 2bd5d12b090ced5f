/*
 * What helpers do for dsyncd, which touches no mount and waits for no resolver: find, make and list
 * users, and try whether a peer is there and takes our password.
 */
#include "sync/worker_private.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "sync/peer_connect.h"
#include "sync/tcp.h"

#define HANDSHAKE_MS 3000 /* after the connection stands */

/* Only a dsyncfs mount has it. */
#define VERSION_XATTR "trusted.dsyncfs.version"

const struct settings_peer *worker_find_peer(const struct worker_process *w, const char *address)
{
	for (size_t i = 0; i < w->set->peer_count; i++) {
		if (strcmp(w->set->peers[i].address, address) == 0)
			return &w->set->peers[i];
	}
	return NULL;
}

int worker_connect_peer(struct worker_process *w, const char *address, struct stream **stream_r,
			char address_text_r[64], enum worker_failure *failure_r, struct error *err)
{
	const struct settings_peer *peer = worker_find_peer(w, address);
	struct sockaddr_storage to;
	struct peer_place place;
	int rc;

	*failure_r = WORKER_FAILURE_CONNECT;
	if (!peer)
		return error_set(err, -EINVAL, "peer %s: not in the settings", address);
	place = (struct peer_place){
		.text = address,
		.host = peer->host,
		.port = peer->port,
		.tls = peer->transport == SETTINGS_TRANSPORT_TCPS,
	};
	rc = peer_connect(&place, w->set, &w->tls, HANDSHAKE_MS, &to, stream_r, err);
	if (rc < 0) {
		if (rc == -EACCES || rc == TLS_REFUSED)
			*failure_r = WORKER_FAILURE_REFUSED;
		error_prefix(err, "peer %s", address);
		return rc;
	}
	tcp_address_text(&to, address_text_r);
	*failure_r = WORKER_FAILURE_NONE;
	return 0;
}

/* Below a mount point where nothing is mounted the home would be hidden by the next mount, and its
 * mail with it. */
static int make_user(struct worker_process *w, const char *name, bool mounted,
		     struct mail_user **user_r, struct error *err)
{
	const char *root = w->set->mail_root;
	struct statfs fs;

	if (mounted && (statfs(root, &fs) < 0 || fs.f_type != FUSE_SUPER_MAGIC))
		return error_set(err, -EAGAIN, "no home is made: %s is not mounted now", root);
	return mail_user_create(w->set, name, user_r, err);
}

static void help_find(struct worker_process *w, struct worker_reader *reader)
{
	const char *name = worker_get_str(reader, WORKER_NAME_MAX);
	uint8_t how = worker_get_u8(reader);
	struct worker_found found = {.user = name, .name = "", .home_rel = "", .text = ""};
	struct mail_user *user = NULL;
	struct error err = {0};

	if (worker_get_end(reader) < 0)
		worker_broken("a malformed message");
	found.code = mail_user_find(w->set, name, &user, &err);
	if (found.code == -ENOENT && how != WORKER_FIND_ONLY)
		found.code = make_user(w, name, how == WORKER_FIND_MAKE_MOUNTED, &user, &err);
	if (found.code == 0) {
		found.uid = user->uid;
		found.gid = user->gid;
		found.name = user->name;
		found.home_rel = user->home_rel;
	} else {
		found.text = err.text;
	}
	worker_put_found(&w->out, &found);
	mail_user_free(&user);
	worker_reply(w);
}

/* Names are collected into messages. */
static int each_user(void *ctx, const char *name)
{
	struct worker_process *w = ctx;
	size_t len = strlen(name);

	if (len > WORKER_NAME_MAX)
		return 0;
	if (w->out.len + len + 16 > WORKER_MESSAGE_MAX) {
		worker_reply(w);
		worker_put_begin(&w->out, WORKER_USERS);
	}
	worker_put_str(&w->out, name);
	return 0;
}

static void help_each(struct worker_process *w)
{
	struct error err = {0};
	int rc;

	worker_put_begin(&w->out, WORKER_USERS);
	rc = mail_user_each(w->set, each_user, w, &err);
	worker_reply(w);
	worker_put_begin(&w->out, WORKER_EACH_DONE);
	worker_put_u32(&w->out, (uint32_t)rc);
	worker_put_u8(&w->out, getxattr(w->set->mail_root, VERSION_XATTR, NULL, 0) > 0);
	worker_put_str(&w->out, rc < 0 ? err.text : "");
	worker_reply(w);
}

static void help_probe(struct worker_process *w, struct worker_reader *reader)
{
	const char *address = worker_get_str(reader, WORKER_NAME_MAX);
	enum worker_failure failure;
	char text[TCP_ADDRESS_SIZE] = "";
	struct stream *stream = NULL;
	struct error err = {0};
	int rc;

	if (worker_get_end(reader) < 0)
		worker_broken("a malformed message");
	rc = worker_connect_peer(w, address, &stream, text, &failure, &err);
	stream_free(&stream);
	worker_put_begin(&w->out, WORKER_PROBED);
	worker_put_str(&w->out, address);
	worker_put_u8(&w->out, (uint8_t)(rc < 0 ? failure : WORKER_FAILURE_NONE));
	worker_put_str(&w->out, text);
	worker_put_str(&w->out, rc < 0 ? err.text : "");
	worker_reply(w);
}

void worker_help(struct worker_process *w, struct worker_reader *reader)
{
	/* A reader's strings point into w->in, which nothing here receives into. */
	if (reader->type == WORKER_FIND)
		help_find(w, reader);
	else if (reader->type == WORKER_EACH)
		help_each(w);
	else
		help_probe(w, reader);
}
