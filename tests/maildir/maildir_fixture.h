/*
 * A user with a Maildir in a temporary directory, and short ways to do to it what mail programs do.
 * Everything here fails the test when it does not work.
 */
#ifndef DSYNCFS_TESTS_MAILDIR_FIXTURE_H
#define DSYNCFS_TESTS_MAILDIR_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "store/mail_user.h"
#include "store/mailbox.h"

struct fixture {
	char root[256]; /* temporary directory: conf, home */
	char home[300];
	char maildir[320];
	struct mail_user user;
};

/* cmocka setup and teardown; *state is a struct fixture. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* Makes ~/Maildir/<name> (an absolute sample directory is copied there when sample is given). */
void fixture_make_maildir(struct fixture *fx);
void fixture_unpack_sample(struct fixture *fx, const char *sample);

/* The user gets another mail location ("mdbox:~/mdbox"). */
void fixture_set_location(struct fixture *fx, const char *location);

void must_shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
char *shell_output(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Fails with the error's text. */
#define must(rc, err) must_at((rc), (err), #rc, __FILE__, __LINE__)
void must_at(int rc, const struct error *err, const char *what, const char *file, int line);

struct mailbox *must_open(struct fixture *fx, const char *name);
/* Writes a file as a delivery agent does: tmp/, then to dir ("new" or "cur") under name. */
void deliver(struct fixture *fx, const char *dir, const char *name, const char *body);
void write_file(const char *path, const char *text, size_t len);
char *read_file(const char *path);
bool path_exists(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Number of times the uidlist lock was taken is not visible; size and inode of a file are. */
struct file_stamp {
	uint64_t inode, size;
};
struct file_stamp stamp_of(const struct fixture *fx, const char *file);

/* Events, in the order of a list that ends with kind 0. */
struct mail_event event_delivered(const char *name);
struct mail_event event_renamed(const char *from, const char *to);
struct mail_event event_removed(const char *name);
struct mail_event event_touched(void);
/* Returns whether something was written. */
bool catch_up(struct mailbox *box, const struct mail_event *events, size_t count);

/* Appends one message. */
struct new_mail {
	uint32_t uid; /* 0: the next */
	const char *guid, *body;
	uint8_t flags;
	const char *keywords[4];
	bool recent;
	uint64_t modseq;
	int64_t received, saved;
	struct mail_pop3 pop3;
};
uint32_t append_mail(struct mailbox *box, const struct new_mail *mail);
/* Adds to an open transaction; spool_mail() before mailbox_begin(). */
struct mail_spool *spool_mail(struct mailbox *box, const struct new_mail *mail);
void txn_append(struct mailbox_txn *txn, struct mail_spool *spool, const struct new_mail *mail,
		uint32_t uid);

/* "uid guid flags keyword,keyword modseq\n" of every message; flags as in file names. */
char *describe(struct mailbox *box, bool with_modseq);
/* The whole body; malloc'ed. */
char *body_of(struct mailbox *box, uint32_t uid, struct mail_body_info *info_r);

#endif
