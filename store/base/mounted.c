#include "store/base/mounted.h"

static time_t mounted;

void mounted_set(time_t when)
{
	mounted = when;
}

time_t mounted_at(void)
{
	return mounted;
}
