/*
 * Little-endian access and the log's size encoding.
 */
#include "store/index/index_format.h"
#include "store/index/index.h"

uint16_t index_get16(const void *data)
{
	const uint8_t *p = data;

	return (uint16_t)(p[0] | p[1] << 8);
}

uint32_t index_get32(const void *data)
{
	const uint8_t *p = data;

	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t index_get64(const void *data)
{
	const uint8_t *p = data;

	return (uint64_t)index_get32(p) | (uint64_t)index_get32(p + 4) << 32;
}

void index_put16(void *data, uint16_t value)
{
	uint8_t *p = data;

	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

void index_put32(void *data, uint32_t value)
{
	uint8_t *p = data;

	index_put16(p, (uint16_t)value);
	index_put16(p + 2, (uint16_t)(value >> 16));
}

void index_put64(void *data, uint64_t value)
{
	uint8_t *p = data;

	index_put32(p, (uint32_t)value);
	index_put32(p + 4, (uint32_t)(value >> 32));
}

void index_size_encode(uint32_t size, uint8_t bytes_r[4])
{
	uint32_t words = size / 4;

	bytes_r[0] = (uint8_t)(0x80 | (words >> 21 & 0x7f));
	bytes_r[1] = (uint8_t)(0x80 | (words >> 14 & 0x7f));
	bytes_r[2] = (uint8_t)(0x80 | (words >> 7 & 0x7f));
	bytes_r[3] = (uint8_t)(0x80 | (words & 0x7f));
}

uint32_t index_size_decode(const uint8_t bytes[4])
{
	uint32_t words = 0;

	for (int i = 0; i < 4; i++) {
		if ((bytes[i] & 0x80) == 0)
			return 0;
		words = words << 7 | (bytes[i] & 0x7f);
	}
	return words * 4;
}
