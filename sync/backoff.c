/* Growing, spread pauses. See backoff.h. */
#include "sync/backoff.h"

uint32_t backoff_pause_ms(struct backoff backoff, uint32_t failures, uint32_t chance)
{
	uint64_t pause = backoff.first_ms;

	for (uint32_t i = 1; i < failures && pause < backoff.max_ms; i++)
		pause *= 2;
	if (pause > backoff.max_ms)
		pause = backoff.max_ms;
	return (uint32_t)(pause * 3 / 4 + chance % (pause / 2 + 1));
}

uint32_t backoff_spread(const char *name, uint32_t interval)
{
	uint32_t hash = 2166136261U;

	if (interval == 0)
		return 0;
	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 16777619U;
	return hash % interval;
}
