/* TCP connections to and from peers. See tcp.h. */
#include "sync/tcp.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/tcp.h>

#include "store/base/clock.h"
#include "store/base/file.h"

int64_t tcp_now_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC);
}

void tcp_set_options(int fd)
{
	int on = 1, idle = 3, interval = 1, count = 5;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
	/* After a short cut the next retransmission comes soon, not at twice the last pause. */
	setsockopt(fd, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, &on, sizeof on);
}

/* Waits for events on fd until the deadline. 0, -ETIMEDOUT or another negative errno. */
static int wait_for(int fd, short events, int64_t deadline_ms)
{
	for (;;) {
		struct pollfd poll_fd = {.fd = fd, .events = events};
		int64_t left = deadline_ms - tcp_now_ms();
		int rc;

		if (left < 0)
			left = 0;
		if (left > 3600 * 1000)
			left = 3600 * 1000;
		rc = poll(&poll_fd, 1, (int)left);
		if (rc > 0)
			return 0;
		if (rc == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int connect_one(const struct addrinfo *info, int64_t deadline_ms, int *fd_r)
{
	AUTO_CLOSE int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(int);
	int code = 0, rc;

	if (fd < 0)
		return -errno;
	tcp_set_options(fd);
	if (connect(fd, info->ai_addr, info->ai_addrlen) < 0 && errno != EINPROGRESS)
		return -errno;
	rc = wait_for(fd, POLLOUT, deadline_ms);
	if (rc < 0)
		return rc;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
		return -errno;
	if (code)
		return -code;
	*fd_r = fd;
	fd = -1;
	return 0;
}

static const char *resolver_text(int code)
{
	return code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code);
}

int tcp_connect(const char *host, uint16_t port, unsigned timeout_ms, int *fd_r,
		struct sockaddr_storage *peer_r, struct error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *list = NULL;
	int64_t deadline_ms = tcp_now_ms() + timeout_ms;
	char service[8];
	unsigned left = 0;
	int rc;

	snprintf(service, sizeof service, "%u", port);
	rc = getaddrinfo(host, service, &hints, &list);
	if (rc != 0)
		return error_set(err, -EHOSTUNREACH, "cannot resolve %s: %s", host,
				 resolver_text(rc));
	for (const struct addrinfo *info = list; info; info = info->ai_next)
		left++;
	rc = -EHOSTUNREACH;
	for (const struct addrinfo *info = list; info; info = info->ai_next, left--) {
		int64_t now_ms = tcp_now_ms();

		/* Each address gets its share, so that a dead first one leaves time for the next.
		 */
		rc = connect_one(info, now_ms + (deadline_ms - now_ms) / left, fd_r);
		if (rc < 0)
			continue;
		if (peer_r) {
			memset(peer_r, 0, sizeof *peer_r);
			memcpy(peer_r, info->ai_addr, info->ai_addrlen);
		}
		break;
	}
	freeaddrinfo(list);
	if (rc < 0)
		return error_errno(err, rc, "cannot connect to %s port %u", host, port);
	return 0;
}

static int listen_one(const struct addrinfo *info, int *fd_r)
{
	AUTO_CLOSE int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	/* "*" and "::" may both be listed: each takes its own family only. */
	if (info->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, 128) < 0)
		return -errno;
	*fd_r = fd;
	fd = -1;
	return 0;
}

int tcp_listen(const char *address, uint16_t port, int *fd_r, struct error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	bool any = strcmp(address, "*") == 0;
	struct addrinfo *list = NULL;
	char service[8];
	int rc;

	snprintf(service, sizeof service, "%u", port);
	if (any)
		hints.ai_family = AF_INET;
	rc = getaddrinfo(any ? NULL : address, service, &hints, &list);
	if (rc != 0)
		return error_set(err, -EADDRNOTAVAIL, "listen address %s: %s", address,
				 resolver_text(rc));
	rc = listen_one(list, fd_r);
	freeaddrinfo(list);
	if (rc < 0)
		return error_errno(err, rc, "cannot listen on %s port %u", address, port);
	return 0;
}

int tcp_send(int fd, struct buf *out, int64_t deadline_ms)
{
	if (out->failed)
		return out->failed;
	while (out->len) {
		ssize_t n = send(fd, out->data, out->len, MSG_NOSIGNAL | MSG_DONTWAIT);
		int rc;

		if (n >= 0) {
			buf_consume(out, (size_t)n);
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		rc = wait_for(fd, POLLOUT, deadline_ms);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int tcp_receive(int fd, struct buf *in, int64_t deadline_ms)
{
	for (;;) {
		size_t want = in->max - in->len < 4096 ? in->max - in->len : 4096;
		void *room = want ? buf_reserve(in, want) : NULL;
		ssize_t n;
		int rc;

		if (!room)
			return want ? in->failed : -EMSGSIZE;
		n = recv(fd, room, want, MSG_DONTWAIT);
		if (n > 0) {
			buf_commit(in, (size_t)n);
			return 0;
		}
		if (n == 0)
			return -EPIPE;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		rc = wait_for(fd, POLLIN, deadline_ms);
		if (rc < 0)
			return rc;
	}
}

/* The 16 bytes of the address as IPv6. false: neither family. */
static bool address_bytes(const struct sockaddr_storage *address, uint8_t bytes_r[16])
{
	if (address->ss_family == AF_INET) {
		const struct sockaddr_in *in4 = (const struct sockaddr_in *)address;

		memset(bytes_r, 0, 10);
		memset(bytes_r + 10, 0xff, 2);
		memcpy(bytes_r + 12, &in4->sin_addr, 4);
		return true;
	}
	if (address->ss_family == AF_INET6) {
		memcpy(bytes_r, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
		return true;
	}
	return false;
}

const char *tcp_address_text(const struct sockaddr_storage *address, char text_r[TCP_ADDRESS_SIZE])
{
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	uint8_t bytes[16];

	snprintf(text_r, TCP_ADDRESS_SIZE, "unknown");
	if (!address_bytes(address, bytes))
		return text_r;
	if (memcmp(bytes, mapped, sizeof mapped) == 0)
		inet_ntop(AF_INET, bytes + 12, text_r, TCP_ADDRESS_SIZE);
	else
		inet_ntop(AF_INET6, bytes, text_r, TCP_ADDRESS_SIZE);
	return text_r;
}

bool tcp_address_same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	uint8_t a_bytes[16], b_bytes[16];

	return address_bytes(a, a_bytes) && address_bytes(b, b_bytes) &&
	       memcmp(a_bytes, b_bytes, sizeof a_bytes) == 0;
}

int tcp_address_parse(const char *text, struct sockaddr_storage *address_r)
{
	struct sockaddr_in *in4 = (struct sockaddr_in *)address_r;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address_r;

	memset(address_r, 0, sizeof *address_r);
	if (inet_pton(AF_INET, text, &in4->sin_addr) == 1) {
		in4->sin_family = AF_INET;
		return 0;
	}
	if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		return 0;
	}
	return -EINVAL;
}
