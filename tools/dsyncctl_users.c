/* dsyncctl users: who has mail below mail_root. Needs no running dsyncd. */
#include "tools/dsyncctl.h"

#include <errno.h>
#include <stdio.h>
#include <sysexits.h>

#include "store/mail_user.h"

struct listing {
	const struct settings *set;
	json_t *users; /* NULL: text */
	unsigned failed;
};

static const char *driver_name(enum mail_driver driver)
{
	static const char *const names[] = {"maildir", "mdbox", "sdbox"};

	return names[driver];
}

static int on_user(void *ctx, const char *name)
{
	struct listing *listing = ctx;
	struct mail_user *user = NULL;
	struct error err = {0};
	int rc = mail_user_find(listing->set, name, &user, &err);

	if (rc < 0) {
		fprintf(stderr, "dsyncctl: %s\n", err.text);
		listing->failed++;
		return 0;
	}
	if (listing->users)
		json_array_append_new(listing->users,
				      json_pack("{s:s, s:s, s:I, s:I, s:s, s:s}", "user",
						user->name, "home", user->home, "uid",
						(json_int_t)user->uid, "gid", (json_int_t)user->gid,
						"driver", driver_name(user->location.driver),
						"mail_root", user->location.root));
	else
		printf("%s\t%s\t%u:%u\t%s:%s\n", user->name, user->home, user->uid, user->gid,
		       driver_name(user->location.driver), user->location.root);
	mail_user_free(&user);
	return 0;
}

int dsyncctl_users(const struct dsyncctl *ctl, int argc, char **argv)
{
	struct listing listing = {.set = ctl->set, .users = ctl->json ? json_array() : NULL};
	struct error err = {0};
	int rc;

	if (argc != 1) {
		fprintf(stderr, "usage: dsyncctl users\n");
		json_decref(listing.users);
		return EX_USAGE;
	}
	rc = mail_user_each(ctl->set, on_user, &listing, &err);
	if (rc < 0) {
		json_decref(listing.users);
		return dsyncctl_fail(&err);
	}
	rc = ctl->json ? dsyncctl_print_json(json_pack("{s:o}", "users", listing.users)) : EX_OK;
	return rc == EX_OK && listing.failed ? EX_DATAERR : rc;
}
