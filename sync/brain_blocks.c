/*
 * Without a state both sides would list every message. Between two dsyncfs nodes each says a digest
 * of every block of UIDs first (C items of type 'b', see PROTOCOL.md), and what is in blocks that
 * are equal is not listed: a full look at two mailboxes costs what differs.
 *
 * To leave out a pair that agrees in UID, GUID, flags, keywords and MODSEQ changes nothing in what
 * the merge makes of the rest: it would pair them first, and do nothing to them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/digest.h"
#include "sync/brain_private.h"

#define BLOCK_UIDS_DEFAULT 1024U
/* Of one block; what a message's record can be at most, times the messages. */
#define BLOCK_TEXT_MAX ((size_t)256 << 20)

struct block {
	uint32_t number; /* from 1 on */
	struct guid digest;
	bool equal;
};

struct builder {
	const struct box *box;
	struct blocks *blocks;
	struct buf text; /* the records of the block that is being read */
	uint32_t number;
};

static uint32_t block_number(const struct blocks *blocks, uint32_t uid)
{
	return (uid - 1) / blocks->uids + 1;
}

uint32_t blocks_uids(const struct brain *brain)
{
	return brain->options->block_uids != 0 ? brain->options->block_uids : BLOCK_UIDS_DEFAULT;
}

/* Both sides must reach the same answer, so only what went over the wire counts. */
bool blocks_apply(const struct box *box)
{
	const struct item_mailbox *own = &box->own, *peer = &box->peer;

	return !box->stateful && own->block_uids != 0 && own->block_uids == peer->block_uids &&
	       own->uid_validity == peer->uid_validity && own->messages_count >= own->block_uids &&
	       peer->messages_count >= own->block_uids;
}

static int finish_block(struct builder *builder)
{
	struct blocks *blocks = builder->blocks;
	uint8_t sha1[DIGEST_SHA1_SIZE];

	if (builder->number == 0)
		return 0;
	if (builder->text.failed < 0)
		return builder->text.failed;
	if (blocks->count == blocks->size) {
		size_t size = blocks->size != 0 ? blocks->size * 2 : 64;
		struct block *bigger = realloc(blocks->list, size * sizeof(*bigger));

		if (bigger == NULL)
			return -ENOMEM;
		blocks->list = bigger;
		blocks->size = size;
	}
	struct block *block = &blocks->list[blocks->count++];

	*block = (struct block){.number = builder->number};
	digest_sha1(buf_str(&builder->text), builder->text.len, sha1);
	memcpy(&block->digest, sha1, sizeof(block->digest));
	buf_clear(&builder->text);
	return 0;
}

/* No part of a record can hold what ends it. */
static int add_message(void *ctx, const struct mail *mail)
{
	struct builder *builder = ctx;
	uint32_t number = block_number(builder->blocks, mail->uid);
	struct buf *text = &builder->text;

	if (number != builder->number) {
		int ret = finish_block(builder);
		if (ret < 0)
			return ret;
		builder->number = number;
	}
	(void)buf_printf(text, "%u %llu %x %s", mail->uid, (unsigned long long)mail->modseq,
			 mail->flags & MAIL_FLAGS_MASK, mail->guid != NULL ? mail->guid : "");
	for (unsigned i = 0; i < mail->keywords.count; i++) {
		(void)buf_append_byte(text, ' ');
		(void)buf_append_str(text, mail->keywords.names[i]);
	}
	/* Both sides list the block then, and the body can be asked for. */
	if (import_restore_wants(builder->box, mail->uid))
		(void)buf_append_str(text, " without a file");
	return buf_append_byte(text, '\n');
}

static int build(struct box *box, struct error *err)
{
	struct builder builder = {
		.box = box, .blocks = &box->blocks, .text = BUF_INIT(BLOCK_TEXT_MAX)};
	int ret;

	box->blocks.uids = box->own.block_uids;
	ret = mailbox_each(box->mailbox, 1, UINT32_MAX, add_message, &builder, err);
	if (ret == 0)
		ret = finish_block(&builder);
	if (ret == -ENOMEM || ret == -EMSGSIZE)
		error_errno(err, ret, "digests of mailbox %s", box->name);
	buf_free(&builder.text);
	return ret;
}

static int send_blocks(struct box *box, struct error *err)
{
	const struct blocks *blocks = &box->blocks;
	char hex[GUID_HEX_SIZE];

	for (size_t i = 0; i < blocks->count; i++) {
		const struct item item = {
			.type = ITEM_CHANGE,
			.change = {.type = 'b',
				   .uid = blocks->list[i].number,
				   .guid = guid_to_hex(&blocks->list[i].digest, hex)},
		};
		int ret = items_send(box->brain->items, &item, err);

		if (ret < 0)
			return ret;
	}
	int ret = items_send_end(box->brain->items, err);
	return ret < 0 ? ret : stream_flush(box->brain->stream, err);
}

static int receive_blocks(struct box *box, struct error *err)
{
	struct blocks *blocks = &box->blocks;
	size_t at = 0;

	for (;;) {
		struct item item;
		struct guid digest;
		int ret = items_receive_type(box->brain->items, ITEM_CHANGE, true, &item, err);

		if (ret < 0 || item.type == ITEM_END)
			return ret;
		if (item.change.type != 'b' || item.change.guid == NULL ||
		    guid_from_hex(item.change.guid, &digest) < 0) {
			ret = error_set(err, -EPROTO, "something else than a digest of %s",
					box->name);
			return stream_set_failed(box->brain->stream, ret, err);
		}
		while (at < blocks->count && blocks->list[at].number < item.change.uid)
			at++;
		if (at < blocks->count && blocks->list[at].number == item.change.uid)
			blocks->list[at].equal = guid_equal(&blocks->list[at].digest, &digest);
	}
}

int blocks_exchange(struct box *box, struct error *err)
{
	struct error build_err = {0};
	int ret = build(box, &build_err);

	if (ret < 0) {
		blocks_free(&box->blocks);
		box_fail(box, ret, &build_err);
	}
	ret = send_blocks(box, err);
	return ret < 0 ? ret : receive_blocks(box, err);
}

bool blocks_have(const struct blocks *blocks, uint32_t uid)
{
	size_t low = 0, high = blocks->count;

	if (high == 0)
		return false;
	uint32_t number = block_number(blocks, uid);
	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (blocks->list[mid].number == number)
			return blocks->list[mid].equal;
		if (blocks->list[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

void blocks_free(struct blocks *blocks)
{
	free(blocks->list);
	*blocks = (struct blocks){0};
}
