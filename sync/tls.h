/*
 * TLS for the doveadm port: contexts from the settings, and one connection over a descriptor.
 *
 * A client checks that the peer's certificate leads to a trusted one, is valid today and is for the
 * name or address that the peer was addressed by, and says everything that is wrong with it, not
 * only the first thing. A server sends its whole chain and asks for no certificate: the password
 * says who may come in. TLS 1.2 and 1.3.
 *
 * Nothing here waits but tls_connect(), which has a deadline. Everything else gives -EAGAIN and
 * says which poll() events to wait for.
 */
#ifndef DSYNCFS_SYNC_TLS_H
#define DSYNCFS_SYNC_TLS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/error.h"
#include "store/settings.h"

/* What tls_connect() returns when the certificate is not acceptable: nobody but an admin can help.
 */
#define TLS_REFUSED (-EKEYREJECTED)

struct tls_client; /* whom we trust */
struct tls_server; /* who we are */
struct tls;	   /* a connection */

/* -EINVAL: what is wrong with the settings, with the file's name. */
int tls_client_new(const struct settings *set, struct tls_client **client_r, struct error *err);
void tls_client_free(struct tls_client **client);
int tls_server_new(const struct settings *set, struct tls_server **server_r, struct error *err);
void tls_server_free(struct tls_server **server);

/* The descriptor stays the caller's and must not block. host: the name or address that the peer
 * has to prove. */
int tls_connect(const struct tls_client *client, int fd, const char *host, int64_t deadline_ms,
		struct tls **tls_r, struct error *err);
/* Nothing is read yet: call tls_handshake() until it gives 0. */
int tls_accept(const struct tls_server *server, int fd, struct tls **tls_r, struct error *err);
void tls_free(struct tls **tls);

/* 0: it is done. -EAGAIN: wait for tls_events(). Else it failed. */
int tls_handshake(struct tls *tls, struct error *err);
/* Bytes, 0 at the end, or a negative errno. */
ssize_t tls_read(struct tls *tls, void *data, size_t size);
/* Bytes, or a negative errno. After -EAGAIN the same bytes (and maybe more) have to come again. */
ssize_t tls_write(struct tls *tls, const void *data, size_t len);
/* What the last call that gave -EAGAIN waits for: POLLIN or POLLOUT. */
short tls_events(const struct tls *tls);
/* Tells the peer that nothing more comes; not if it has to be waited for. */
void tls_close(struct tls *tls);
/* "TLSv1.3", for the log. */
const char *tls_version(const struct tls *tls);

#endif
