/* Names and layouts of dbox: directories, index extensions (reference 2.4, 4.1). */
#ifndef DSYNCFS_DBOX_NAMES_H
#define DSYNCFS_DBOX_NAMES_H

#define DBOX_MAILBOXES_DIR "mailboxes"
#define DBOX_MAIL_DIR	   "dbox-Mails" /* in a mailbox's directory: what makes it a mailbox */
#define DBOX_STORAGE_DIR   "storage"

#define DBOX_EXT_MDBOX	  "mdbox" /* of a message: map UID, saved date */
#define DBOX_MDBOX_RECORD 8
#define DBOX_EXT_GUID	  "guid"
#define DBOX_EXT_MDBOX_HDR                                                                         \
	"mdbox-hdr" /* of the mailbox: the map's UIDVALIDITY, its GUID, flags                      \
		     */
#define DBOX_EXT_SDBOX_HDR	"dbox-hdr" /* of the mailbox: rebuild count, its GUID, flags */
#define DBOX_HDR_SIZE		24
#define DBOX_HDR_GUID		4
#define DBOX_HDR_FLAGS		20
#define DBOX_HDR_HAS_POP3_UIDL	0x01
#define DBOX_HDR_HAS_POP3_ORDER 0x02
#define DBOX_EXT_POP3		"hdr-pop3-uidl" /* of the mailbox: highest UID with a POP3 UIDL */

#endif
