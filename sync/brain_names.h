/*
 * Mailbox names on the wire to and from a Dovecot of 2.3.19 or later.
 *
 * Between its storage and dsync it has an escape character (its D says which: '%'). Seen on the
 * wire: what it receives it unescapes, so that a%41b becomes aAb; but 2.3.19 says its own names as
 * they are, and 2.4 says them unescaped, so that its a%41b is said as aAb. Two of them so change
 * the names of both, and two 2.4 cannot rename such a mailbox.
 *
 * Here our names are said in a form that becomes them there, and its names get the form that they
 * have here. A mailbox that was made at a 2.4 with such a name cannot be told from one without: it
 * has the unescaped name here. Nor does a 2.4 keep a name that says '/', or nothing in UTF-8, when
 * it is unescaped: then both sides get the one that it makes of it.
 *
 * Pure: no I/O, no log.
 */
#ifndef DSYNCFS_SYNC_BRAIN_NAMES_H
#define DSYNCFS_SYNC_BRAIN_NAMES_H

#include <stdbool.h>
#include "store/base/buf.h"
#include "store/base/guid.h"
#include "store/mailbox_list.h"

struct peer_names {
	char escape;	/* '\0': names go and come as they are */
	bool unescaped; /* it says its own names unescaped */
	char alt_char;	/* for what a name cannot hold */
};

/* A Dovecot's tree, with our names, as far as it is known before ours is sent. */
struct peer_tree {
	const struct mailbox_tree *tree;
	struct peer_names names;
};

/* The peer's nodes whose names came unescaped get those that their mailboxes have in the own tree,
 * and what is below them moves along; names->unescaped is set where that shows that the peer says
 * its names so. The peer's nodes need not be sorted. */
int names_from_peer(struct peer_names *names, const struct mailbox_tree *own,
		    struct mailbox_tree *peer);

/* The form in which an own name is said. peer: its tree, with our names, sorted by name.
 *
 * One that says its names unescaped compares what it has as it comes, and takes the escaped form
 * for another name: it would rename the mailbox to itself. But what it does not have yet would get
 * another parent without it. */
int names_to_peer(const struct peer_names *names, const struct mailbox_tree *own,
		  const struct mailbox_tree *peer, const char *name, struct buf *said_r);

/* The hash that stands for a name in a D, by the separator and escape character of who has it. */
void names_hash(const char *name, char separator, char escape, struct guid *guid_r);

#endif
