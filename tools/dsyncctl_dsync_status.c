/* dsyncctl dsync-status: the syncs that are running, and connections that wait for one. */
#include "tools/dsyncctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "sync/control.h"

struct listing {
	json_t *syncs; /* NULL: text */
	unsigned count;
};

static int on_line(void *ctx, char *const *field, unsigned count)
{
	struct listing *listing = ctx;
	bool incoming;
	long long ms;

	if (field[0][0] != 'S' || count != 6)
		return 0;
	incoming = field[3][0] == '1';
	ms = strtoll(field[5], NULL, 10);
	if (listing->syncs)
		json_array_append_new(listing->syncs,
				      json_pack("{s:s, s:s, s:b, s:s, s:I}", "user", field[1],
						"peer", field[2], "incoming", incoming, "status",
						field[4], "ms", (json_int_t)ms));
	else
		printf("%-40s %s %-30s %s, %lld.%03lld s\n", field[1], incoming ? "from" : "to  ",
		       field[2], field[4], ms / 1000, ms % 1000);
	listing->count++;
	return 0;
}

int dsyncctl_dsync_status(const struct dsyncctl *ctl, int argc, char **argv)
{
	static const char *const request[] = {"SYNCS", NULL};
	struct listing listing = {.syncs = ctl->json ? json_array() : NULL};
	struct error err = {0};

	if (argc != 1) {
		fprintf(stderr, "usage: dsyncctl dsync-status\n");
		json_decref(listing.syncs);
		return EX_USAGE;
	}
	if (control_request(ctl->set->state_dir, request, on_line, &listing, &err) < 0) {
		json_decref(listing.syncs);
		return dsyncctl_fail(&err);
	}
	if (ctl->json)
		return dsyncctl_print_json(json_pack("{s:o}", "syncs", listing.syncs));
	if (listing.count == 0)
		printf("no syncs are running\n");
	return EX_OK;
}
