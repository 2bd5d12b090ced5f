#include "store/base/clock.h"

int64_t timespec_ms(struct timespec when)
{
	return (int64_t)when.tv_sec * 1000 + when.tv_nsec / 1000000;
}

int64_t clock_ms(clockid_t clock)
{
	struct timespec now = {0};

	clock_gettime(clock, &now);
	return timespec_ms(now);
}
