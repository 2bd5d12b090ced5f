/* Real certificates for tests, made on the spot. */
#ifndef DSYNCFS_TESTS_TLS_FIXTURE_H
#define DSYNCFS_TESTS_TLS_FIXTURE_H

#include <stdbool.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

struct identity {
	EVP_PKEY *key;
	X509 *cert;
};

struct identity_options {
	const char *subject;	       /* its common name */
	const char *names;	       /* subjectAltName as OpenSSL writes it; NULL: none */
	const struct identity *issuer; /* NULL: signs itself */
	bool is_ca;
	long begins_secs, ends_secs; /* from now; both 0: valid for an hour */
	unsigned key_bits;	     /* of an RSA key; 0: an EC key */
};

void identity_make(const struct identity_options *options, struct identity *identity_r);
void identity_free(struct identity *identity);
/* A PEM file of these certificates, in order; count 0 is none. */
void write_certs(const char *path, const struct identity *const *identities, unsigned count);
void write_key(const char *path, const struct identity *identity);

#endif
