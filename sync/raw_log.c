/* See raw_log.h. */
#include "sync/raw_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "store/base/buf.h"
#include "store/base/file.h"
#include "store/base/log.h"

/* A longer line is written in pieces. */
#define LINE_MAX_BYTES ((size_t)64 * 1024)
#define STAMP_BYTES    64

struct raw_log {
	int fd;
	char *path;
	struct buf line[2]; /* what has come of it yet, by direction */
	struct buf text;
};

int raw_log_open(const char *path, struct raw_log **log_r, struct error *err)
{
	struct raw_log *log = calloc(1, sizeof(*log));

	if (log == NULL)
		return error_errno(err, -ENOMEM, "raw log");
	for (int i = 0; i < 2; i++)
		log->line[i] = (struct buf)BUF_INIT(LINE_MAX_BYTES);
	log->text = (struct buf)BUF_INIT(LINE_MAX_BYTES + STAMP_BYTES);
	log->path = strdup(path);
	log->fd = log->path != NULL ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)
				    : -1;
	if (log->fd < 0) {
		int ret =
			error_errno(err, log->path != NULL ? -errno : -ENOMEM, "raw log %s", path);
		raw_log_close(&log);
		return ret;
	}
	*log_r = log;
	return 0;
}

static void write_line(struct raw_log *log, enum raw_log_direction direction)
{
	struct buf *line = &log->line[direction];
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	buf_clear(&log->text);
	(void)buf_printf(&log->text, "%lld.%06ld %c: ", (long long)now.tv_sec, now.tv_nsec / 1000,
			 direction == RAW_LOG_IN ? 'I' : 'O');
	(void)buf_append(&log->text, line->data, line->len);
	(void)buf_append_byte(&log->text, '\n');
	buf_clear(line);
	int ret = log->text.failed != 0 ? log->text.failed
					: file_write_all(log->fd, log->text.data, log->text.len);
	if (ret < 0) {
		log_warning("raw log %s: %s: it ends here", log->path, strerror(-ret));
		file_close(&log->fd);
	}
}

void raw_log_add(struct raw_log *log, enum raw_log_direction direction, const char *data,
		 size_t len)
{
	while (log != NULL && log->fd >= 0 && len > 0) {
		struct buf *line = &log->line[direction];
		size_t room = LINE_MAX_BYTES - 1 - line->len;
		size_t piece = len < room ? len : room;
		const char *end = memchr(data, '\n', piece);

		if (end != NULL)
			piece = (size_t)(end - data);
		if (buf_append(line, data, piece) < 0)
			return;
		if (end != NULL)
			piece++;
		data += piece;
		len -= piece;
		if (end != NULL || line->len == LINE_MAX_BYTES - 1)
			write_line(log, direction);
	}
}

void raw_log_close(struct raw_log **_log)
{
	struct raw_log *log = *_log;

	if (log == NULL)
		return;
	*_log = NULL;
	for (int i = 0; i < 2; i++) {
		if (log->fd >= 0 && log->line[i].len > 0)
			write_line(log, (enum raw_log_direction)i);
		buf_free(&log->line[i]);
	}
	buf_free(&log->text);
	file_close(&log->fd);
	free(log->path);
	free(log);
}
