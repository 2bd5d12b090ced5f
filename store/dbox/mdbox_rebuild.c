#include "store/dbox/dbox_private.h"

#include <errno.h>

int mdbox_rebuild(const struct mailbox_place *place, struct error *err)
{
	return error_set(err, -EUCLEAN, "%s: is damaged", place->mail);
}
