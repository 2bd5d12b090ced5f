/*
 * From a transaction's lists to the bytes of log records (reference 3.2, 7): sorted by kind, ranges
 * merged, all or nothing by a BOUNDARY record in front.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/index/index_txn_private.h"

#define DAY_SECONDS 86400

struct build {
	struct index_txn *txn;
	struct buf *buf;
	size_t record; /* where the open record begins */
	unsigned records;
	uint64_t modseq;    /* the counter after what is built so far */
	size_t modseqs_end; /* of MODSEQ_UPDATE; 0: there is none */
};

static void put_bytes(struct build *build, const void *data, size_t len)
{
	buf_append(build->buf, data, len);
}

static void put16(struct build *build, uint16_t value)
{
	uint8_t bytes[2];

	index_put16(bytes, value);
	put_bytes(build, bytes, sizeof(bytes));
}

static void put32(struct build *build, uint32_t value)
{
	uint8_t bytes[4];

	index_put32(bytes, value);
	put_bytes(build, bytes, sizeof(bytes));
}

static void put_pad4(struct build *build)
{
	static const uint8_t zeros[4];

	put_bytes(build, zeros, index_pad4(build->buf->len) - build->buf->len);
}

static void record_begin(struct build *build, uint32_t kind)
{
	bool external = build->txn->external;

	/* Only these are requests when they are internal; the rest applies at once either way. */
	if (kind != LOG_EXPUNGE_GUID && kind != LOG_FLAG_UPDATE && kind != LOG_KEYWORD_UPDATE)
		external = true;
	if (kind == LOG_EXPUNGE_GUID)
		kind |= LOG_PROTECTION;
	build->record = build->buf->len;
	put32(build, 0); /* the size follows in record_end() */
	put32(build, kind | (external ? LOG_EXTERNAL : 0));
}

static void record_end(struct build *build)
{
	size_t size;

	put_pad4(build);
	if (build->buf->failed != 0)
		return;
	size = build->buf->len - build->record;
	if (size >= LOG_SIZE_MAX) {
		build->buf->failed = -EFBIG;
		return;
	}
	index_size_encode((uint32_t)size, (uint8_t *)build->buf->data + build->record);
	build->records++;
}

static void put_header(struct build *build, uint16_t offset, const void *data, uint16_t size)
{
	record_begin(build, LOG_HEADER_UPDATE);
	put16(build, offset);
	put16(build, size);
	put_bytes(build, data, size);
	record_end(build);
}

static void put_header32(struct build *build, uint16_t offset, uint32_t value)
{
	uint8_t bytes[4];

	index_put32(bytes, value);
	put_header(build, offset, bytes, sizeof(bytes));
}

static void put_intro(struct build *build, const char *name, const struct index_ext_def *def,
		      uint32_t reset_id)
{
	size_t name_size = strlen(name);

	record_begin(build, LOG_EXT_INTRO);
	put32(build, UINT32_MAX);
	put32(build, reset_id);
	put32(build, def->hdr_size);
	put16(build, def->record_size);
	put16(build, def->record_align);
	put16(build, LOG_EXT_NO_SHRINK);
	put16(build, (uint16_t)name_size);
	put_bytes(build, name, name_size);
	record_end(build);
}

static const struct index_ext_def modseq_def = {
	.name = "modseq", .hdr_size = 16, .record_size = 8, .record_align = 8};

/* Messages can only be given a modseq of their own once the extension is there. */
static void build_modseq_switch_on(struct build *build)
{
	const struct txn_modseq *modseqs = TXN_LIST(build->txn, modseqs, txn_modseq);
	uint8_t hdr[16] = {0};
	bool needed = false;

	for (size_t i = 0; i < TXN_COUNT(build->txn, modseqs, txn_modseq); i++)
		needed = needed || modseqs[i].uid != 0;
	if (!needed || build->txn->index->state.ext_modseq >= 0)
		return;
	put_intro(build, modseq_def.name, &modseq_def, 0);
	index_put64(hdr, build->modseq);
	record_begin(build, LOG_EXT_HDR_UPDATE);
	put16(build, 0);
	put16(build, sizeof(hdr));
	put_bytes(build, hdr, sizeof(hdr));
	record_end(build);
}

static void build_appends(struct build *build)
{
	const struct txn_append *appends = TXN_LIST(build->txn, appends, txn_append);
	size_t count = TXN_COUNT(build->txn, appends, txn_append);

	if (count == 0)
		return;
	record_begin(build, LOG_APPEND);
	for (size_t i = 0; i < count; i++) {
		const uint8_t flags[4] = {appends[i].flags};

		put32(build, appends[i].uid);
		put_bytes(build, flags, sizeof(flags));
	}
	record_end(build);
	build->modseq++;
}

static void build_ext_headers(struct build *build, const struct txn_ext *ext)
{
	size_t pos = 0;

	if (ext->headers.len == 0)
		return;
	record_begin(build, ext->wide ? LOG_EXT_HDR_UPDATE32 : LOG_EXT_HDR_UPDATE);
	while (pos < ext->headers.len) {
		const uint8_t *entry = (const uint8_t *)ext->headers.data + pos;
		uint32_t offset = index_get32(entry), size = index_get32(entry + 4);

		if (ext->wide) {
			put32(build, offset);
			put32(build, size);
		} else {
			put16(build, (uint16_t)offset);
			put16(build, (uint16_t)size);
		}
		put_bytes(build, entry + 8, index_pad4(size));
		pos += 8 + index_pad4(size);
	}
	record_end(build);
}

static int compare_entries(const void *a, const void *b)
{
	uint32_t uid_a = index_get32(a), uid_b = index_get32(b);

	return uid_a < uid_b ? -1 : uid_a > uid_b;
}

static void build_ext_list(struct build *build, const struct buf *list, uint32_t kind,
			   size_t entry_size)
{
	if (list->len == 0)
		return;
	/* glibc's qsort is a merge sort, but nobody promises that: two values for one message would
	 * be the caller's mistake, and either is one that it gave. */
	qsort(list->data, list->len / entry_size, entry_size, compare_entries);
	record_begin(build, kind);
	put_bytes(build, list->data, list->len);
	record_end(build);
}

static void build_ext(struct build *build, const struct txn_ext *ext)
{
	const struct index_state *state = &build->txn->index->state;
	int present = index_state_ext_find(state, (const uint8_t *)ext->name, strlen(ext->name));
	uint32_t reset_id = present >= 0 ? state->exts[present].reset_id : 0;

	if (ext->def.reset && reset_id != ext->def.reset_id) {
		put_intro(build, ext->name, &ext->def, reset_id);
		record_begin(build, LOG_EXT_RESET);
		put32(build, ext->def.reset_id);
		put32(build, 0);
		record_end(build);
	}
	put_intro(build, ext->name, &ext->def, ext->def.reset_id);
	build_ext_headers(build, ext);
	build_ext_list(build, &ext->records, LOG_EXT_REC_UPDATE,
		       index_pad4(4 + (size_t)ext->def.record_size));
	build_ext_list(build, &ext->increments, LOG_EXT_ATOMIC_INC, 8);
}

static int compare_flags(const void *a, const void *b)
{
	const struct txn_flags *x = a, *y = b;

	if (x->uid != y->uid)
		return x->uid < y->uid ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* Two changes of one message become one: what the later one says wins. */
static size_t merge_flags(struct txn_flags *flags, size_t count)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		struct txn_flags *last = kept > 0 ? &flags[kept - 1] : NULL;

		if (last != NULL && last->uid == flags[i].uid) {
			last->add = (uint8_t)((last->add & ~flags[i].remove) | flags[i].add);
			last->remove = (uint8_t)((last->remove & ~flags[i].add) | flags[i].remove);
		} else {
			flags[kept++] = flags[i];
		}
	}
	return kept;
}

static void build_flags(struct build *build)
{
	struct txn_flags *flags = TXN_LIST(build->txn, flags, txn_flags);
	size_t count = TXN_COUNT(build->txn, flags, txn_flags);

	if (count == 0)
		return;
	qsort(flags, count, sizeof(*flags), compare_flags);
	count = merge_flags(flags, count);
	record_begin(build, LOG_FLAG_UPDATE);
	for (size_t i = 0; i < count;) {
		const uint8_t bits[4] = {flags[i].add, flags[i].remove};
		size_t end = i + 1;

		while (end < count && flags[end].uid == flags[end - 1].uid + 1 &&
		       flags[end].add == flags[i].add && flags[end].remove == flags[i].remove)
			end++;
		put32(build, flags[i].uid);
		put32(build, flags[end - 1].uid);
		put_bytes(build, bits, sizeof(bits));
		i = end;
	}
	record_end(build);
	if (build->txn->flags_counted)
		build->modseq++;
}

static int compare_keywords(const void *a, const void *b)
{
	const struct txn_keyword *x = a, *y = b;

	if (x->name != y->name)
		return x->name < y->name ? -1 : 1;
	if (x->uid != y->uid)
		return x->uid < y->uid ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* changes: those of one name, one for each uid. */
static void build_keyword(struct build *build, const char *name, const struct txn_keyword *changes,
			  size_t count, bool add)
{
	const uint8_t modify[2] = {add ? 0 : 1};
	bool open = false;

	for (size_t i = 0; i < count;) {
		size_t end = i + 1;

		if (changes[i].add != add) {
			i++;
			continue;
		}
		while (end < count && changes[end].add == add &&
		       changes[end].uid == changes[end - 1].uid + 1)
			end++;
		if (!open) {
			record_begin(build, LOG_KEYWORD_UPDATE);
			put_bytes(build, modify, sizeof(modify));
			put16(build, (uint16_t)strlen(name));
			put_bytes(build, name, strlen(name));
			put_pad4(build);
			open = true;
		}
		put32(build, changes[i].uid);
		put32(build, changes[end - 1].uid);
		i = end;
	}
	if (open) {
		record_end(build);
		build->modseq++;
	}
}

static void build_keywords(struct build *build)
{
	const struct txn_keyword_name *names =
		TXN_LIST(build->txn, keyword_names, txn_keyword_name);
	struct txn_keyword *changes = TXN_LIST(build->txn, keywords, txn_keyword);
	size_t count = TXN_COUNT(build->txn, keywords, txn_keyword), kept = 0;

	if (count == 0)
		return;
	qsort(changes, count, sizeof(*changes), compare_keywords);
	for (size_t i = 0; i < count; i++) {
		if (kept > 0 && changes[kept - 1].name == changes[i].name &&
		    changes[kept - 1].uid == changes[i].uid)
			kept--;
		changes[kept++] = changes[i];
	}
	for (size_t i = 0; i < kept;) {
		size_t end = i + 1;

		while (end < kept && changes[end].name == changes[i].name)
			end++;
		build_keyword(build, names[changes[i].name].name, changes + i, end - i, true);
		build_keyword(build, names[changes[i].name].name, changes + i, end - i, false);
		i = end;
	}
}

static void build_expunges(struct build *build)
{
	struct txn_expunge *expunges = TXN_LIST(build->txn, expunges, txn_expunge);
	size_t count = TXN_COUNT(build->txn, expunges, txn_expunge);

	if (count == 0)
		return;
	qsort(expunges, count, sizeof(*expunges), index_txn_expunge_cmp);
	record_begin(build, LOG_EXPUNGE_GUID);
	for (size_t i = 0; i < count; i++) {
		if (i > 0 && expunges[i].uid == expunges[i - 1].uid)
			continue;
		put32(build, expunges[i].uid);
		put_bytes(build, expunges[i].guid.bytes, sizeof(expunges[i].guid.bytes));
	}
	record_end(build);
	if (build->txn->external)
		build->modseq++;
}

static int compare_modseqs(const void *a, const void *b)
{
	const struct txn_modseq *x = a, *y = b;

	if (x->uid != y->uid)
		return x->uid < y->uid ? -1 : 1;
	return x->modseq > y->modseq ? -1 : x->modseq < y->modseq;
}

/* Sorts by uid; of two wishes for one message the higher one stays. Returns how many are left. */
static size_t merge_modseqs(struct txn_modseq *modseqs, size_t count)
{
	size_t kept = 0;

	qsort(modseqs, count, sizeof(*modseqs), compare_modseqs);
	for (size_t i = 0; i < count; i++)
		if (i == 0 || modseqs[i].uid != modseqs[i - 1].uid)
			modseqs[kept++] = modseqs[i];
	return kept;
}

static void put64(struct build *build, uint64_t value)
{
	put32(build, (uint32_t)value);
	put32(build, (uint32_t)(value >> 32));
}

/*
 * The change records count: a message appended with two keywords is at +3, while the one it is a
 * replica of may be at +1. A MODSEQ_UPDATE can't lower it, the extension's own data can. Nobody has
 * seen the value in between: the transaction is one, and all of it is above what was the highest.
 */
static bool is_lowered(const struct build *build, const struct txn_modseq *wish, uint64_t lowest)
{
	return wish->uid != 0 && wish->modseq < lowest &&
	       (wish->exact || wish->modseq > build->txn->index->state.counter.modseq);
}

static void build_lowered_modseqs(struct build *build, const struct txn_modseq *modseqs,
				  size_t count, uint64_t lowest)
{
	bool open = false;

	for (size_t i = 0; i < count; i++) {
		if (!is_lowered(build, &modseqs[i], lowest))
			continue;
		if (!open) {
			put_intro(build, modseq_def.name, &modseq_def, 0);
			record_begin(build, LOG_EXT_REC_UPDATE);
		}
		open = true;
		put32(build, modseqs[i].uid);
		put64(build, modseqs[i].modseq);
	}
	if (open)
		record_end(build);
}

static void build_modseqs(struct build *build)
{
	struct txn_modseq *modseqs = TXN_LIST(build->txn, modseqs, txn_modseq);
	size_t count = TXN_COUNT(build->txn, modseqs, txn_modseq);
	const uint64_t lowest = build->modseq;
	bool open = false;

	if (count == 0)
		return;
	count = merge_modseqs(modseqs, count);
	for (size_t i = 0; i < count; i++) {
		uint64_t modseq = modseqs[i].modseq > lowest ? modseqs[i].modseq : lowest;

		if (modseqs[i].uid == 0 ? modseq == lowest : is_lowered(build, &modseqs[i], lowest))
			continue;
		if (!open)
			record_begin(build, LOG_MODSEQ_UPDATE);
		open = true;
		put32(build, modseqs[i].uid);
		put64(build, modseq);
		if (modseq > build->modseq)
			build->modseq = modseq;
	}
	if (open) {
		record_end(build);
		build->modseqs_end = build->buf->len;
	}
	build_lowered_modseqs(build, modseqs, count, lowest);
}

static uint32_t today_midnight(void)
{
	time_t now = time(NULL);
	struct tm tm;

	if (localtime_r(&now, &tm) == NULL)
		return 0;
	tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
	tm.tm_isdst = -1;
	now = mktime(&tm);
	return now < 0 ? 0 : (uint32_t)now;
}

/* The first uid of each of the last days: Dovecot decides by it which messages are "recent" enough
 * to be worth caching. */
static void build_day_stamp(struct build *build)
{
	const uint8_t *hdr = build->txn->index->state.hdr;
	uint32_t stamp = index_get32(hdr + HDR_DAY_STAMP), today = today_midnight();
	uint8_t days[HDR_DAYS * 4];
	uint32_t shift, first_uid;

	if (build->txn->appends.len == 0 || today <= stamp)
		return;
	first_uid = TXN_LIST(build->txn, appends, txn_append)[0].uid;
	/* Half a day more, since a day has 23 hours once a year. */
	shift = (today - stamp + DAY_SECONDS / 2) / DAY_SECONDS;
	if (shift > HDR_DAYS || stamp == 0)
		shift = HDR_DAYS;
	/* As Dovecot does, days without mail repeat what came before them. */
	for (uint32_t day = 0; day < HDR_DAYS; day++) {
		uint32_t from = day > shift ? day - shift : 0;
		uint32_t uid = day == 0 ? first_uid
					: index_get32(hdr + HDR_DAY_FIRST_UID + (size_t)from * 4);

		index_put32(days + (size_t)day * 4, uid);
	}
	put_header32(build, HDR_DAY_STAMP, today);
	put_header(build, HDR_DAY_FIRST_UID, days, sizeof(days));
}

static void build_headers(struct build *build)
{
	const struct index_txn *txn = build->txn;
	const uint8_t *hdr = txn->index->state.hdr;
	uint32_t next_uid = index_txn_next_uid(txn);
	uint32_t first_recent = txn->first_recent_uid < next_uid ? txn->first_recent_uid : next_uid;
	size_t pos = 0;

	build_day_stamp(build);
	while (pos < txn->headers.len) {
		const uint8_t *entry = (const uint8_t *)txn->headers.data + pos;
		uint16_t size = index_get16(entry + 2);

		put_header(build, index_get16(entry), entry + 4, size);
		pos += 4 + index_pad4(size);
	}
	/* Appends raise next_uid by themselves. */
	if (txn->next_uid == next_uid && next_uid > index_get32(hdr + HDR_NEXT_UID)) {
		size_t appends = TXN_COUNT(txn, appends, txn_append);

		if (appends == 0 ||
		    TXN_LIST(txn, appends, txn_append)[appends - 1].uid + 1 < next_uid)
			put_header32(build, HDR_NEXT_UID, next_uid);
	}
	if (first_recent > index_get32(hdr + HDR_FIRST_RECENT_UID))
		put_header32(build, HDR_FIRST_RECENT_UID, first_recent);
	/* Where the log ends with a record that leaves out modseqs, and a client's is one of these
	 * (the other node's, not merged yet), Dovecot calls the log corrupted. So something comes
	 * after it; a next_uid that is not higher says nothing. */
	if (build->buf->len == build->modseqs_end)
		put_header32(build, HDR_NEXT_UID, next_uid);
}

static void put_empty_record(struct build *build, uint32_t kind)
{
	record_begin(build, kind);
	put32(build, 0);
	record_end(build);
}

static void build_records(struct build *build)
{
	const struct index_txn *txn = build->txn;

	if (txn->uid_validity != 0 &&
	    txn->uid_validity != index_get32(txn->index->state.hdr + HDR_UID_VALIDITY))
		put_header32(build, HDR_UID_VALIDITY, txn->uid_validity);
	build_modseq_switch_on(build);
	build_appends(build);
	for (size_t i = 0; i < TXN_COUNT(txn, exts, txn_ext); i++)
		build_ext(build, &TXN_LIST(txn, exts, txn_ext)[i]);
	build_flags(build);
	build_keywords(build);
	build_expunges(build);
	build_modseqs(build);
	build_headers(build);
	if (txn->undeleted)
		put_empty_record(build, LOG_INDEX_UNDELETED);
}

#define TAIL_RECORD_SIZE 16

static void build_tail(struct build *build, size_t start)
{
	const struct index *index = build->txn->index;

	if (index->keep_tail && build->records > 0)
		put_header32(build, HDR_LOG_TAIL,
			     (uint32_t)(index->state.offset + build->buf->len - start +
					TAIL_RECORD_SIZE));
}

int index_txn_build(struct index_txn *txn, struct buf *buf)
{
	struct build build = {.txn = txn, .buf = buf, .modseq = txn->index->state.counter.modseq};
	const size_t start = buf->len;
	uint8_t boundary[LOG_BOUNDARY_SIZE] = {0};

	put_bytes(&build, boundary, sizeof(boundary));
	build_records(&build);
	build_tail(&build, start);
	if (txn->deleted) {
		if (build.records > 0)
			return -EINVAL;
		put_empty_record(&build, LOG_INDEX_DELETED);
	}
	if (buf->failed != 0)
		return buf->failed;
	if (build.records > 1) {
		index_size_encode(LOG_BOUNDARY_SIZE, boundary);
		index_put32(boundary + 4, LOG_BOUNDARY | LOG_EXTERNAL);
		index_put32(boundary + 8, (uint32_t)(buf->len - start));
		memcpy(buf->data + start, boundary, sizeof(boundary));
		return 0;
	}
	memmove(buf->data + start, buf->data + start + sizeof(boundary),
		buf->len - start - sizeof(boundary));
	buf->len -= sizeof(boundary);
	return 0;
}
