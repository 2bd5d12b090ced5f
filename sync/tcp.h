/*
 * TCP connections to and from peers: names resolved, connected with a deadline, options set so that
 * a cut link is noticed within seconds while nothing is sent (link_check.h: while something is).
 *
 * tcp_connect(), tcp_send() and tcp_receive() wait, within a deadline (for workers); nothing else
 * here does.
 */
#ifndef DSYNCFS_SYNC_TCP_H
#define DSYNCFS_SYNC_TCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include "store/base/buf.h"
#include "store/base/error.h"

#define TCP_CONNECT_TIMEOUT_MS 2000
#define TCP_ADDRESS_SIZE       64 /* text of an address */

/* Tries the host's addresses in turn, within timeout_ms in all. The descriptor is non-blocking and
 * close-on-exec. peer_r may be NULL. */
int tcp_connect(const char *host, uint16_t port, unsigned timeout_ms, int *fd_r,
		struct sockaddr_storage *peer_r, struct error *err);

/* A listening socket, non-blocking. address "*": every IPv4 address, "::": every IPv6 address. */
int tcp_listen(const char *address, uint16_t port, int *fd_r, struct error *err);

/* No delay, keepalive. Failures do not matter. */
void tcp_set_options(int fd);

/* Sends all of out and empties it; receives at least one byte into in. -ETIMEDOUT when the deadline
 * (tcp_now_ms()) passes, -EPIPE when the peer closed. */
int tcp_send(int fd, struct buf *out, int64_t deadline_ms);
int tcp_receive(int fd, struct buf *in, int64_t deadline_ms);

int64_t tcp_now_ms(void); /* CLOCK_MONOTONIC */

/* "192.0.2.1" or "2001:db8::1", without port. Returns text_r. */
const char *tcp_address_text(const struct sockaddr_storage *address, char text_r[TCP_ADDRESS_SIZE]);
/* The host part alone; an IPv4 address mapped into IPv6 equals the IPv4 address. */
bool tcp_address_same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b);
/* A numeric address without asking any resolver; -EINVAL for a name. */
int tcp_address_parse(const char *text, struct sockaddr_storage *address_r);

#endif
