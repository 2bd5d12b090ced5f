/* The log: formatting and the two targets. See log.h. */
#include "store/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

static struct {
	char ident[32];
	enum log_target target;
	enum log_level max_level;
} log_state = {.target = LOG_TARGET_STDERR, .max_level = LOG_LEVEL_INFO};

static const char *const level_names[] = {"error", "warning", "notice", "info", "debug"};
static const int level_syslog[] = {LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG};

void log_open(const char *ident, enum log_target target, enum log_level max_level)
{
	snprintf(log_state.ident, sizeof log_state.ident, "%s", ident);
	log_state.target = target;
	log_state.max_level = max_level;
	if (target == LOG_TARGET_SYSLOG)
		openlog(log_state.ident, LOG_PID, LOG_MAIL);
}

const char *log_ident(void)
{
	return log_state.ident;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	char text[2048], line[2304], stamp[32];
	struct timespec now;
	struct tm tm;
	va_list args;
	int len;

	if (level > log_state.max_level)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	for (char *p = text; *p; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	}
	if (log_state.target == LOG_TARGET_SYSLOG) {
		syslog(level_syslog[level], "%s", text);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
	len = snprintf(line, sizeof line, "%s.%03ld %s[%d]: %s: %s\n", stamp, now.tv_nsec / 1000000,
		       log_state.ident, (int)getpid(), level_names[level], text);
	if (len >= (int)sizeof line)
		len = sizeof line - 1;
	/* One write a line, so that lines of several processes do not mix. */
	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		return;
}
