/* Operations on names that have to wait for the dirty set while too many threads wait already: they
 * are begun again in the pool. See ops.h. */
#include "fs/ops.h"

#include <stdlib.h>
#include <string.h>

struct again {
	fs_again_fn *run;
	struct fs_again args;
	char names[];
};

bool fs_dirty(struct fs *fs, struct observed *op)
{
	if (observe_is_dirty(op))
		return true;
	if (!io_pool_is_worker()) {
		if (!io_pool_enter(fs->pool))
			return false;
		observe_dirty(op);
		io_pool_leave(fs->pool);
		return true;
	}
	observe_dirty(op);
	return true;
}

static void run_again(void *arg)
{
	struct again *again = arg;

	again->run(&again->args);
	free(again);
}

bool fs_again(fs_again_fn *run, const struct fs_again *args)
{
	size_t name_size = strlen(args->name) + 1;
	size_t new_size = args->new_name ? strlen(args->new_name) + 1 : 0;
	struct again *again = malloc(sizeof *again + name_size + new_size);

	if (!again)
		return false;
	again->run = run;
	again->args = *args;
	/* The library's buffer does not outlive the handler. */
	memcpy(again->names, args->name, name_size);
	again->args.name = again->names;
	if (args->new_name) {
		memcpy(again->names + name_size, args->new_name, new_size);
		again->args.new_name = again->names + name_size;
	}
	io_pool_submit(fs_of(args->req)->pool, run_again, again);
	return true;
}
