/* Tab escaping. See tabescape.h. */
#include "store/base/tabescape.h"

int tabescape_append(struct buf *buf, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		switch (data[i]) {
		case '\0':
			buf_append(buf, "\0010", 2);
			break;
		case '\001':
			buf_append(buf, "\0011", 2);
			break;
		case '\t':
			buf_append(buf, "\001t", 2);
			break;
		case '\n':
			buf_append(buf, "\001n", 2);
			break;
		case '\r':
			buf_append(buf, "\001r", 2);
			break;
		default:
			buf_append_byte(buf, (unsigned char)data[i]);
		}
	}
	return buf->failed;
}

size_t tabunescape(char *data, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i++) {
		char c = data[i];

		if (c == '\001') {
			if (++i == len)
				break;
			switch (data[i]) {
			case '0':
				c = '\0';
				break;
			case '1':
				c = '\001';
				break;
			case 't':
				c = '\t';
				break;
			case 'n':
				c = '\n';
				break;
			case 'r':
				c = '\r';
				break;
			default:
				c = data[i];
			}
		}
		data[out++] = c;
	}
	data[out] = '\0';
	return out;
}
