/* Digests that the formats and the protocol are made of (SHA-1, MD5), and constant-time comparison.
 */
#ifndef DSYNCFS_BASE_DIGEST_H
#define DSYNCFS_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_SHA1_SIZE 20
#define DIGEST_MD5_SIZE	 16

void digest_sha1(const void *data, size_t len, uint8_t sha1_r[DIGEST_SHA1_SIZE]);
void digest_md5(const void *data, size_t len, uint8_t md5_r[DIGEST_MD5_SIZE]);

/* Two hex digits a byte, and a NUL. */
void digest_to_hex(const uint8_t *digest, size_t size, char *hex_r);

/* Of what comes piece by piece. begin() makes it, or begins it anew; end() gives the digest, and
 * free() what it holds. */
struct digest_sum;
int digest_sum_begin(struct digest_sum **sum);
void digest_sum_add(struct digest_sum *sum, const void *data, size_t len);
void digest_sum_end(struct digest_sum *sum, uint8_t sha1_r[DIGEST_SHA1_SIZE]);
void digest_sum_free(struct digest_sum **sum);

/* Compares two secrets in a time that does not depend on where they differ. */
bool secret_equal(const void *a, size_t a_len, const void *b, size_t b_len);

#endif
