/*
 * An error that a person will read.
 *
 * Functions return 0 (or a count) on success and a negative errno on failure. Where the failure has
 * to be told to an admin they also fill a struct error, whose text names the user, mailbox, file
 * and cause. A struct error lives on the caller's stack; nothing in it has to be freed. NULL is
 * accepted wherever a struct error pointer is.
 */
#ifndef DSYNCFS_BASE_ERROR_H
#define DSYNCFS_BASE_ERROR_H

#define ERROR_TEXT_MAX 1024

struct error {
	int code; /* negative errno; 0 = no error */
	char text[ERROR_TEXT_MAX];
};

/* Sets code (a negative errno) and the text. Returns code, so that callers can `return
 * error_set(...)`. */
int error_set(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As error_set, and appends ": strerror(-code)". */
int error_errno(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__
/* It sees no other file than the one it reads: what they return is negative. */
static inline int error_negative(int code)
{
	if (code >= 0)
		__builtin_unreachable();
	return code;
}
#define error_set(...)	 error_negative(error_set(__VA_ARGS__))
#define error_errno(...) error_negative(error_errno(__VA_ARGS__))
#endif

/* Puts "text: " in front of what err already says. Returns err->code. */
int error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
