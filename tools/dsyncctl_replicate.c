/* dsyncctl replicate: queues users, as `doveadm replicator replicate` does (and -f is heeded). */
#include "tools/dsyncctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#include "sync/control.h"

static int on_line(void *ctx, char *const *field, unsigned count)
{
	if (field[0][0] == 'C' && count == 2)
		*(long *)ctx = strtol(field[1], NULL, 10);
	return 0;
}

int dsyncctl_replicate(const struct dsyncctl *ctl, int argc, char **argv)
{
	const char *priority = "low", *flags = "";
	struct error err = {0};
	long count = 0;
	int option;

	while ((option = getopt(argc, argv, "fp:")) != -1) {
		if (option == 'f')
			flags = "f";
		else if (option == 'p')
			priority = optarg;
		else
			return EX_USAGE;
	}
	if (optind + 1 != argc) {
		fprintf(stderr, "usage: dsyncctl replicate [-f] [-p low|high|sync] usermask\n");
		return EX_USAGE;
	}
	{
		const char *request[] = {"REPLICATE", priority, flags, argv[optind], NULL};

		if (control_request(ctl->set->state_dir, request, on_line, &count, &err) < 0)
			return dsyncctl_fail(&err);
	}
	if (ctl->json)
		return dsyncctl_print_json(json_pack("{s:I}", "users_updated", (json_int_t)count));
	printf("%ld users updated\n", count);
	return EX_OK;
}
