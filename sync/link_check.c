/* From TCP_INFO. See link_check.h. */
#include "sync/link_check.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* Each comes after a longer pause than the one before. */
#define PROBES_DEAD 3

bool link_is_dead(int fd)
{
	struct tcp_info info = {0};
	socklen_t size = sizeof info;

	if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return false;
	if (info.tcpi_last_ack_recv < LINK_DEAD_MS)
		return false;
	return (info.tcpi_unacked > 0 && info.tcpi_retransmits > 0) ||
	       info.tcpi_probes >= PROBES_DEAD;
}
