/* Attributes of a user's mailboxes. See attributes.h. */
#include "store/attributes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/attributes_private.h"

#define COUNT_MAX 10000

int attributes_add(struct attribute_list *list, const struct attribute *attribute)
{
	struct attribute *grown, *copy;

	if (list->count == COUNT_MAX || attribute->len > ATTRIBUTE_VALUE_MAX)
		return -EMSGSIZE;
	grown = realloc(list->list, (list->count + 1) * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	list->list = grown;
	copy = &grown[list->count];
	*copy = *attribute;
	copy->key = strdup(attribute->key);
	copy->value = attribute->value ? malloc(attribute->len + 1) : NULL;
	if (!copy->key || (attribute->value && !copy->value)) {
		free(copy->key);
		free(copy->value);
		return -ENOMEM;
	}
	if (attribute->value)
		memcpy(copy->value, attribute->value, attribute->len);
	list->count++;
	return 0;
}

void attributes_free(struct attribute_list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		free(list->list[i].key);
		free(list->list[i].value);
	}
	free(list->list);
	*list = (struct attribute_list){.list = NULL};
}

static bool is_inbox(const char *mailbox)
{
	return strcmp(mailbox, "INBOX") == 0;
}

int attributes_read(const struct mail_user *user, const char *mailbox, const struct guid *guid,
		    struct attribute_list *list_r, struct error *err)
{
	int rc = 0;

	*list_r = (struct attribute_list){.list = NULL};
	if (user->attribute_file)
		rc = attribute_dict_read(user->attribute_file, false, guid, list_r, err);
	if (rc == 0 && user->sieve_dir && is_inbox(mailbox))
		rc = sieve_read(user, list_r, err);
	if (rc == 0 && user->attribute_file)
		rc = attribute_dict_read(user->attribute_file, true, guid, list_r, err);
	if (rc < 0)
		attributes_free(list_r);
	return rc;
}

/* As IMAP has them, and so that it stays one line of the file. */
static bool is_key(const char *key)
{
	size_t len = strlen(key);

	if (len == 0 || len > ATTRIBUTE_KEY_MAX || key[0] == '/' || key[len - 1] == '/' ||
	    strstr(key, "//"))
		return false;
	for (; *key; key++) {
		if ((unsigned char)*key < 0x20 || *key == 0x7f)
			return false;
	}
	return true;
}

int attributes_set(const struct mail_user *user, const char *mailbox, const struct guid *guid,
		   const struct attribute *attribute, struct error *err)
{
	bool sieve = !attribute->shared && sieve_is_key(attribute->key);

	if (!is_key(attribute->key))
		return error_set(err, -EINVAL, "attribute '%.100s': no such name can be",
				 attribute->key);
	if (sieve && !is_inbox(mailbox))
		return error_set(err, -EINVAL, "attribute '%.100s' of another mailbox than INBOX",
				 attribute->key);
	if (sieve ? !user->sieve_dir : !user->attribute_file)
		return error_set(err, -EOPNOTSUPP, "attribute '%.100s': %s", attribute->key,
				 sieve ? "no place for scripts" : "mail_attribute_dict is not set");
	return sieve ? sieve_set(user, attribute, err)
		     : attribute_dict_set(user->attribute_file, guid, attribute, err);
}

static bool has(const struct attribute_list *list, const struct attribute *attribute)
{
	for (size_t i = 0; i < list->count; i++) {
		if (list->list[i].shared == attribute->shared &&
		    strcmp(list->list[i].key, attribute->key) == 0)
			return true;
	}
	return false;
}

static int move_all(const char *path, const struct attribute_list *from,
		    const struct attribute_list *there, const struct guid *old_guid,
		    const struct guid *new_guid, struct error *err)
{
	int rc = 0;

	for (size_t i = 0; i < from->count && rc == 0; i++) {
		struct attribute none = from->list[i];

		none.value = NULL;
		none.len = 0;
		if (!has(there, &from->list[i]))
			rc = attribute_dict_set(path, new_guid, &from->list[i], err);
		if (rc == 0)
			rc = attribute_dict_set(path, old_guid, &none, err);
	}
	return rc;
}

int attributes_move(const struct mail_user *user, const struct guid *old_guid,
		    const struct guid *new_guid, struct error *err)
{
	struct attribute_list from = {.list = NULL}, there = {.list = NULL};
	const char *path = user->attribute_file;
	int rc = 0;

	if (!path)
		return 0;
	for (unsigned shared = 0; shared < 2 && rc == 0; shared++) {
		rc = attribute_dict_read(path, shared, old_guid, &from, err);
		if (rc == 0)
			rc = attribute_dict_read(path, shared, new_guid, &there, err);
	}
	if (rc == 0)
		rc = move_all(path, &from, &there, old_guid, new_guid, err);
	attributes_free(&from);
	attributes_free(&there);
	return rc;
}
