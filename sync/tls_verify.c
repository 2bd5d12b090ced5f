/*
 * What is wrong with a peer's certificate: its name, its chain, its date, or a key in it.
 *
 * The check goes on after a problem, so that an admin hears of all of them at once; it fails at its
 * end if there was any.
 */
#include "sync/tls_verify.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <arpa/inet.h>
#include <openssl/asn1.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#define NAME_SIZE   256
#define NAMES_MAX   512 /* bytes of the names that a certificate has, in a message */
#define IN_ADDRESS  4
#define IN6_ADDRESS 16

static void append_subject(struct buf *out, const X509 *cert)
{
	char name[NAME_SIZE] = "";

	if (cert)
		X509_NAME_oneline(X509_get_subject_name(cert), name, sizeof name);
	buf_append_str(out, name[0] ? name : "(no subject)");
}

static void append_time(struct buf *out, const ASN1_TIME *when)
{
	struct tm tm;
	char text[64];

	if (ASN1_TIME_to_tm(when, &tm) != 1)
		return;
	if (strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm) > 0)
		buf_append_str(out, text);
}

/* ---- names ---- */

static void append_text(struct buf *out, const ASN1_STRING *string)
{
	const unsigned char *data = ASN1_STRING_get0_data(string);
	int len = ASN1_STRING_length(string);

	for (int i = 0; i < len; i++)
		buf_append_byte(out, data[i] > 0x20 && data[i] < 0x7f ? data[i] : '?');
}

static bool append_name(struct buf *out, const GENERAL_NAME *name)
{
	const char *comma = out->len ? ", " : "";
	char address[INET6_ADDRSTRLEN];
	int type;
	const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);

	if (type == GEN_DNS) {
		buf_append_str(out, comma);
		append_text(out, value);
		return true;
	}
	if (type != GEN_IPADD)
		return false;
	type = ASN1_STRING_length(value) == IN_ADDRESS	  ? AF_INET
	       : ASN1_STRING_length(value) == IN6_ADDRESS ? AF_INET6
							  : AF_UNSPEC;
	if (type == AF_UNSPEC ||
	    !inet_ntop(type, ASN1_STRING_get0_data(value), address, sizeof address))
		return false;
	buf_printf(out, "%s%s", comma, address);
	return true;
}

/* Of the extension; without one the common name, which then counts. */
static void append_names(struct buf *out, X509 *cert)
{
	struct buf names = BUF_INIT(NAMES_MAX);
	GENERAL_NAMES *list = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	X509_NAME *subject = X509_get_subject_name(cert);
	unsigned left_out = 0;

	for (int i = 0; list && i < sk_GENERAL_NAME_num(list); i++) {
		if (names.len > NAMES_MAX / 2)
			left_out++;
		else
			append_name(&names, sk_GENERAL_NAME_value(list, i));
	}
	GENERAL_NAMES_free(list);
	for (int i = -1;
	     names.len == 0 && (i = X509_NAME_get_index_by_NID(subject, NID_commonName, i)) >= 0;)
		append_text(&names, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, i)));
	buf_append_str(out, names.len ? buf_str(&names) : "no name at all");
	if (left_out)
		buf_printf(out, " and %u more", left_out);
	buf_free(&names);
}

/* ---- problems ---- */

static void say_name(struct tls_verdict *verdict, X509 *cert)
{
	buf_printf(&verdict->text, "its name: it is for ");
	append_names(&verdict->text, cert);
	buf_printf(&verdict->text, ", not for %s", verdict->host);
}

static void say_date(struct tls_verdict *verdict, const X509 *cert, bool expired)
{
	buf_printf(&verdict->text, "its date: ");
	append_subject(&verdict->text, cert);
	buf_append_str(&verdict->text, expired ? " expired " : " is not valid before ");
	append_time(&verdict->text, expired ? X509_get0_notAfter(cert) : X509_get0_notBefore(cert));
}

static void say_key(struct tls_verdict *verdict, const X509 *cert, int code)
{
	buf_printf(&verdict->text, "its key: %s in ", X509_verify_cert_error_string(code));
	append_subject(&verdict->text, cert);
}

static void say_chain(struct tls_verdict *verdict, const X509 *cert, int code)
{
	char issuer[NAME_SIZE] = "";

	buf_printf(&verdict->text, "its chain: %s at ", X509_verify_cert_error_string(code));
	append_subject(&verdict->text, cert);
	if (code != X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY || !cert)
		return;
	X509_NAME_oneline(X509_get_issuer_name(cert), issuer, sizeof issuer);
	buf_printf(&verdict->text,
		   ", issued by %s, which is not in ssl_client_ca_file or "
		   "ssl_client_ca_dir nor sent by the peer",
		   issuer);
}

/* One missing issuer has OpenSSL complain three times. */
static bool is_consequence(const struct tls_verdict *verdict, int code)
{
	return verdict->code == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY &&
	       (code == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE ||
		code == X509_V_ERR_CERT_UNTRUSTED);
}

static int on_problem(int ok, X509_STORE_CTX *store_ctx)
{
	struct tls_verdict *verdict = X509_STORE_CTX_get_app_data(store_ctx);
	X509 *cert = X509_STORE_CTX_get_current_cert(store_ctx);
	int code = X509_STORE_CTX_get_error(store_ctx);

	if (ok || is_consequence(verdict, code))
		return 1;
	if (verdict->code == X509_V_OK)
		verdict->code = code;
	if (verdict->text.len)
		buf_append_str(&verdict->text, "; ");
	switch (code) {
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		say_name(verdict, X509_STORE_CTX_get0_cert(store_ctx));
		break;
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		say_date(verdict, cert, code == X509_V_ERR_CERT_HAS_EXPIRED);
		break;
	case X509_V_ERR_EE_KEY_TOO_SMALL:
	case X509_V_ERR_CA_KEY_TOO_SMALL:
	case X509_V_ERR_CA_MD_TOO_WEAK:
		say_key(verdict, cert, code);
		break;
	default:
		say_chain(verdict, cert, code);
		break;
	}
	return 1;
}

int tls_verify(X509_STORE_CTX *store_ctx, struct tls_verdict *verdict)
{
	int rc;

	X509_STORE_CTX_set_app_data(store_ctx, verdict);
	X509_STORE_CTX_set_verify_cb(store_ctx, on_problem);
	rc = X509_verify_cert(store_ctx);
	if (rc <= 0 && verdict->code == X509_V_OK) {
		verdict->code = X509_STORE_CTX_get_error(store_ctx);
		if (verdict->code == X509_V_OK)
			verdict->code = X509_V_ERR_UNSPECIFIED;
		buf_printf(&verdict->text, "its chain: %s",
			   X509_verify_cert_error_string(verdict->code));
	}
	X509_STORE_CTX_set_error(store_ctx, verdict->code);
	return verdict->code == X509_V_OK;
}
