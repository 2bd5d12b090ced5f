/*
 * Payloads of log records: checked once here, so that everyone else may trust their shape.
 */
#include "store/index/index_log_record.h"

#include <errno.h>
#include <string.h>
#include "store/index/index.h"
#include "store/index/index_format.h"

/* Record flags that the user sees; the others are the index's own and do not count. */
#define COUNTED_FLAGS 0x1f

static int check_unit(const struct index_log *log, const struct index_log_record *record,
		      uint32_t unit, struct error *err)
{
	if (record->size % unit == 0)
		return 0;
	return index_log_damaged(log, record->offset, err,
				 "a record of kind %#x with a payload of %u bytes", record->kind,
				 record->size);
}

static int check_ranges(const struct index_log *log, const struct index_log_record *record,
			uint32_t pos, uint32_t unit, struct error *err)
{
	uint32_t previous = 0;

	if (pos >= record->size || (record->size - pos) % unit != 0)
		return index_log_damaged(log, record->offset, err,
					 "a record of kind %#x with a payload of %u bytes",
					 record->kind, record->size);
	for (; pos < record->size; pos += unit) {
		uint32_t first = index_get32(record->data + pos);
		uint32_t last = index_get32(record->data + pos + 4);

		if (first == 0 || first > last || first <= previous)
			return index_log_damaged(log, record->offset, err,
						 "kind %#x: the uid range %u-%u after %u",
						 record->kind, first, last, previous);
		previous = last;
	}
	return 0;
}

/* Entries that begin with a uid. */
static int check_uids(const struct index_log *log, const struct index_log_record *record,
		      uint32_t unit, bool ascending, struct error *err)
{
	uint32_t previous = 0;
	int ret = check_unit(log, record, unit, err);

	for (uint32_t pos = 0; ret == 0 && pos < record->size; pos += unit) {
		uint32_t uid = index_get32(record->data + pos);

		if (uid == 0 || (ascending && uid <= previous))
			ret = index_log_damaged(log, record->offset, err,
						"kind %#x: the uid %u after %u", record->kind, uid,
						previous);
		previous = uid;
	}
	return ret;
}

/* RFC 7162: 63 bits. A counter near the end of its range could not be raised. */
static int check_modseqs(const struct index_log *log, const struct index_log_record *record,
			 struct error *err)
{
	int ret = check_unit(log, record, 12, err);

	for (uint32_t pos = 0; ret == 0 && pos < record->size; pos += 12) {
		if (index_get64(record->data + pos + 4) > INT64_MAX)
			ret = index_log_damaged(log, record->offset, err,
						"a modseq beyond 63 bits");
	}
	return ret;
}

static int check_keyword(const struct index_log *log, const struct index_log_record *record,
			 struct error *err)
{
	uint32_t name_size;

	if (record->size < 4)
		return check_unit(log, record, record->size + 1, err);
	name_size = index_get16(record->data + 2);
	if (name_size == 0 || name_size > INDEX_KEYWORD_NAME_MAX || name_size > record->size - 4)
		return index_log_damaged(log, record->offset, err, "a keyword of %u bytes",
					 name_size);
	if (memchr(record->data + 4, '\0', name_size) != NULL)
		return index_log_damaged(log, record->offset, err, "a keyword with a NUL in it");
	if (record->data[0] > 1)
		return index_log_damaged(log, record->offset, err, "a keyword change of type %u",
					 record->data[0]);
	return check_ranges(log, record, (uint32_t)index_pad4(4 + name_size), 8, err);
}

static int check_headers(const struct index_log *log, const struct index_log_record *record,
			 struct error *err)
{
	const uint32_t entry = record->kind == LOG_EXT_HDR_UPDATE32 ? 8 : 4;
	uint32_t pos = 0;

	while (pos < record->size) {
		uint64_t size;

		if (record->size - pos < entry)
			return index_log_damaged(log, record->offset, err,
						 "a header update is cut off");
		size = entry == 8 ? index_get32(record->data + pos + 4)
				  : index_get16(record->data + pos + 2);
		if (size > record->size - pos - entry)
			return index_log_damaged(log, record->offset, err,
						 "a header update of %llu bytes",
						 (unsigned long long)size);
		/* The size of the payload is a multiple of 4, so the padding is inside of it. */
		pos += entry + (uint32_t)index_pad4(size);
	}
	return 0;
}

static int check_intros(const struct index_log *log, const struct index_log_record *record,
			struct error *err)
{
	uint32_t pos = 0;

	while (pos < record->size) {
		uint32_t left = record->size - pos, name_size;

		if (left < LOG_EXT_INTRO_SIZE)
			return index_log_damaged(log, record->offset, err,
						 "an extension's introduction is cut off");
		name_size = index_get16(record->data + pos + 18);
		if (name_size > left - LOG_EXT_INTRO_SIZE || name_size > INDEX_EXT_NAME_MAX ||
		    memchr(record->data + pos + LOG_EXT_INTRO_SIZE, '\0', name_size) != NULL)
			return index_log_damaged(log, record->offset, err,
						 "an extension with a bad name (%u bytes)",
						 name_size);
		if (index_get32(record->data + pos) == UINT32_MAX && name_size == 0)
			return index_log_damaged(log, record->offset, err,
						 "an extension with neither name nor number");
		pos += LOG_EXT_INTRO_SIZE + (uint32_t)index_pad4(name_size);
	}
	return 0;
}

int index_log_record_check(const struct index_log *log, uint32_t type,
			   struct index_log_record *record, struct error *err)
{
	record->kind = type & LOG_KIND_MASK;
	if (record->kind == (LOG_EXPUNGE | LOG_PROTECTION))
		record->kind = LOG_EXPUNGE;
	else if (record->kind == (LOG_EXPUNGE_GUID | LOG_PROTECTION))
		record->kind = LOG_EXPUNGE_GUID;
	else if (record->kind == LOG_EXPUNGE || record->kind == LOG_EXPUNGE_GUID)
		return index_log_damaged(log, record->offset, err,
					 "an expunge without its protection bits");

	switch (record->kind) {
	case LOG_EXPUNGE:
	case LOG_KEYWORD_RESET:
		return check_ranges(log, record, 0, 8, err);
	case LOG_FLAG_UPDATE:
		return check_ranges(log, record, 0, 12, err);
	case LOG_KEYWORD_UPDATE:
		return check_keyword(log, record, err);
	case LOG_APPEND:
		return check_uids(log, record, 8, true, err);
	case LOG_EXPUNGE_GUID:
		return check_uids(log, record, 20, false, err);
	case LOG_EXT_ATOMIC_INC:
		return check_uids(log, record, 8, false, err);
	case LOG_MODSEQ_UPDATE:
		return check_modseqs(log, record, err);
	case LOG_HEADER_UPDATE:
	case LOG_EXT_HDR_UPDATE:
	case LOG_EXT_HDR_UPDATE32:
		return check_headers(log, record, err);
	case LOG_EXT_INTRO:
		return check_intros(log, record, err);
	case LOG_EXT_RESET: /* 8 bytes; very old logs leave preserve_data out */
	case LOG_EXT_REC_UPDATE:
	case LOG_INDEX_DELETED:
	case LOG_INDEX_UNDELETED:
	case LOG_ATTRIBUTE_UPDATE:
		return 0;
	default:
		return index_log_damaged(log, record->offset, err, "a record of unknown kind %#x",
					 record->kind);
	}
}

void index_log_record_count(const struct index_log_record *record,
			    struct index_log_counter *counter)
{
	uint32_t pos = 0;

	switch (record->kind) {
	case LOG_APPEND:
	case LOG_KEYWORD_UPDATE:
	case LOG_KEYWORD_RESET:
	case LOG_ATTRIBUTE_UPDATE:
		if (counter->counting)
			counter->modseq++;
		break;
	case LOG_EXPUNGE:
	case LOG_EXPUNGE_GUID:
		if (counter->counting && record->external)
			counter->modseq++;
		break;
	case LOG_FLAG_UPDATE: {
		struct index_log_range range;

		while (counter->counting && index_log_next_range(record, &pos, &range)) {
			if (range.counted) {
				counter->modseq++;
				break;
			}
		}
		break;
	}
	case LOG_MODSEQ_UPDATE: {
		uint64_t modseq;
		uint32_t uid;

		while (index_log_next_modseq(record, &pos, &uid, &modseq)) {
			if (modseq > counter->modseq)
				counter->modseq = modseq;
		}
		break;
	}
	case LOG_EXT_INTRO: {
		struct index_log_intro intro;

		while (!counter->counting && index_log_next_intro(record, &pos, &intro)) {
			if (intro.name_size == 6 && memcmp(intro.name, "modseq", 6) == 0)
				counter->counting = true;
		}
		break;
	}
	default:
		break;
	}
}

bool index_log_next_range(const struct index_log_record *record, uint32_t *pos,
			  struct index_log_range *range_r)
{
	const bool flags = record->kind == LOG_FLAG_UPDATE;
	const uint8_t *data = record->data + *pos;

	if (*pos >= record->size)
		return false;
	range_r->first = index_get32(data);
	range_r->last = index_get32(data + 4);
	range_r->add = flags ? data[8] : 0;
	range_r->remove = flags ? data[9] : 0;
	range_r->counted =
		!flags || ((range_r->add | range_r->remove) & COUNTED_FLAGS) != 0 || data[10] != 0;
	*pos += flags ? 12 : 8;
	return true;
}

void index_log_get_keyword(const struct index_log_record *record,
			   struct index_log_keyword *keyword_r)
{
	keyword_r->add = record->data[0] == 0;
	keyword_r->name = record->data + 4;
	keyword_r->name_size = index_get16(record->data + 2);
	keyword_r->ranges_pos = (uint32_t)index_pad4(4 + keyword_r->name_size);
}

bool index_log_next_expunge_guid(const struct index_log_record *record, uint32_t *pos,
				 uint32_t *uid_r, struct guid *guid_r)
{
	if (*pos >= record->size)
		return false;
	*uid_r = index_get32(record->data + *pos);
	memcpy(guid_r->bytes, record->data + *pos + 4, sizeof(guid_r->bytes));
	*pos += 20;
	return true;
}

bool index_log_next_modseq(const struct index_log_record *record, uint32_t *pos, uint32_t *uid_r,
			   uint64_t *modseq_r)
{
	if (*pos >= record->size)
		return false;
	*uid_r = index_get32(record->data + *pos);
	*modseq_r = index_get64(record->data + *pos + 4);
	*pos += 12;
	return true;
}

/* Where the times begin, behind the keys and their padding; 0: malformed. */
static uint32_t attribute_times(const struct index_log_record *record)
{
	uint32_t pos = 0;

	while (pos < record->size && record->data[pos] != '\0') {
		const uint8_t *key = record->data + pos;
		const uint8_t *nul = memchr(key, '\0', record->size - pos);

		if (nul == NULL || nul - key < 3)
			return 0;
		pos += (uint32_t)(nul - key) + 1;
	}
	return (pos + 1 + 3) / 4 * 4;
}

/* "+pcomment" NUL ... NUL, padded, then for each its time, and the length of a value that was set.
 */
bool index_log_next_attribute(const struct index_log_record *record, uint32_t *pos,
			      struct index_log_attribute *attribute)
{
	const char *entry = (const char *)record->data + *pos;

	if (attribute->times_pos == 0)
		attribute->times_pos = attribute_times(record);
	if (attribute->times_pos == 0 || attribute->times_pos + 4 > record->size ||
	    *pos >= record->size || entry[0] == '\0')
		return false;
	attribute->removed = entry[0] == '-';
	attribute->shared = entry[1] == 's';
	attribute->key = entry + 2;
	attribute->time = index_get32(record->data + attribute->times_pos);
	attribute->times_pos += attribute->removed ? 4 : 8;
	*pos += (uint32_t)strlen(entry) + 1;
	return true;
}

bool index_log_next_intro(const struct index_log_record *record, uint32_t *pos,
			  struct index_log_intro *intro_r)
{
	const uint8_t *data = record->data + *pos;

	if (*pos >= record->size)
		return false;
	intro_r->ext_id = index_get32(data);
	intro_r->reset_id = index_get32(data + 4);
	intro_r->hdr_size = index_get32(data + 8);
	intro_r->record_size = index_get16(data + 12);
	intro_r->record_align = index_get16(data + 14);
	intro_r->flags = index_get16(data + 16);
	intro_r->name_size = index_get16(data + 18);
	intro_r->name = data + LOG_EXT_INTRO_SIZE;
	*pos += LOG_EXT_INTRO_SIZE + (uint32_t)index_pad4(intro_r->name_size);
	return true;
}

bool index_log_next_header(const struct index_log_record *record, uint32_t *pos, uint32_t *offset_r,
			   uint32_t *size_r, const uint8_t **data_r)
{
	const uint8_t *data = record->data + *pos;
	const bool wide = record->kind == LOG_EXT_HDR_UPDATE32;

	if (*pos >= record->size)
		return false;
	*offset_r = wide ? index_get32(data) : index_get16(data);
	*size_r = wide ? index_get32(data + 4) : index_get16(data + 2);
	*data_r = data + (wide ? 8 : 4);
	*pos += (wide ? 8 : 4) + (uint32_t)index_pad4(*size_r);
	return true;
}
