/* Digests, by libcrypto. See digest.h. */
#include "store/base/digest.h"

#include <errno.h>
#include <stdlib.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

static void digest(const EVP_MD *type, const void *data, size_t len, uint8_t *out)
{
	/* Fails only for a digest that libcrypto was built without, or without memory. */
	if (EVP_Digest(data, len, out, NULL, type, NULL) != 1)
		abort();
}

void digest_sha1(const void *data, size_t len, uint8_t sha1_r[DIGEST_SHA1_SIZE])
{
	digest(EVP_sha1(), data, len, sha1_r);
}

void digest_md5(const void *data, size_t len, uint8_t md5_r[DIGEST_MD5_SIZE])
{
	digest(EVP_md5(), data, len, md5_r);
}

void digest_to_hex(const uint8_t *digest, size_t size, char *hex_r)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < size; i++) {
		*hex_r++ = digits[digest[i] >> 4];
		*hex_r++ = digits[digest[i] & 15];
	}
	*hex_r = '\0';
}

/* An EVP_MD_CTX by another name. */
static EVP_MD_CTX *context(struct digest_sum *sum)
{
	return (EVP_MD_CTX *)sum;
}

int digest_sum_begin(struct digest_sum **sum)
{
	if (!*sum)
		*sum = (struct digest_sum *)EVP_MD_CTX_new();
	return *sum && EVP_DigestInit_ex(context(*sum), EVP_sha1(), NULL) == 1 ? 0 : -ENOMEM;
}

void digest_sum_add(struct digest_sum *sum, const void *data, size_t len)
{
	if (EVP_DigestUpdate(context(sum), data, len) != 1)
		abort();
}

void digest_sum_end(struct digest_sum *sum, uint8_t sha1_r[DIGEST_SHA1_SIZE])
{
	if (EVP_DigestFinal_ex(context(sum), sha1_r, NULL) != 1)
		abort();
}

void digest_sum_free(struct digest_sum **sum)
{
	EVP_MD_CTX_free(context(*sum));
	*sum = NULL;
}

bool secret_equal(const void *a, size_t a_len, const void *b, size_t b_len)
{
	uint8_t hash_a[DIGEST_SHA1_SIZE], hash_b[DIGEST_SHA1_SIZE];

	/* Comparing digests makes the time independent of the length, too. */
	digest_sha1(a, a_len, hash_a);
	digest_sha1(b, b_len, hash_b);
	return CRYPTO_memcmp(hash_a, hash_b, sizeof hash_a) == 0 && a_len == b_len;
}
