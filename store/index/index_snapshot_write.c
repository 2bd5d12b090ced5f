/*
 * Writing dovecot.index from a view (reference 2.5). The log is locked, read to its end, and
 * nothing is pending. Extensions that we know nothing of are carried along.
 *
 * Messages are streamed: a mailbox of a million mails needs one buffer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/index/index_private.h"
#include "store/mail.h"

#define WRITE_CHUNK	  65536U
#define HEADER_MAX	  (64UL << 20)
#define EXT_ALIGN_DEFAULT 1
#define EXT_ALIGN_MAX	  8

struct layout {
	uint32_t record_size;
	uint16_t *offsets; /* of each extension; 0: it has no record */
};

static uint32_t align_up(uint32_t value, uint32_t align)
{
	return (value + align - 1) / align * align;
}

static int layout_plan(const struct index *index, struct layout *layout_r, struct error *err)
{
	const struct index_state *state = &index->state;
	uint32_t end = INDEX_RECORD_MIN_SIZE, largest = 4;

	layout_r->offsets = calloc((size_t)state->ext_count + 1, sizeof(*layout_r->offsets));
	if (layout_r->offsets == NULL)
		return error_set(err, -ENOMEM, "%s: out of memory", index_text(index));
	for (int i = 0; i < state->ext_count; i++) {
		const struct index_extension *ext = &state->exts[i];
		uint32_t align = ext->record_align != 0 ? ext->record_align : EXT_ALIGN_DEFAULT;

		if (ext->record_size == 0)
			continue;
		if (align > EXT_ALIGN_MAX)
			return error_set(err, -EUCLEAN, "%s: the extension %s wants alignment %u",
					 index_text(index), ext->name, align);
		end = align_up(end, align);
		layout_r->offsets[i] = (uint16_t)end;
		end += ext->record_size;
		largest = align > largest ? align : largest;
		if (end > UINT16_MAX)
			return error_set(err, -EUCLEAN, "%s: records of more than %u bytes",
					 index_text(index), UINT16_MAX);
	}
	layout_r->record_size = align_up(end, largest);
	return 0;
}

/* The header of "keywords" exists only here: in the log keywords are records of their own. */
static int update_keywords_header(struct index_state *state)
{
	AUTO_BUF struct buf buf = BUF_INIT(HEADER_MAX);
	struct index_extension *ext;
	uint8_t value[4];
	uint32_t offset = 0;
	uint8_t *hdr;

	if (state->ext_keywords < 0)
		return 0;
	ext = &state->exts[state->ext_keywords];
	index_put32(value, state->keyword_count);
	buf_append(&buf, value, sizeof(value));
	for (unsigned i = 0; i < state->keyword_count; i++) {
		index_put32(value, 0);
		buf_append(&buf, value, sizeof(value));
		index_put32(value, offset);
		buf_append(&buf, value, sizeof(value));
		offset += (uint32_t)strlen(state->keywords[i]) + 1;
	}
	for (unsigned i = 0; i < state->keyword_count; i++)
		buf_append(&buf, state->keywords[i], strlen(state->keywords[i]) + 1);
	if (buf.failed != 0)
		return buf.failed;
	hdr = realloc(ext->hdr, buf.len);
	if (hdr == NULL)
		return -ENOMEM;
	memcpy(hdr, buf.data, buf.len);
	ext->hdr = hdr;
	ext->hdr_size = (uint32_t)buf.len;
	return 0;
}

static void update_modseq_header(struct index *index)
{
	struct index_state *state = &index->state;
	struct index_extension *ext;

	if (state->ext_modseq < 0)
		return;
	ext = &state->exts[state->ext_modseq];
	if (ext->hdr_size < 16)
		return;
	index_put64(ext->hdr, state->counter.modseq);
	index_put32(ext->hdr + 8, index->log.file_seq);
	index_put32(ext->hdr + 12, (uint32_t)state->offset);
}

/* Counts and low-water marks, which nobody keeps up to date while the log is applied. */
static int update_counts(struct index *index, struct error *err)
{
	struct index_state *state = &index->state;
	uint32_t next_uid = index_get32(state->hdr + HDR_NEXT_UID);
	uint32_t first_unseen = next_uid, first_deleted = next_uid;
	uint32_t messages = 0, seen = 0, deleted = 0;
	uint32_t flags = index_get32(state->hdr + HDR_FLAGS) & ~(uint32_t)INDEX_HDR_FLAG_DIRTY;
	struct index_record record;
	struct index_iter iter;

	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		messages++;
		if ((record.flags & MAIL_SEEN) != 0)
			seen++;
		else if (record.uid < first_unseen)
			first_unseen = record.uid;
		if ((record.flags & MAIL_DELETED) != 0) {
			deleted++;
			if (record.uid < first_deleted)
				first_deleted = record.uid;
		}
		if ((record.flags & INDEX_FLAG_DIRTY) != 0)
			flags |= INDEX_HDR_FLAG_DIRTY;
	}
	if (iter.failed != 0)
		return error_set(err, iter.failed, "%s: damaged: uids are out of order",
				 state->snapshot.name);
	state->messages = messages;
	index_put32(state->hdr + HDR_FLAGS, flags);
	index_put32(state->hdr + HDR_MESSAGES, messages);
	index_put32(state->hdr + HDR_SEEN, seen);
	index_put32(state->hdr + HDR_DELETED, deleted);
	index_put32(state->hdr + HDR_FIRST_UNSEEN_LOWWATER, first_unseen);
	index_put32(state->hdr + HDR_FIRST_DELETED_LOWWATER, first_deleted);
	return 0;
}

static void put_padding(struct buf *buf)
{
	static const uint8_t zeros[8];

	buf_append(buf, zeros, index_pad8(buf->len) - buf->len);
}

static int build_header(struct index *index, const struct layout *layout, struct buf *buf)
{
	struct index_state *state = &index->state;
	uint8_t *hdr = state->hdr;

	hdr[HDR_MAJOR] = INDEX_MAJOR_VERSION;
	hdr[HDR_MINOR] = INDEX_MINOR_VERSION;
	index_put16(hdr + HDR_BASE_SIZE, INDEX_HDR_SIZE);
	index_put32(hdr + HDR_RECORD_SIZE, layout->record_size);
	hdr[HDR_COMPAT] = INDEX_COMPAT_LITTLE_ENDIAN;
	index_put32(hdr + HDR_INDEXID, index->log.indexid);
	index_put32(hdr + HDR_LOG_SEQ, index->log.file_seq);
	index_put32(hdr + HDR_LOG_TAIL, (uint32_t)state->offset);
	index_put32(hdr + HDR_LOG_HEAD, (uint32_t)state->offset);
	buf_append(buf, hdr, INDEX_HDR_SIZE);
	for (int i = 0; i < state->ext_count; i++) {
		const struct index_extension *ext = &state->exts[i];
		size_t name_size = strlen(ext->name);
		uint8_t entry[INDEX_EXT_ENTRY_SIZE];

		index_put32(entry, ext->hdr_size);
		index_put32(entry + 4, ext->reset_id);
		index_put16(entry + 8, layout->offsets[i]);
		index_put16(entry + 10, ext->record_size);
		index_put16(entry + 12, ext->record_align);
		index_put16(entry + 14, (uint16_t)name_size);
		put_padding(buf);
		buf_append(buf, entry, sizeof(entry));
		buf_append(buf, ext->name, name_size);
		put_padding(buf);
		buf_append(buf, ext->hdr, ext->hdr_size);
	}
	put_padding(buf);
	if (buf->failed != 0)
		return buf->failed;
	index_put32(hdr + HDR_SIZE, (uint32_t)buf->len);
	index_put32((uint8_t *)buf->data + HDR_SIZE, (uint32_t)buf->len);
	return 0;
}

static void build_record(const struct index *index, const struct layout *layout,
			 const struct index_record *record, uint8_t *bytes)
{
	const struct index_state *state = &index->state;

	memset(bytes, 0, layout->record_size);
	index_put32(bytes, record->uid);
	bytes[4] = record->flags;
	for (int i = 0; i < state->ext_count; i++) {
		uint32_t size;
		const uint8_t *data =
			index_state_ext_data(state, i, record->priv[0], record->priv[1], &size);

		if (data != NULL && layout->offsets[i] != 0)
			memcpy(bytes + layout->offsets[i], data, size);
		/* A message without a modseq of its own has the one of the switch-on. */
		if (i == state->ext_modseq && state->exts[i].record_size >= 8)
			index_put64(bytes + layout->offsets[i], record->modseq);
	}
}

static int write_records(const struct index *index, const struct layout *layout, int fd)
{
	AUTO_FREE uint8_t *chunk = NULL;
	uint32_t fits =
		WRITE_CHUNK / layout->record_size > 0 ? WRITE_CHUNK / layout->record_size : 1;
	struct index_record record;
	struct index_iter iter;
	uint32_t count = 0;
	int ret = 0;

	chunk = malloc((size_t)fits * layout->record_size);
	if (chunk == NULL)
		return -ENOMEM;
	index_iter_init(index, 0, &iter);
	while (ret == 0 && index_iter_next(&iter, &record)) {
		build_record(index, layout, &record, chunk + (size_t)count * layout->record_size);
		if (++count == fits) {
			ret = file_write_all(fd, chunk, (size_t)count * layout->record_size);
			count = 0;
		}
	}
	if (ret == 0 && count > 0)
		ret = file_write_all(fd, chunk, (size_t)count * layout->record_size);
	return ret;
}

/* dbox rebuilds from it; it is the snapshot before this one. */
static int keep_backup(const struct index *index, const char *file, struct error *err)
{
	char backup[NAME_MAX + 1], tmp[NAME_MAX + 1];

	if (!index->backup)
		return 0;
	index_file_name(index, ".backup", backup, sizeof(backup));
	index_file_name(index, ".backup.tmp", tmp, sizeof(tmp));
	unlinkat(index->dirfd, tmp, 0);
	if (linkat(index->dirfd, file, index->dirfd, tmp, 0) < 0) {
		if (errno == ENOENT)
			return 0;
		return error_errno(err, -errno, "%s/%s: link", index->label, tmp);
	}
	if (renameat(index->dirfd, tmp, index->dirfd, backup) < 0)
		return error_errno(err, -errno, "%s/%s: rename", index->label, backup);
	return 0;
}

static int write_file(struct index *index, const struct layout *layout, const char *tmp, int fd,
		      struct error *err)
{
	AUTO_BUF struct buf header = BUF_INIT(HEADER_MAX);
	char file[NAME_MAX + 1];
	int ret;

	index_file_name(index, "", file, sizeof(file));
	ret = build_header(index, layout, &header);
	if (ret == 0)
		ret = file_write_all(fd, header.data, header.len);
	if (ret == 0)
		ret = write_records(index, layout, fd);
	if (ret == 0 && fdatasync(fd) < 0)
		ret = -errno;
	if (ret < 0)
		return error_errno(err, ret, "%s/%s: write", index->label, tmp);
	ret = keep_backup(index, file, err);
	if (ret < 0)
		return ret;
	if (renameat(index->dirfd, tmp, index->dirfd, file) < 0)
		return error_errno(err, -errno, "%s/%s: rename", index->label, file);
	return 0;
}

int index_snapshot_write(struct index *index, struct error *err)
{
	struct layout layout = {0};
	char tmp[NAME_MAX + 1];
	AUTO_CLOSE int fd = -1;
	int ret;

	index_file_name(index, ".tmp", tmp, sizeof(tmp));
	ret = update_keywords_header(&index->state);
	if (ret < 0)
		return error_errno(err, ret, "%s: keywords", index_text(index));
	update_modseq_header(index);
	ret = update_counts(index, err);
	if (ret == 0)
		ret = layout_plan(index, &layout, err);
	if (ret == 0) {
		unlinkat(index->dirfd, tmp, 0); /* left by one that died: we hold the lock */
		ret = index_file_create(index->dirfd, tmp, &fd);
		if (ret < 0)
			error_errno(err, ret, "%s/%s: create", index->label, tmp);
	}
	if (ret == 0) {
		ret = write_file(index, &layout, tmp, fd, err);
		if (ret < 0)
			unlinkat(index->dirfd, tmp, 0);
	}
	free(layout.offsets);
	if (ret < 0)
		return ret;
	index->state.replayed = 0;
	index->state.tail = index->state.offset;
	index->state.pending_offset = 0;
	index_enter_snapshot(index);
	return 0;
}
