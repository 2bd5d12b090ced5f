/* Real certificates for tests. See tls_fixture.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "tls_fixture.h"

static void add_extension(X509 *cert, const struct identity *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *extension;

	X509V3_set_ctx(&ctx, issuer ? issuer->cert : cert, cert, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(extension);
	assert_int_equal(X509_add_ext(cert, extension, -1), 1);
	X509_EXTENSION_free(extension);
}

void identity_make(const struct identity_options *options, struct identity *identity_r)
{
	static long serial = 1;
	const struct identity *issuer = options->issuer;
	long ends = options->ends_secs || options->begins_secs ? options->ends_secs : 3600;
	long begins = options->begins_secs ? options->begins_secs : -60;
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);

	identity_r->cert = cert;
	identity_r->key = options->key_bits ? EVP_RSA_gen(options->key_bits) : EVP_EC_gen("P-256");
	assert_non_null(identity_r->key);
	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
	X509_gmtime_adj(X509_getm_notBefore(cert), begins);
	X509_gmtime_adj(X509_getm_notAfter(cert), ends);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
				   (const unsigned char *)options->subject, -1, -1, 0);
	X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer->cert) : name);
	X509_set_pubkey(cert, identity_r->key);
	add_extension(cert, issuer, NID_basic_constraints,
		      options->is_ca ? "critical,CA:TRUE" : "CA:FALSE");
	if (options->names)
		add_extension(cert, issuer, NID_subject_alt_name, options->names);
	assert_true(X509_sign(cert, issuer ? issuer->key : identity_r->key, EVP_sha256()) > 0);
}

void identity_free(struct identity *identity)
{
	EVP_PKEY_free(identity->key);
	X509_free(identity->cert);
	memset(identity, 0, sizeof *identity);
}

void write_certs(const char *path, const struct identity *const *identities, unsigned count)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(PEM_write_X509(file, identities[i]->cert), 1);
	fclose(file);
}

void write_key(const char *path, const struct identity *identity)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(PEM_write_PrivateKey(file, identity->key, NULL, NULL, 0, NULL, NULL), 1);
	fclose(file);
}
