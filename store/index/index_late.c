/*
 * See index_late.h. What is remembered is bounded: the last ones.
 */
#include "store/index/index_late.h"

#include <errno.h>
#include <stdlib.h>
#include "store/index/index_private.h"

#define MOVED_MAX   4096
#define REQUEST_MAX 4096
#define FOUND_MAX   4096

void index_late_free(struct index_late *late)
{
	free(late->moved);
	free(late->requests);
	free(late->found);
	*late = (struct index_late){0};
}

static int find(struct index_late *late, const struct index_late_expunge *expunge)
{
	if (late->found == NULL)
		late->found = calloc(FOUND_MAX, sizeof(*late->found));
	if (late->found == NULL)
		return -ENOMEM;
	if (late->found_count < FOUND_MAX)
		late->found[late->found_count++] = *expunge;
	return 0;
}

void index_late_enter_log(struct index_late *late)
{
	late->first_uid = late->last_uid = 0;
}

void index_late_see_append(struct index_late *late, const struct index_log_record *record,
			   uint32_t uid)
{
	if (late->first_uid == 0 || late->transaction != record->transaction) {
		late->transaction = record->transaction;
		late->first_uid = uid;
	}
	late->last_uid = uid;
}

/* A UID is one message's for ever; for dbox Dovecot names no GUID. */
static bool is_of(const struct index_request *request, const struct index_moved *moved)
{
	return request->uid == moved->uid &&
	       (guid_is_empty(&request->guid) || guid_equal(&request->guid, &moved->to.guid));
}

static void follow(struct index_late_expunge *earlier, uint32_t uid,
		   const struct index_late_expunge *to)
{
	if (earlier->first_uid <= uid && uid <= earlier->last_uid &&
	    guid_equal(&earlier->guid, &to->guid))
		*earlier = *to;
}

int index_late_see_expunge(struct index_late *late, const struct index_log_record *record,
			   uint32_t uid, const struct guid *guid)
{
	const struct index_late_expunge to = {*guid, late->first_uid, late->last_uid};
	struct index_moved *moved;
	int ret = 0;

	if (late->first_uid == 0 || late->transaction != record->transaction || guid_is_empty(guid))
		return 0;
	if (late->moved == NULL)
		late->moved = calloc(MOVED_MAX, sizeof(*late->moved));
	if (late->moved == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < late->moved_next && i < MOVED_MAX; i++)
		follow(&late->moved[i].to, uid, &to);
	for (size_t i = 0; i < late->found_count; i++)
		follow(&late->found[i], uid, &to);
	moved = &late->moved[late->moved_next++ % MOVED_MAX];
	moved->uid = uid;
	moved->to = to;
	/* Who asked for it before has not done it yet, and does not find it now. */
	for (size_t i = 0; ret == 0 && i < late->request_next && i < REQUEST_MAX; i++) {
		if (is_of(&late->requests[i], moved))
			ret = find(late, &to);
	}
	return ret;
}

int index_late_see_request(struct index_late *late, uint32_t uid, const struct guid *guid)
{
	struct index_request *request;
	int ret = 0;

	if (late->requests == NULL)
		late->requests = calloc(REQUEST_MAX, sizeof(*late->requests));
	if (late->requests == NULL)
		return -ENOMEM;
	request = &late->requests[late->request_next++ % REQUEST_MAX];
	request->uid = uid;
	request->guid = *guid;
	for (size_t i = 0; ret == 0 && i < late->moved_next && i < MOVED_MAX; i++) {
		if (is_of(request, &late->moved[i]))
			ret = find(late, &late->moved[i].to);
	}
	return ret;
}

bool index_has_late_expunges(const struct index *index)
{
	return index->state.late.found_count > 0;
}

struct index_late_expunge *index_take_late_expunges(struct index *index, size_t *count_r)
{
	struct index_late *late = &index->state.late;
	struct index_late_expunge *list = late->found;

	*count_r = late->found_count;
	late->found = NULL;
	late->found_count = 0;
	return list;
}
