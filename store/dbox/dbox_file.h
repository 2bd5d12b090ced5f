/*
 * The files that dbox keeps messages in: storage/m.N of mdbox with any number of messages, u.UID of
 * sdbox with one (reference 4.2, 4.7).
 *
 *   file header   "2 M1e C<creation time hex>\n"
 *   message       30 bytes of header, the body, "\n\001\003\n", metadata lines, an empty line
 *
 * Everything that is read is checked against the file's size and against maxima; -EUCLEAN names
 * file and offset.
 */
#ifndef DSYNCFS_DBOX_FILE_H
#define DSYNCFS_DBOX_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/base/guid.h"

#define DBOX_MESSAGE_HEADER_SIZE 30
#define DBOX_METADATA_MAX	 (64 * 1024)
#define DBOX_GUID_MAX		 4096

/* What the file's first line says. */
struct dbox_file_header {
	uint32_t size;		      /* of the line */
	uint32_t message_header_size; /* M */
	uint64_t created;	      /* C; 0: not given */
};

/* -EUCLEAN without a text: not the first line of a dbox file. */
int dbox_file_header_parse(const char *data, size_t len, struct dbox_file_header *header_r);
int dbox_file_header_build(struct buf *out, int64_t created);
/* A descriptor. -ENXIO: something else than a file has the name. Links are not followed: -ELOOP. */
int dbox_file_open(int dirfd, const char *name, int flags);
/* Reads it from the file. what: the file's name, for messages. */
int dbox_file_header_read(int fd, const char *what, struct dbox_file_header *header_r,
			  struct error *err);

/* The 30 bytes in front of a message. -EUCLEAN without a text. */
int dbox_message_header_parse(const char *data, size_t len, uint64_t *body_size_r);
int dbox_message_header_build(struct buf *out, uint64_t body_size);

/* The metadata that we know; other lines are kept in `other`. */
struct dbox_metadata {
	char *guid;		/* G; "" where there is none */
	char *mailbox;		/* B: storage name of the mailbox it was first saved to; "" */
	char *pop3_uidl;	/* P; "" */
	char *other;		/* whole lines of letters that are not ours */
	int64_t received;	/* R */
	uint64_t virtual_size;	/* V */
	uint64_t physical_size; /* Z: before compression; 0: not compressed */
	uint32_t pop3_order;	/* O */
	bool external;		/* X: parts of it lie elsewhere */
};
/* data: behind "\n\001\003\n", up to and with the empty line. *used_r: its length. -EUCLEAN without
 * a text: no end, or no line of metadata. -ENOMEM. Free in any case. */
int dbox_metadata_parse(const char *data, size_t len, struct dbox_metadata *metadata_r,
			size_t *used_r);
/* With the "\n\001\003\n" in front and the empty line behind. */
int dbox_metadata_build(struct buf *out, const struct dbox_metadata *metadata);
void dbox_metadata_free(struct dbox_metadata *metadata);

/* One message in a file. */
struct dbox_message {
	uint64_t offset; /* of its header */
	uint64_t body_offset, body_size;
	uint64_t end; /* of its metadata: where the next one begins */
	struct dbox_metadata metadata;
};
/* Reads header and metadata of the message at offset. size: how long it is, headers and all, where
 * that is known, else 0. -EUCLEAN: there is none like that. -ENODATA: offset is the file's end. */
int dbox_message_read(int fd, const char *what, uint64_t offset, uint64_t size,
		      struct dbox_message *message_r, struct error *err);
void dbox_message_free(struct dbox_message *message);

/* Finds every message of a file, also where parts of it are damaged: behind a place that cannot be
 * read the next beginning of a message is looked for. damaged_r: bytes that belong to none. each()
 * returning non-zero stops, and is returned. */
typedef int dbox_message_fn(void *ctx, const struct dbox_message *message);
int dbox_file_each(int fd, const char *what, dbox_message_fn *each, void *ctx, uint64_t *damaged_r,
		   struct error *err);

#endif
