#include "store/base/mounted.h"

static int64_t mounted;

void mounted_set(int64_t when)
{
	mounted = when;
}

int64_t mounted_at(void)
{
	return mounted;
}
