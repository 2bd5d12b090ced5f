/*
 * TLS with real certificates over loopback: a relay in an event loop as dsyncd's listener has it,
 * and a client as workers have it. What is wrong with a certificate is said, all of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <netinet/in.h>
#include <unistd.h>
#include <cmocka.h>
#include <event2/event.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "store/base/file.h"
#include "sync/stream.h"
#include "sync/tcp.h"
#include "sync/tls.h"
#include "sync/tls_relay.h"
#include "sync/tls_verify.h"
#include "tls_fixture.h"

#define MANY_BYTES (3 * 1024 * 1024)

static char dir[64];
static struct identity root, middle, good, foreign_root, foreign;

static char *path(const char *name)
{
	static char paths[8][128];
	static unsigned at;
	char *text = paths[at++ % 8];

	snprintf(text, sizeof paths[0], "%s/%s", dir, name);
	return text;
}

static struct settings *settings_of(const char *text)
{
	struct settings *set = NULL;
	struct error err = {0};

	if (settings_parse(text, strlen(text), "test", SETTINGS_QUIET, &set, &err) < 0)
		fail_msg("%s", err.text);
	return set;
}

/* Trusts this file, and proves itself by these. */
static struct settings *settings_with(const char *ca, const char *cert, const char *key)
{
	char text[600];

	snprintf(text, sizeof text,
		 "ssl_client_ca_file = %s\nssl_cert = <%s\nssl_key = <%s\n"
		 "mail_root = /var/mail/vhosts\n",
		 ca ? path(ca) : "", path(cert ? cert : "cert"), path(key ? key : "key"));
	return settings_of(text);
}

static int setup(void **state)
{
	const struct identity *chain[] = {&good, &middle}, *trusted[] = {&root};
	const struct identity *foreigners[] = {&foreign};

	snprintf(dir, sizeof dir, "/tmp/test-tls-XXXXXX");
	assert_non_null(mkdtemp(dir));
	identity_make(&(struct identity_options){.subject = "Root", .is_ca = true}, &root);
	identity_make(
		&(struct identity_options){.subject = "Middle", .is_ca = true, .issuer = &root},
		&middle);
	identity_make(&(struct identity_options){.subject = "mx1",
						 .names = "DNS:mx1.example.org,DNS:*.mail."
							  "example.org,IP:127.0.0.1,IP:::1",
						 .issuer = &middle},
		      &good);
	identity_make(&(struct identity_options){.subject = "Foreign root", .is_ca = true},
		      &foreign_root);
	identity_make(
		&(struct identity_options){.subject = "mx1.example.org", .issuer = &foreign_root},
		&foreign);
	write_certs(path("cert"), chain, 2);
	write_key(path("key"), &good);
	write_certs(path("ca"), trusted, 1);
	write_certs(path("foreign-cert"), foreigners, 1);
	write_key(path("foreign-key"), &foreign);
	return 0;
}

static int teardown(void **state)
{
	AUTO_CLOSE int tmp = open("/tmp", O_RDONLY | O_DIRECTORY);

	identity_free(&root);
	identity_free(&middle);
	identity_free(&good);
	identity_free(&foreign_root);
	identity_free(&foreign);
	return file_remove_tree(tmp, dir + strlen("/tmp/"));
}

/* ---- a listener that gives back what it gets ---- */

struct server {
	struct event_base *base;
	struct tls_server *tls;
	struct tls_relays relays;
	int listen_fd;
	uint16_t port;
	pthread_t thread;
	char refused[1024];
};

static void on_refused(void *ctx, const struct sockaddr_storage *address, const char *text)
{
	struct server *server = ctx;

	assert_int_equal(address->ss_family, AF_INET);
	snprintf(server->refused, sizeof server->refused, "%s", text);
}

static void *echo(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char data[8192];
	ssize_t n;

	while ((n = recv(fd, data, sizeof data, 0)) > 0) {
		for (ssize_t sent = 0; sent < n;) {
			ssize_t m = send(fd, data + sent, (size_t)(n - sent), MSG_NOSIGNAL);

			if (m < 0)
				break;
			sent += m;
		}
	}
	close(fd);
	return NULL;
}

static void on_accept(evutil_socket_t fd, short what, void *ctx)
{
	struct server *server = ctx;
	struct sockaddr_storage address = {0};
	socklen_t len = sizeof address;
	int plain, client = accept4(fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK);
	struct error err;
	pthread_t thread;

	assert_int_equal(
		tls_relay_new(&server->relays, server->tls, client, &address, &plain, &err), 0);
	fcntl(plain, F_SETFL, 0);
	assert_int_equal(pthread_create(&thread, NULL, echo, (void *)(intptr_t)plain), 0);
	pthread_detach(thread);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
}

static void *serve(void *arg)
{
	struct server *server = arg;
	struct event *accept_event =
		event_new(server->base, server->listen_fd, EV_READ | EV_PERSIST, on_accept, server);
	/* So that a break from another thread is seen. */
	struct event *tick = event_new(server->base, -1, EV_PERSIST, on_tick, NULL);

	event_add(accept_event, NULL);
	event_add(tick, &(struct timeval){.tv_usec = 10000});
	event_base_dispatch(server->base);
	event_free(accept_event);
	event_free(tick);
	return NULL;
}

static void server_start(struct server *server, struct settings *set)
{
	struct sockaddr_in address;
	socklen_t len = sizeof address;
	struct error err = {0};

	memset(server, 0, sizeof *server);
	if (tls_server_new(set, &server->tls, &err) < 0)
		fail_msg("%s", err.text);
	settings_free(&set);
	server->base = event_base_new();
	server->relays =
		(struct tls_relays){.base = server->base, .refused = on_refused, .ctx = server};
	assert_int_equal(tcp_listen("127.0.0.1", 0, &server->listen_fd, &err), 0);
	assert_int_equal(getsockname(server->listen_fd, (struct sockaddr *)&address, &len), 0);
	server->port = ntohs(address.sin_port);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void server_stop(struct server *server)
{
	event_base_loopbreak(server->base);
	pthread_join(server->thread, NULL);
	tls_relays_free(&server->relays);
	tls_server_free(&server->tls);
	event_base_free(server->base);
	close(server->listen_fd);
}

/* Connects with these settings (freed), expecting this name. */
static int connect_as(uint16_t port, struct settings *set, const char *host, unsigned ms, int *fd_r,
		      struct tls **tls_r, struct error *err)
{
	struct tls_client *client = NULL;
	int rc = tls_client_new(set, &client, err);

	*fd_r = -1;
	*tls_r = NULL;
	settings_free(&set);
	if (rc == 0)
		rc = tcp_connect("127.0.0.1", port, 1000, fd_r, NULL, err);
	if (rc == 0)
		rc = tls_connect(client, *fd_r, host, tcp_now_ms() + ms, tls_r, err);
	tls_client_free(&client);
	return rc;
}

static void refused_by_us(struct server *server, struct settings *set, const char *host,
			  const char *const *texts)
{
	struct error err = {0};
	struct tls *tls;
	int fd, rc = connect_as(server->port, set, host, 2000, &fd, &tls, &err);

	assert_int_equal(rc, TLS_REFUSED);
	print_message("%s\n", err.text);
	for (; *texts; texts++) {
		if (!strstr(err.text, *texts))
			fail_msg("\"%s\" is not in: %s", *texts, err.text);
	}
	close(fd);
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- good ones ---- */

static ssize_t transport_read(void *ctx, void *data, size_t size)
{
	return tls_read(ctx, data, size);
}

static ssize_t transport_write(void *ctx, const void *data, size_t len)
{
	return tls_write(ctx, data, len);
}

static short transport_events(const void *ctx)
{
	return tls_events(ctx);
}

static void transport_close(void *ctx)
{
	struct tls *tls = ctx;

	tls_close(tls);
	tls_free(&tls);
}

/* Lines there and back, with more in flight than anybody buffers. */
static void exchange(int fd, struct tls *tls)
{
	struct stream_transport transport = {tls, transport_read, transport_write, transport_events,
					     transport_close};
	struct stream *stream = NULL;
	struct error err = {0};
	size_t sent = 0, received = 0;

	assert_int_equal(stream_new(fd, fd, NULL, &stream, &err), 0);
	stream_set_transport(stream, &transport);
	while (received < MANY_BYTES) {
		char *line, text[1024];
		size_t len;

		while (sent < MANY_BYTES && stream_can_write(stream)) {
			memset(text, 'a' + (int)(sent / sizeof text % 26), sizeof text);
			text[sizeof text - 1] = '\n';
			assert_int_equal(stream_write(stream, text, sizeof text, &err), 0);
			sent += sizeof text;
		}
		if (!stream_can_read(stream, false)) {
			assert_int_equal(stream_poll(stream, &err), 0);
			continue;
		}
		assert_int_equal(stream_read_line(stream, &line, &len, &err), 0);
		assert_int_equal(len, sizeof text - 1);
		assert_int_equal(line[0], 'a' + (int)(received / sizeof text % 26));
		assert_int_equal(line[len - 1], line[0]);
		received += len + 1;
	}
	stream_free(&stream);
}

static void test_names_and_addresses_are_proven(void **state)
{
	static const char *const hosts[] = {"mx1.example.org", "MX1.example.org",
					    "a.mail.example.org", "127.0.0.1", "::1"};
	struct server server;

	server_start(&server, settings_with("ca", NULL, NULL));
	for (unsigned i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
		struct error err = {0};
		struct tls *tls;
		int fd;

		if (connect_as(server.port, settings_with("ca", NULL, NULL), hosts[i], 2000, &fd,
			       &tls, &err) < 0)
			fail_msg("%s: %s", hosts[i], err.text);
		assert_string_equal(tls_version(tls), "TLSv1.3");
		exchange(fd, tls);
	}
	server_stop(&server);
	assert_string_equal(server.refused, "");
}

static void test_hashed_directory(void **state)
{
	struct server server;
	struct error err = {0};
	struct tls *tls;
	char name[64], text[300];
	int fd;

	assert_int_equal(mkdir(path("hashed"), 0755), 0);
	snprintf(name, sizeof name, "hashed/%08lx.0", X509_subject_name_hash(root.cert));
	assert_int_equal(symlink("../ca", path(name)), 0);
	snprintf(text, sizeof text, "ssl_client_ca_dir = %s\n", path("hashed"));
	server_start(&server, settings_with("ca", NULL, NULL));
	if (connect_as(server.port, settings_of(text), "mx1.example.org", 2000, &fd, &tls, &err) <
	    0)
		fail_msg("%s", err.text);
	tls_free(&tls);
	close(fd);
	server_stop(&server);
}

/* ---- bad ones ---- */

static void test_wrong_name(void **state)
{
	struct server server;

	server_start(&server, settings_with("ca", NULL, NULL));
	refused_by_us(&server, settings_with("ca", NULL, NULL), "mx2.example.org",
		      TEXTS("its name", "mx1.example.org, *.mail.example.org, 127.0.0.1, ::1",
			    "not for mx2.example.org"));
	refused_by_us(&server, settings_with("ca", NULL, NULL), "10.0.0.1",
		      TEXTS("its name", "not for 10.0.0.1"));
	refused_by_us(&server, settings_with("ca", NULL, NULL), "a.b.mail.example.org",
		      TEXTS("its name"));
	server_stop(&server);
	/* The other end was told. */
	assert_non_null(strstr(server.refused, "refuses us"));
}

static void test_wrong_chain(void **state)
{
	const struct identity *leaf_only[] = {&good};
	struct server server;

	server_start(&server, settings_with("ca", "foreign-cert", "foreign-key"));
	refused_by_us(&server, settings_with("ca", NULL, NULL), "mx1.example.org",
		      TEXTS("its chain", "Foreign root", "ssl_client_ca_file"));
	/* All of it is said. */
	refused_by_us(&server, settings_with("ca", NULL, NULL), "mx3.example.org",
		      TEXTS("its chain", "its name", "it is for mx1.example.org"));
	/* The system's do not know our test's either. */
	refused_by_us(&server, settings_with(NULL, NULL, NULL), "mx1.example.org",
		      TEXTS("its chain"));
	server_stop(&server);
	/* One that does not send the middle of its chain. */
	write_certs(path("leaf"), leaf_only, 1);
	server_start(&server, settings_with("ca", "leaf", "key"));
	refused_by_us(&server, settings_with("ca", NULL, NULL), "mx1.example.org",
		      TEXTS("its chain", "issued by /CN=Middle"));
	server_stop(&server);
}

static void test_wrong_date(void **state)
{
	static const struct {
		long begins, ends;
		const char *text;
	} dates[] = {{-7200, -3600, "expired 20"}, {3600, 7200, "is not valid before 20"}};

	for (unsigned i = 0; i < 2; i++) {
		struct identity identity;
		const struct identity *chain[] = {&identity, &middle};
		struct server server;

		identity_make(&(struct identity_options){.subject = "mx1",
							 .names = "DNS:mx1.example.org",
							 .issuer = &middle,
							 .begins_secs = dates[i].begins,
							 .ends_secs = dates[i].ends},
			      &identity);
		write_certs(path("dated"), chain, 2);
		write_key(path("dated-key"), &identity);
		server_start(&server, settings_with("ca", "dated", "dated-key"));
		refused_by_us(&server, settings_with("ca", NULL, NULL), "mx1.example.org",
			      TEXTS("its date", "/CN=mx1", dates[i].text));
		refused_by_us(&server, settings_with("ca", NULL, NULL), "mx2.example.org",
			      TEXTS("its date", "its name"));
		server_stop(&server);
		identity_free(&identity);
	}
}

/* No server of ours would load it, so the check is called as OpenSSL does. */
static void test_weak_key(void **state)
{
	struct identity weak;
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct tls_verdict verdict = {.host = "mx1", .text = BUF_INIT(900)};

	identity_make(
		&(struct identity_options){.subject = "weak", .issuer = &root, .key_bits = 1024},
		&weak);
	X509_STORE_add_cert(store, root.cert);
	assert_int_equal(X509_STORE_CTX_init(ctx, store, weak.cert, NULL), 1);
	X509_VERIFY_PARAM_set_auth_level(X509_STORE_CTX_get0_param(ctx), 2);
	assert_int_equal(tls_verify(ctx, &verdict), 0);
	print_message("%s\n", buf_str(&verdict.text));
	assert_non_null(strstr(buf_str(&verdict.text), "its key: EE certificate key too weak"));
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	buf_free(&verdict.text);
	identity_free(&weak);
}

/* ---- who does not speak it, or not at all ---- */

static void test_other_protocols(void **state)
{
	struct server server;
	struct error err = {0};
	struct tls *tls;
	struct buf in = BUF_INIT(4096), out = BUF_INIT(4096);
	int fd, listen_fd, client;
	struct sockaddr_in address;
	socklen_t len = sizeof address;
	int64_t start_ms;

	/* A plain client at a TLS port. */
	server_start(&server, settings_with("ca", NULL, NULL));
	assert_int_equal(tcp_connect("127.0.0.1", server.port, 1000, &fd, NULL, &err), 0);
	buf_append_str(&out, "VERSION\tdoveadm-server\t1\t0\n");
	assert_int_equal(tcp_send(fd, &out, tcp_now_ms() + 1000), 0);
	while (tcp_receive(fd, &in, tcp_now_ms() + 2000) == 0)
		continue;
	close(fd);
	/* One that comes and goes is not worth a line; one that stays is the listener's to end. */
	assert_int_equal(tcp_connect("127.0.0.1", server.port, 1000, &fd, NULL, &err), 0);
	close(fd);
	server_stop(&server);
	assert_string_equal(server.refused, "TLS: the other end does not speak it");

	/* A TLS client at a plain port, and at one where nobody answers. */
	assert_int_equal(tcp_listen("127.0.0.1", 0, &listen_fd, &err), 0);
	assert_int_equal(getsockname(listen_fd, (struct sockaddr *)&address, &len), 0);
	start_ms = tcp_now_ms();
	assert_int_equal(connect_as(ntohs(address.sin_port), settings_with("ca", NULL, NULL),
				    "mx1.example.org", 300, &fd, &tls, &err),
			 -ETIMEDOUT);
	assert_in_range(tcp_now_ms() - start_ms, 250, 1500);
	client = accept(listen_fd, NULL, NULL);
	assert_true(client >= 0);
	close(client);
	close(fd);
	buf_free(&in);
	buf_free(&out);
	close(listen_fd);
}

static void *answer_plainly(void *arg)
{
	int listen_fd = (int)(intptr_t)arg;
	int fd = accept(listen_fd, NULL, NULL);

	if (fd < 0 && errno == EAGAIN) {
		usleep(50000);
		fd = accept(listen_fd, NULL, NULL);
	}
	(void)!write(fd, "-\n12345678901234567890\n", 23);
	usleep(100000);
	close(fd);
	return NULL;
}

static void test_plain_server(void **state)
{
	struct error err = {0};
	struct sockaddr_in address;
	socklen_t len = sizeof address;
	struct tls *tls;
	pthread_t thread;
	int fd, listen_fd;

	assert_int_equal(tcp_listen("127.0.0.1", 0, &listen_fd, &err), 0);
	fcntl(listen_fd, F_SETFL, 0);
	assert_int_equal(getsockname(listen_fd, (struct sockaddr *)&address, &len), 0);
	pthread_create(&thread, NULL, answer_plainly, (void *)(intptr_t)listen_fd);
	assert_int_equal(connect_as(ntohs(address.sin_port), settings_with("ca", NULL, NULL),
				    "mx1.example.org", 2000, &fd, &tls, &err),
			 -EPROTO);
	assert_string_equal(err.text, "TLS: the other end does not speak it");
	pthread_join(thread, NULL);
	close(fd);
	close(listen_fd);
}

/* ---- settings ---- */

static void refused_settings(bool server, struct settings *set, const char *const *texts)
{
	struct error err = {0};
	struct tls_server *tls_server = NULL;
	struct tls_client *tls_client = NULL;
	int rc = server ? tls_server_new(set, &tls_server, &err)
			: tls_client_new(set, &tls_client, &err);

	assert_true(rc < 0);
	print_message("%s\n", err.text);
	for (; *texts; texts++) {
		if (!strstr(err.text, *texts))
			fail_msg("\"%s\" is not in: %s", *texts, err.text);
	}
	settings_free(&set);
}

static void test_settings_of_no_use(void **state)
{
	refused_settings(true, settings_with("ca", "none", NULL),
			 TEXTS("ssl_cert", "/none", "No such file"));
	refused_settings(true, settings_with("ca", NULL, "none"), TEXTS("ssl_key", "/none"));
	refused_settings(true, settings_with("ca", NULL, "foreign-key"),
			 TEXTS("ssl_key", "/foreign-key", "key values mismatch"));
	refused_settings(true, settings_of("ssl_cert = </x\n"), TEXTS("ssl_key is not set"));
	refused_settings(false, settings_with("none", NULL, NULL),
			 TEXTS("ssl_client_ca_file", "/none"));
	refused_settings(false, settings_of("ssl_client_ca_dir = /none\n"),
			 TEXTS("ssl_client_ca_dir", "/none", "No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_and_addresses_are_proven),
		cmocka_unit_test(test_hashed_directory),
		cmocka_unit_test(test_wrong_name),
		cmocka_unit_test(test_wrong_chain),
		cmocka_unit_test(test_wrong_date),
		cmocka_unit_test(test_weak_key),
		cmocka_unit_test(test_other_protocols),
		cmocka_unit_test(test_plain_server),
		cmocka_unit_test(test_settings_of_no_use),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
