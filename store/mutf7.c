/*
 * Modified UTF-7 (RFC 3501 5.1.3) and the UTF-8 check that mailbox names need. See mailbox_name.h.
 *
 * Only the canonical form is taken when decoding: one name has one storage name, or two directories
 * could claim to be the same mailbox.
 */
#include "store/mailbox_name.h"

#include <errno.h>
#include <string.h>

static const char base64_digits[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/* Length of the UTF-8 sequence at text and its code point; 0 for an invalid one. */
static size_t utf8_next(const char *text, size_t len, uint32_t *code_r)
{
	const unsigned char *p = (const unsigned char *)text;
	uint32_t code;
	size_t need;

	if (len == 0)
		return 0;
	if (p[0] < 0x80) {
		*code_r = p[0];
		return 1;
	}
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		need = 2;
		code = p[0] & 0x1f;
	} else if ((p[0] & 0xf0) == 0xe0) {
		need = 3;
		code = p[0] & 0x0f;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		need = 4;
		code = p[0] & 0x07;
	} else {
		return 0;
	}
	if (len < need)
		return 0;
	for (size_t i = 1; i < need; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (p[i] & 0x3f);
	}
	/* overlong forms, surrogates, beyond Unicode */
	if ((need == 3 && code < 0x800) || (need == 4 && (code < 0x10000 || code > 0x10ffff)) ||
	    (code >= 0xd800 && code <= 0xdfff))
		return 0;
	*code_r = code;
	return need;
}

bool utf8_text_is_valid(const char *text, size_t len)
{
	uint32_t code;

	while (len) {
		size_t n = utf8_next(text, len, &code);

		if (n == 0 || code < 0x20 || code == 0x7f)
			return false;
		text += n;
		len -= n;
	}
	return true;
}

static int utf8_append(struct buf *out, uint32_t code)
{
	char bytes[4];
	size_t len;

	if (code < 0x80) {
		bytes[0] = (char)code;
		len = 1;
	} else if (code < 0x800) {
		bytes[0] = (char)(0xc0 | code >> 6);
		bytes[1] = (char)(0x80 | (code & 0x3f));
		len = 2;
	} else if (code < 0x10000) {
		bytes[0] = (char)(0xe0 | code >> 12);
		bytes[1] = (char)(0x80 | (code >> 6 & 0x3f));
		bytes[2] = (char)(0x80 | (code & 0x3f));
		len = 3;
	} else {
		bytes[0] = (char)(0xf0 | code >> 18);
		bytes[1] = (char)(0x80 | (code >> 12 & 0x3f));
		bytes[2] = (char)(0x80 | (code >> 6 & 0x3f));
		bytes[3] = (char)(0x80 | (code & 0x3f));
		len = 4;
	}
	return buf_append(out, bytes, len);
}

/* Bits waiting for a whole base64 digit. */
struct encoder {
	struct buf *out;
	uint32_t bits;
	unsigned count;
	bool open; /* inside "&...-" */
};

static void encode_unit(struct encoder *enc, uint32_t unit)
{
	if (!enc->open) {
		buf_append_byte(enc->out, '&');
		enc->open = true;
	}
	enc->bits = enc->bits << 16 | unit;
	enc->count += 16;
	while (enc->count >= 6) {
		enc->count -= 6;
		buf_append_byte(enc->out,
				(unsigned char)base64_digits[enc->bits >> enc->count & 0x3f]);
	}
	enc->bits &= (1u << enc->count) - 1;
}

static void encode_close(struct encoder *enc)
{
	if (!enc->open)
		return;
	if (enc->count)
		buf_append_byte(enc->out,
				(unsigned char)base64_digits[enc->bits << (6 - enc->count) & 0x3f]);
	buf_append_byte(enc->out, '-');
	enc->bits = 0;
	enc->count = 0;
	enc->open = false;
}

int mutf7_encode(const char *utf8, size_t len, struct buf *out)
{
	struct encoder enc = {.out = out};
	uint32_t code;

	while (len) {
		size_t n = utf8_next(utf8, len, &code);

		if (n == 0)
			return -EILSEQ;
		utf8 += n;
		len -= n;
		if (code >= 0x20 && code < 0x7f) {
			encode_close(&enc);
			buf_append_byte(out, (unsigned char)code);
			if (code == '&')
				buf_append_byte(out, '-');
		} else if (code < 0x10000) {
			encode_unit(&enc, code);
		} else {
			encode_unit(&enc, 0xd800 + ((code - 0x10000) >> 10));
			encode_unit(&enc, 0xdc00 + ((code - 0x10000) & 0x3ff));
		}
	}
	encode_close(&enc);
	return out->failed;
}

/* Decodes the digits of one "&...-" group. */
static int decode_group(const char *digits, size_t len, struct buf *out)
{
	uint32_t bits = 0, high = 0;
	unsigned count = 0;

	for (size_t i = 0; i < len; i++) {
		const char *digit = memchr(base64_digits, digits[i], 64);
		uint32_t unit;

		if (!digit)
			return -EILSEQ;
		bits = bits << 6 | (uint32_t)(digit - base64_digits);
		count += 6;
		if (count < 16)
			continue;
		count -= 16;
		unit = bits >> count & 0xffff;
		bits &= (1u << count) - 1;
		if (high) {
			if (unit < 0xdc00 || unit > 0xdfff)
				return -EILSEQ;
			utf8_append(out, 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00));
			high = 0;
		} else if (unit >= 0xd800 && unit <= 0xdbff) {
			high = unit;
		} else if ((unit >= 0xdc00 && unit <= 0xdfff) || (unit >= 0x20 && unit < 0x7f)) {
			return -EILSEQ; /* a lone low surrogate; printable ASCII stands for itself
					 */
		} else {
			utf8_append(out, unit);
		}
	}
	/* No unfinished pair, fewer than 6 bits of padding, all of them zero. */
	return high || count >= 6 || bits ? -EILSEQ : 0;
}

int mutf7_decode(const char *mutf7, size_t len, struct buf *out)
{
	bool after_group = false;

	while (len) {
		unsigned char c = (unsigned char)*mutf7;
		const char *end;

		if (c < 0x20 || c >= 0x7f)
			return -EILSEQ;
		if (c != '&') {
			buf_append_byte(out, c);
			mutf7++;
			len--;
			after_group = false;
			continue;
		}
		end = memchr(mutf7, '-', len);
		if (!end)
			return -EILSEQ;
		if (end == mutf7 + 1) {
			buf_append_byte(out, '&');
			after_group = false;
		} else {
			/* "&AAA-&BBB-" is not canonical: it would have been one group. */
			if (after_group ||
			    decode_group(mutf7 + 1, (size_t)(end - mutf7 - 1), out) < 0)
				return -EILSEQ;
			after_group = true;
		}
		len -= (size_t)(end + 1 - mutf7);
		mutf7 = end + 1;
	}
	return out->failed;
}
