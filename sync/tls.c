/* TLS by OpenSSL. See tls.h. */
#include "sync/tls.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "store/base/log.h"
#include "sync/tcp.h"
#include "sync/tls_verify.h"

#define VERDICT_MAX 900
#define REASON_SIZE 256

struct tls_client {
	SSL_CTX *ctx;
};

struct tls_server {
	SSL_CTX *ctx;
};

struct tls {
	SSL *ssl;
	struct tls_verdict verdict; /* of the peer's certificate */
	short events;
};

/* The oldest of OpenSSL's errors, which names the cause; the others are forgotten. */
static const char *openssl_reason(char text_r[REASON_SIZE])
{
	unsigned long code = ERR_get_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	if (!code)
		return "unknown reason";
	if (ERR_SYSTEM_ERROR(code))
		return strerror(ERR_GET_REASON(code));
	if (!reason)
		ERR_error_string_n(code, text_r, REASON_SIZE);
	return reason ? reason : text_r;
}

static int context_error(struct error *err, const char *setting, const char *value)
{
	char text[REASON_SIZE];

	return error_set(err, -EINVAL, "%s = %s: %s", setting, value, openssl_reason(text));
}

/* An encrypted key: nobody is there to be asked. */
static int no_password(char *buf, int size, int writing, void *ctx)
{
	return 0;
}

static int min_version(const struct settings *set)
{
	/* What is older than 1.2 is not spoken, whatever the setting allows. */
	return strcmp(set->ssl_min_protocol, "TLSv1.3") == 0 ||
			       strcmp(set->ssl_min_protocol, "LATEST") == 0
		       ? TLS1_3_VERSION
		       : TLS1_2_VERSION;
}

static SSL_CTX *new_context(const SSL_METHOD *method, const struct settings *set, struct error *err)
{
	SSL_CTX *ctx = SSL_CTX_new(method);
	char text[REASON_SIZE];

	if (!ctx || SSL_CTX_set_min_proto_version(ctx, min_version(set)) != 1) {
		SSL_CTX_free(ctx);
		error_set(err, -EINVAL, "OpenSSL: %s", openssl_reason(text));
		return NULL;
	}
	/* A peer that closes without a word is noticed by the protocol inside, whose lists and
	 * values have an end of their own. Nothing is resumed: connections are kept instead. */
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF |
					 SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION |
					 SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				      SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_default_passwd_cb(ctx, no_password);
	return ctx;
}

/* ---- a client's ---- */

static int verify_peer(X509_STORE_CTX *store_ctx, void *arg)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store_ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls *tls = SSL_get_app_data(ssl);

	return tls_verify(store_ctx, &tls->verdict);
}

static int load_trusted(SSL_CTX *ctx, const struct settings *set, struct error *err)
{
	const char *file = set->ssl_client_ca_file, *dir = set->ssl_client_ca_dir;
	/* As Dovecot takes it with and without. */
	const char *path = file[0] == '<' ? file + 1 : file;
	char text[REASON_SIZE];

	if (path[0] && SSL_CTX_load_verify_file(ctx, path) != 1)
		return context_error(err, "ssl_client_ca_file", path);
	/* OpenSSL looks into the directory when it needs a certificate. */
	if (dir[0] && access(dir, R_OK | X_OK) < 0)
		return error_errno(err, -errno, "ssl_client_ca_dir = %s", dir);
	if (dir[0] && SSL_CTX_load_verify_dir(ctx, dir) != 1)
		return context_error(err, "ssl_client_ca_dir", dir);
	if (!path[0] && !dir[0] && SSL_CTX_set_default_verify_paths(ctx) != 1)
		return error_set(err, -EINVAL, "the system's trusted certificates: %s",
				 openssl_reason(text));
	return 0;
}

int tls_client_new(const struct settings *set, struct tls_client **client_r, struct error *err)
{
	struct tls_client *client = calloc(1, sizeof *client);
	int rc;

	if (!client)
		return error_errno(err, -ENOMEM, "TLS");
	client->ctx = new_context(TLS_client_method(), set, err);
	rc = client->ctx ? load_trusted(client->ctx, set, err) : -EINVAL;
	if (rc < 0) {
		tls_client_free(&client);
		return rc;
	}
	SSL_CTX_set_verify(client->ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_cert_verify_callback(client->ctx, verify_peer, NULL);
	*client_r = client;
	return 0;
}

void tls_client_free(struct tls_client **client)
{
	if (*client)
		SSL_CTX_free((*client)->ctx);
	free(*client);
	*client = NULL;
}

/* ---- a server's ---- */

/* The rest of the file is the chain. */
static int load_own(SSL_CTX *ctx, const struct settings *set, struct error *err)
{
	const X509 *cert;
	char text[REASON_SIZE];

	if (!set->ssl_cert[0] || !set->ssl_key[0])
		return error_set(err, -EINVAL, "the listener is to speak TLS, but %s is not set",
				 set->ssl_cert[0] ? "ssl_key" : "ssl_cert");
	if (SSL_CTX_use_certificate_chain_file(ctx, set->ssl_cert) != 1)
		return context_error(err, "ssl_cert", set->ssl_cert);
	/* This one says as well whether the two belong together. */
	if (SSL_CTX_use_PrivateKey_file(ctx, set->ssl_key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_check_private_key(ctx) != 1)
		return error_set(err, -EINVAL, "ssl_key = %s: %s (with ssl_cert = %s)",
				 set->ssl_key, openssl_reason(text), set->ssl_cert);
	cert = SSL_CTX_get0_certificate(ctx);
	if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0)
		log_warning("ssl_cert = %s: it has expired, so no peer will accept it",
			    set->ssl_cert);
	else if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0)
		log_warning("ssl_cert = %s: it is not valid yet", set->ssl_cert);
	return 0;
}

int tls_server_new(const struct settings *set, struct tls_server **server_r, struct error *err)
{
	struct tls_server *server = calloc(1, sizeof *server);
	int rc;

	if (!server)
		return error_errno(err, -ENOMEM, "TLS");
	server->ctx = new_context(TLS_server_method(), set, err);
	rc = server->ctx ? load_own(server->ctx, set, err) : -EINVAL;
	if (rc < 0) {
		tls_server_free(&server);
		return rc;
	}
	SSL_CTX_set_num_tickets(server->ctx, 0);
	*server_r = server;
	return 0;
}

void tls_server_free(struct tls_server **server)
{
	if (*server)
		SSL_CTX_free((*server)->ctx);
	free(*server);
	*server = NULL;
}

/* ---- a connection ---- */

static int new_connection(SSL_CTX *ctx, int fd, struct tls **tls_r, struct error *err)
{
	struct tls *tls = calloc(1, sizeof *tls);
	char text[REASON_SIZE];

	if (!tls)
		return error_errno(err, -ENOMEM, "TLS");
	tls->verdict.text = (struct buf)BUF_INIT(VERDICT_MAX);
	tls->ssl = SSL_new(ctx);
	if (!tls->ssl || SSL_set_fd(tls->ssl, fd) != 1) {
		tls_free(&tls);
		return error_set(err, -ENOMEM, "TLS: %s", openssl_reason(text));
	}
	SSL_set_app_data(tls->ssl, tls);
	*tls_r = tls;
	return 0;
}

void tls_free(struct tls **tls)
{
	if (!*tls)
		return;
	SSL_free((*tls)->ssl);
	buf_free(&(*tls)->verdict.text);
	free(*tls);
	*tls = NULL;
}

short tls_events(const struct tls *tls)
{
	return tls->events;
}

const char *tls_version(const struct tls *tls)
{
	return SSL_get_version(tls->ssl);
}

/* What a call that did not succeed came to: 0 at the end, -EAGAIN, or why it failed. */
static int outcome(struct tls *tls, int rc, int saved_errno)
{
	switch (SSL_get_error(tls->ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		tls->events = POLLIN;
		return -EAGAIN;
	case SSL_ERROR_WANT_WRITE:
		tls->events = POLLOUT;
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_SYSCALL:
		return saved_errno ? -saved_errno : -EPIPE;
	default:
		return -EPROTO;
	}
}

/* What the last failed handshake means to whoever has to mend it. */
static int handshake_error(const struct tls *tls, int code, struct error *err)
{
	unsigned long last = ERR_peek_error();
	char text[REASON_SIZE];
	const char *reason;

	if (tls->verdict.text.len) {
		ERR_clear_error();
		return error_set(err, TLS_REFUSED,
				 "TLS: the peer's certificate is not accepted because of %s",
				 buf_str(&tls->verdict.text));
	}
	if (code != -EPROTO) {
		ERR_clear_error();
		return error_errno(err, code, "TLS: the connection ended in the handshake");
	}
	reason = openssl_reason(text);
	if (ERR_GET_REASON(last) > SSL_AD_REASON_OFFSET)
		return error_set(err, -EPROTO, "TLS: the other end refuses us: %s", reason);
	switch (ERR_GET_REASON(last)) {
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_HTTP_REQUEST:
		return error_set(err, -EPROTO, "TLS: the other end does not speak it");
	case SSL_R_BAD_SIGNATURE:
		return error_set(err, TLS_REFUSED,
				 "TLS: the peer's certificate is not accepted because of its key: "
				 "the peer has not the one that belongs to it (%s)",
				 reason);
	default:
		return error_set(err, -EPROTO, "TLS: %s", reason);
	}
}

int tls_handshake(struct tls *tls, struct error *err)
{
	int rc, saved_errno;

	ERR_clear_error();
	errno = 0;
	rc = SSL_do_handshake(tls->ssl);
	saved_errno = errno;
	if (rc == 1)
		return 0;
	rc = outcome(tls, rc, saved_errno);
	if (rc == -EAGAIN)
		return rc;
	return handshake_error(tls, rc < 0 ? rc : -EPIPE, err);
}

/* Its name goes along, but an address has no place there; and either has to be proven. */
static int expect_host(struct tls *tls, const char *host, struct error *err)
{
	unsigned char address[sizeof(struct in6_addr)];
	X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);
	bool is_address =
		inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
	int ok;

	if (is_address) {
		ok = X509_VERIFY_PARAM_set1_ip_asc(param, host);
	} else {
		X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
		ok = X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 &&
		     SSL_set_tlsext_host_name(tls->ssl, host) == 1;
	}
	tls->verdict.host = host;
	return ok == 1 ? 0 : error_set(err, -EINVAL, "TLS: %s is no name to ask for", host);
}

static int wait_for(int fd, short events, int64_t deadline_ms)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};
	int64_t left_ms = deadline_ms - tcp_now_ms();
	int rc = left_ms > 0 ? poll(&poll_fd, 1, (int)left_ms) : 0;

	if (rc < 0)
		return errno == EINTR ? 0 : -errno;
	return rc == 0 ? -ETIMEDOUT : 0;
}

int tls_connect(const struct tls_client *client, int fd, const char *host, int64_t deadline_ms,
		struct tls **tls_r, struct error *err)
{
	struct tls *tls = NULL;
	int rc = new_connection(client->ctx, fd, &tls, err);

	if (rc == 0)
		rc = expect_host(tls, host, err);
	if (rc == 0)
		SSL_set_connect_state(tls->ssl);
	while (rc == 0 && (rc = tls_handshake(tls, err)) == -EAGAIN) {
		rc = wait_for(fd, tls->events, deadline_ms);
		if (rc < 0)
			error_errno(err, rc, "TLS: no answer in the handshake");
	}
	if (rc < 0) {
		tls_free(&tls);
		return rc;
	}
	/* It points into the caller's memory. */
	tls->verdict.host = NULL;
	*tls_r = tls;
	return 0;
}

int tls_accept(const struct tls_server *server, int fd, struct tls **tls_r, struct error *err)
{
	int rc = new_connection(server->ctx, fd, tls_r, err);

	if (rc == 0)
		SSL_set_accept_state((*tls_r)->ssl);
	return rc;
}

ssize_t tls_read(struct tls *tls, void *data, size_t size)
{
	size_t n = 0;
	int rc, saved_errno;

	ERR_clear_error();
	errno = 0;
	rc = SSL_read_ex(tls->ssl, data, size, &n);
	saved_errno = errno;
	if (rc == 1)
		return (ssize_t)n;
	rc = outcome(tls, rc, saved_errno);
	ERR_clear_error();
	return rc;
}

ssize_t tls_write(struct tls *tls, const void *data, size_t len)
{
	size_t n = 0;
	int rc, saved_errno;

	ERR_clear_error();
	errno = 0;
	rc = SSL_write_ex(tls->ssl, data, len, &n);
	saved_errno = errno;
	if (rc == 1)
		return (ssize_t)n;
	rc = outcome(tls, rc, saved_errno);
	ERR_clear_error();
	return rc == 0 ? -EPIPE : rc;
}

void tls_close(struct tls *tls)
{
	ERR_clear_error();
	if (SSL_is_init_finished(tls->ssl))
		(void)SSL_shutdown(tls->ssl);
	ERR_clear_error();
}
