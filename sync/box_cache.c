/* Mailboxes that stay open. See box_cache.h. */
#include "sync/box_cache.h"

#include <errno.h>
#include <string.h>

static struct mailbox *remove_at(struct box_cache *cache, unsigned i)
{
	struct mailbox *box = cache->kept[i].box;

	cache->count--;
	memmove(&cache->kept[i], &cache->kept[i + 1], (cache->count - i) * sizeof cache->kept[0]);
	return box;
}

static void close_at(struct box_cache *cache, unsigned i)
{
	struct mailbox *box = remove_at(cache, i);

	mailbox_close(&box);
}

static struct mailbox *take_kept(struct box_cache *cache, const struct mail_user *user,
				 const char *name)
{
	for (unsigned i = 0; i < cache->count; i++) {
		if (cache->kept[i].user == user &&
		    strcmp(mailbox_name(cache->kept[i].box), name) == 0)
			return remove_at(cache, i);
	}
	return NULL;
}

int box_cache_take(struct box_cache *cache, const struct mail_user *user, const char *name,
		   struct mailbox **box_r, struct error *err)
{
	struct mailbox *box = cache ? take_kept(cache, user, name) : NULL;
	int rc;

	*box_r = NULL;
	if (box) {
		rc = mailbox_refresh(box, err);
		if (rc == 0) {
			*box_r = box;
			return 0;
		}
		mailbox_close(&box);
		if (rc != -ESTALE && rc != -ENOENT)
			return rc;
		/* Another mailbox with this name, perhaps. */
	}
	return mailbox_open(user, name, box_r, err);
}

static uint64_t messages(const struct box_cache *cache)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < cache->count; i++)
		sum += mailbox_status(cache->kept[i].box)->messages;
	return sum;
}

void box_cache_put(struct box_cache *cache, const struct mail_user *user, struct mailbox **box)
{
	if (!*box)
		return;
	if (!cache) {
		mailbox_close(box);
		return;
	}
	/* The same one may have been opened twice. */
	box_cache_forget(cache, user, mailbox_name(*box));
	if (cache->count == BOX_CACHE_BOXES)
		close_at(cache, cache->count - 1);
	memmove(&cache->kept[1], &cache->kept[0], cache->count * sizeof cache->kept[0]);
	cache->kept[0].user = user;
	cache->kept[0].box = *box;
	cache->count++;
	*box = NULL;
	while (cache->count && messages(cache) > BOX_CACHE_MESSAGES)
		close_at(cache, cache->count - 1);
}

void box_cache_forget(struct box_cache *cache, const struct mail_user *user, const char *name)
{
	for (unsigned i = cache ? cache->count : 0; i-- > 0;) {
		if (cache->kept[i].user == user &&
		    (!name || strcmp(mailbox_name(cache->kept[i].box), name) == 0))
			close_at(cache, i);
	}
}
