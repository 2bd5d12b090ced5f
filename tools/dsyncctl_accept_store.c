/* dsyncctl accept-store: an admin's word that the backing directory which dsyncfs refuses is the
 * one to go on with. Needs neither daemon. */
#include "tools/dsyncctl.h"

#include <stdio.h>
#include <sysexits.h>

#include "store/journal/store_id.h"

int dsyncctl_accept_store(const struct dsyncctl *ctl, int argc, char **argv)
{
	struct error err = {0};

	if (argc != 1) {
		fprintf(stderr, "usage: dsyncctl accept-store\n");
		return EX_USAGE;
	}
	if (store_id_accept(ctl->set->state_dir, &err) < 0)
		return dsyncctl_fail(&err);
	if (ctl->json)
		return dsyncctl_print_json(json_pack("{s:b}", "accepted", 1));
	printf("dsyncfs takes the backing directory that it finds at its next start.\n");
	return EX_OK;
}
