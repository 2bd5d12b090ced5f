/* Bounded growable buffer. See buf.h. */
#include "store/base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *buf, size_t max_bytes)
{
	*buf = (struct buf)BUF_INIT(max_bytes);
}

void buf_free(struct buf *buf)
{
	if (!buf)
		return;
	free(buf->data);
	buf->data = NULL;
	buf->len = buf->size = 0;
}

void buf_clear(struct buf *buf)
{
	buf->len = 0;
	buf->failed = 0;
	if (buf->data)
		buf->data[0] = '\0';
}

void *buf_reserve(struct buf *buf, size_t len)
{
	size_t want, size;
	char *data;

	if (buf->failed)
		return NULL;
	if (len > buf->max || buf->len > buf->max - len) {
		buf->failed = -EMSGSIZE;
		return NULL;
	}
	want = buf->len + len + 1;
	if (want > buf->size) {
		size = buf->size ? buf->size : 64;
		while (size < want)
			size *= 2;
		data = realloc(buf->data, size);
		if (!data) {
			buf->failed = -ENOMEM;
			return NULL;
		}
		buf->data = data;
		buf->size = size;
	}
	return buf->data + buf->len;
}

void buf_commit(struct buf *buf, size_t len)
{
	buf->len += len;
	buf->data[buf->len] = '\0';
}

int buf_append(struct buf *buf, const void *data, size_t len)
{
	void *room = buf_reserve(buf, len);

	if (!room)
		return buf->failed;
	if (len)
		memcpy(room, data, len);
	buf_commit(buf, len);
	return 0;
}

int buf_append_str(struct buf *buf, const char *str)
{
	return buf_append(buf, str, strlen(str));
}

int buf_append_byte(struct buf *buf, unsigned char byte)
{
	return buf_append(buf, &byte, 1);
}

int buf_printf(struct buf *buf, const char *fmt, ...)
{
	va_list args;
	char *room;
	int len;

	va_start(args, fmt);
	len = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (len < 0)
		return buf->failed = -EINVAL;
	room = buf_reserve(buf, (size_t)len);
	if (!room)
		return buf->failed;
	va_start(args, fmt);
	vsnprintf(room, (size_t)len + 1, fmt, args);
	va_end(args);
	buf_commit(buf, (size_t)len);
	return 0;
}

void buf_consume(struct buf *buf, size_t len)
{
	if (!len)
		return;
	memmove(buf->data, buf->data + len, buf->len - len);
	buf->len -= len;
	buf->data[buf->len] = '\0';
}

const char *buf_str(const struct buf *buf)
{
	return buf->data ? buf->data : "";
}
