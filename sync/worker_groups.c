/* The events of a job, by mailbox. See worker_groups.h. */
#include "sync/worker_groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/mailbox_list.h"

/* An event of which nobody knows which mailbox it was of is of the one that others of the directory
 * were of: when a group is done dsyncd takes all of these events for done. */
static struct worker_group *find(const struct worker_groups *groups,
				 const struct worker_event *event)
{
	for (size_t i = groups->count; i-- > 0;) {
		struct worker_group *group = &groups->list[i];

		if (strcmp(group->dir, event->event.dir) != 0)
			continue;
		if (guid_is_empty(&group->guid))
			group->guid = event->guid;
		if (guid_is_empty(&event->guid) || guid_equal(&group->guid, &event->guid))
			return group;
	}
	return NULL;
}

static struct worker_group *append(struct worker_groups *groups, const struct mail_user *user,
				   const struct worker_event *event)
{
	struct worker_group *group;

	if (groups->count == groups->size) {
		size_t size = groups->size ? groups->size * 2 : 8;
		struct worker_group *grown = realloc(groups->list, size * sizeof *grown);

		if (!grown)
			return NULL;
		groups->list = grown;
		groups->size = size;
	}
	group = &groups->list[groups->count++];
	*group = (struct worker_group){.dir = event->event.dir, .guid = event->guid};
	if (mailbox_name_from_dir(user, group->dir, &group->name) < 0)
		group->name = NULL;
	return group;
}

int worker_groups_add(struct worker_groups *groups, const struct mail_user *user,
		      const struct worker_event *event)
{
	struct worker_group *group = find(groups, event);

	if (!group)
		group = append(groups, user, event);
	if (!group)
		return -ENOMEM;
	if (!group->name)
		return 0;
	/* A new directory may have come with mail in it that nobody saw arrive. */
	if (event->event.kind == MAIL_EVENT_RESCAN || event->event.kind == MAIL_EVENT_DIR_CREATED) {
		group->scan = true;
		/* A worker's stands for what came with its own renames. */
		if (event->event.kind == MAIL_EVENT_RESCAN && event->event.origin == 0)
			group->unseen = true;
		return 0;
	}
	if (group->count == group->size) {
		size_t size = group->size ? group->size * 2 : 4;
		struct mail_event *grown = realloc(group->events, size * sizeof *grown);

		if (!grown)
			return -ENOMEM;
		group->events = grown;
		group->size = size;
	}
	group->events[group->count++] = event->event;
	return 0;
}

void worker_groups_free(struct worker_groups *groups)
{
	for (size_t i = 0; i < groups->count; i++) {
		free(groups->list[i].name);
		free(groups->list[i].events);
	}
	free(groups->list);
	*groups = (struct worker_groups){0};
}
