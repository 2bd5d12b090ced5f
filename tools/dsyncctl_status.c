/* dsyncctl status: the verdict first, then the peers, then the users that are behind (or those
 * asked for). */
#include "tools/dsyncctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "sync/control.h"

#define BEHIND 1 /* exit status */

struct peer_line {
	char *address, *id, *reason;
	bool up;
	int64_t since, oldest;
	long users;
};

struct user_line {
	char *user, *peer, *reason;
	int priority;
	bool full, running;
	int64_t queued_since, last_success;
	long failures, events;
};

struct status {
	char *trouble;
	struct peer_line *peers;
	size_t peer_count;
	struct user_line *users;
	size_t user_count;
	int64_t now;
};

static int add_peer(struct status *status, char *const *f)
{
	struct peer_line *grown = realloc(status->peers, (status->peer_count + 1) * sizeof *grown);

	if (!grown)
		return -1;
	status->peers = grown;
	grown[status->peer_count++] = (struct peer_line){
		.address = strdup(f[1]),
		.id = strdup(f[2]),
		.up = f[3][0] == '1',
		.since = strtoll(f[4], NULL, 10),
		.users = strtol(f[5], NULL, 10),
		.oldest = strtoll(f[6], NULL, 10),
		.reason = strdup(f[7]),
	};
	return 0;
}

static int add_user(struct status *status, char *const *f)
{
	struct user_line *grown;

	/* Doubled each time the count is a power of two. */
	if ((status->user_count & (status->user_count - 1)) == 0) {
		size_t size = status->user_count ? status->user_count * 2 : 1;

		grown = realloc(status->users, size * sizeof *grown);
		if (!grown)
			return -1;
		status->users = grown;
	}
	status->users[status->user_count++] = (struct user_line){
		.user = strdup(f[1]),
		.peer = strdup(f[2]),
		.priority = (int)strtol(f[3], NULL, 10),
		.full = f[4][0] == '1',
		.queued_since = strtoll(f[6], NULL, 10),
		.last_success = strtoll(f[8], NULL, 10),
		.failures = strtol(f[10], NULL, 10),
		.reason = strdup(f[12][0] != '\0' ? f[12] : f[11]),
		.events = strtol(f[13], NULL, 10),
		.running = f[14][0] == '1',
	};
	return 0;
}

static int on_line(void *ctx, char *const *field, unsigned count)
{
	struct status *status = ctx;

	if (field[0][0] == 'J' && count == 2) {
		free(status->trouble);
		status->trouble = strdup(field[1]);
		return 0;
	}
	if (field[0][0] == 'P' && count == 8)
		return add_peer(status, field);
	if (field[0][0] == 'U' && count == 15)
		return add_user(status, field);
	return 0; /* a later dsyncd may say more */
}

static void free_status(struct status *status)
{
	for (size_t i = 0; i < status->peer_count; i++) {
		free(status->peers[i].address);
		free(status->peers[i].id);
		free(status->peers[i].reason);
	}
	for (size_t i = 0; i < status->user_count; i++) {
		free(status->users[i].user);
		free(status->users[i].peer);
		free(status->users[i].reason);
	}
	free(status->peers);
	free(status->users);
	free(status->trouble);
}

static bool user_is_behind(const struct user_line *user)
{
	return user->priority || user->events;
}

/* The one line that an admin wants first. true: all is well. */
static bool verdict(const struct status *status, char *text, size_t size)
{
	char ago[32];
	long behind = 0;
	int64_t oldest = 0;

	if (status->trouble && status->trouble[0] != '\0') {
		snprintf(text, size, "no changes are seen: %s", status->trouble);
		return false;
	}
	if (status->peer_count == 0) {
		snprintf(text, size, "no peer is configured (mail_replica)");
		return false;
	}
	for (size_t i = 0; i < status->peer_count; i++) {
		const struct peer_line *peer = &status->peers[i];

		if (!peer->up) {
			snprintf(text, size, "peer %s unreachable since %s: %s", peer->address,
				 dsyncctl_ago(status->now - peer->since, ago), peer->reason);
			return false;
		}
		if (peer->users > behind)
			behind = peer->users;
		if (peer->oldest && (oldest == 0 || peer->oldest < oldest))
			oldest = peer->oldest;
	}
	if (behind) {
		snprintf(text, size, "behind: %ld user%s, oldest change %s ago", behind,
			 behind == 1 ? "" : "s", dsyncctl_ago(status->now - oldest, ago));
		return false;
	}
	snprintf(text, size, "in sync");
	return true;
}

static void print_text(const struct status *status, const char *text)
{
	static const char *const priorities[] = {"-", "low", "high", "sync"};
	char ago[32];

	printf("%s\n", text);
	for (size_t i = 0; i < status->peer_count; i++) {
		const struct peer_line *peer = &status->peers[i];

		printf("peer %s  %s  users behind: %ld", peer->address, peer->up ? "up" : "down",
		       peer->users);
		if (peer->id[0] != '\0')
			printf("  id %s", peer->id);
		if (!peer->up)
			printf("  for %s: %s", dsyncctl_ago(status->now - peer->since, ago),
			       peer->reason);
		putchar('\n');
	}
	for (size_t i = 0; i < status->user_count; i++) {
		const struct user_line *user = &status->users[i];

		printf("user %s  peer %s  %s%s", user->user, user->peer,
		       user_is_behind(user) ? "behind" : "in sync",
		       user->running ? ", syncing" : "");
		if (user->priority > 0 && user->priority <= 3)
			printf("  priority %s%s", priorities[user->priority],
			       user->full ? " (full)" : "");
		if (user->queued_since)
			printf("  for %s", dsyncctl_ago(status->now - user->queued_since, ago));
		printf("  last sync %s",
		       user->last_success ? dsyncctl_ago(status->now - user->last_success, ago)
					  : "never");
		if (user->last_success)
			printf(" ago");
		if (user->failures || user->reason[0] != '\0')
			printf("  failures %ld: %s", user->failures, user->reason);
		putchar('\n');
	}
}

static json_t *to_json(const struct status *status, const char *text, bool in_sync)
{
	json_t *peers = json_array(), *users = json_array();

	for (size_t i = 0; i < status->peer_count; i++) {
		const struct peer_line *peer = &status->peers[i];

		json_array_append_new(peers,
				      json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:s}", "address",
						peer->address, "id", peer->id, "up", peer->up,
						"since", (json_int_t)peer->since, "users_behind",
						(json_int_t)peer->users, "oldest_change",
						(json_int_t)peer->oldest, "reason", peer->reason));
	}
	for (size_t i = 0; i < status->user_count; i++) {
		const struct user_line *user = &status->users[i];

		json_array_append_new(
			users,
			json_pack("{s:s, s:s, s:b, s:i, s:b, s:b, s:I, s:I, s:I, s:I, s:s}", "user",
				  user->user, "peer", user->peer, "in_sync", !user_is_behind(user),
				  "priority", user->priority, "full", user->full, "running",
				  user->running, "queued_since", (json_int_t)user->queued_since,
				  "last_success", (json_int_t)user->last_success, "failures",
				  (json_int_t)user->failures, "events", (json_int_t)user->events,
				  "reason", user->reason));
	}
	return json_pack("{s:s, s:b, s:o, s:o}", "verdict", text, "in_sync", in_sync, "peers",
			 peers, "users", users);
}

int dsyncctl_status(const struct dsyncctl *ctl, int argc, char **argv)
{
	const char *request[] = {"STATUS", argc > 1 ? argv[1] : NULL, NULL};
	struct status status = {.now = time(NULL)};
	struct error err = {0};
	char text[1500];
	bool in_sync;
	int rc;

	if (argc > 2) {
		fprintf(stderr, "usage: dsyncctl status [usermask]\n");
		return EX_USAGE;
	}
	rc = control_request(ctl->set->state_dir, request, on_line, &status, &err);
	if (rc < 0) {
		free_status(&status);
		return dsyncctl_fail(&err);
	}
	in_sync = verdict(&status, text, sizeof text);
	rc = EX_OK;
	if (ctl->json)
		rc = dsyncctl_print_json(to_json(&status, text, in_sync));
	else
		print_text(&status, text);
	free_status(&status);
	if (rc == EX_OK && !in_sync)
		rc = BEHIND;
	return rc;
}
