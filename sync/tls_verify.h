/* What is wrong with a peer's certificate, in words. Part of tls.c. */
#ifndef DSYNCFS_SYNC_TLS_VERIFY_H
#define DSYNCFS_SYNC_TLS_VERIFY_H

#include <openssl/x509.h>
#include "store/base/buf.h"

struct tls_verdict {
	const char *host; /* the name or address that was asked for */
	struct buf text;  /* empty: nothing is wrong */
	int code;	  /* X509_V_ERR_ of the first problem, for the alert */
};

/* Checks the chain in store_ctx and writes down every problem. 1: it is good, else 0. */
int tls_verify(X509_STORE_CTX *store_ctx, struct tls_verdict *verdict);

#endif
