/* What systemd is told. See service.h. */
#include "store/base/service.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_un address;
static socklen_t address_len; /* 0: nobody listens */
static unsigned interval_ms;

static void take_socket(const char *path)
{
	size_t len = path ? strlen(path) : 0;

	if (len < 2 || (path[0] != '/' && path[0] != '@') || len >= sizeof address.sun_path)
		return;
	address.sun_family = AF_UNIX;
	memcpy(address.sun_path, path, len);
	if (path[0] == '@')
		address.sun_path[0] = '\0'; /* the abstract namespace; its names have no end mark */
	address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

/* Half of what systemd allows, as it advises. */
static void take_watchdog(const char *usec, const char *pid)
{
	uint64_t allowed = usec ? strtoull(usec, NULL, 10) : 0;

	if (pid && strtol(pid, NULL, 10) != getpid())
		return;
	interval_ms = (unsigned)(allowed / 2000 < 3600000 ? allowed / 2000 : 3600000);
}

void service_init(void)
{
	address_len = 0;
	interval_ms = 0;
	take_socket(getenv("NOTIFY_SOCKET"));
	if (address_len)
		take_watchdog(getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

static void tell(const char *text)
{
	int fd;

	if (!address_len)
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)!sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
		      (const struct sockaddr *)&address, address_len);
	close(fd);
}

void service_ready(void)
{
	tell("READY=1");
}

void service_reloading(void)
{
	struct timespec now;
	char text[64];

	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld",
		 (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
	tell(text);
}

void service_stopping(void)
{
	tell("STOPPING=1");
}

unsigned service_alive_interval_ms(void)
{
	return interval_ms;
}

void service_alive(void)
{
	tell("WATCHDOG=1");
}
