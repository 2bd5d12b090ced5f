/*
 * The log. One event, one line, with a key=value tail (user=, mailbox=, peer=, guid=, session=).
 *
 * Levels are a contract: error: an admin must act. warning: handled, but odd. notice: a state
 * changed (peer up, peer down). info: one line a sync. debug: the rest. Control characters in the
 * text are replaced by '?', since names come from peers and mail stores.
 */
#ifndef DSYNCFS_BASE_LOG_H
#define DSYNCFS_BASE_LOG_H

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_NOTICE,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG
};
enum log_target { LOG_TARGET_STDERR, LOG_TARGET_SYSLOG };

/* Names the program and where lines go. Before this call: stderr, level info, no name. */
void log_open(const char *ident, enum log_target target, enum log_level max_level);

/* The name given to log_open(), or "". */
const char *log_ident(void);

void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)	 log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...)	 log_at(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)	 log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	 log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
