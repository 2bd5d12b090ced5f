/*
 * One record of the log: is its payload well formed, and what does it do to the modseq counter.
 * Private to store/index/. The parts of a payload are read with the functions in index_log.h.
 */
#ifndef DSYNCFS_INDEX_LOG_RECORD_H
#define DSYNCFS_INDEX_LOG_RECORD_H

#include "store/index/index_log.h"

/* Sets record->kind from type. -EUCLEAN for an unknown kind or a payload that its kind cannot have.
 * The data of EXT_REC_UPDATE can only be judged by who knows the extension's record size. */
int index_log_record_check(const struct index_log *log, uint32_t type,
			   struct index_log_record *record, struct error *err);
/* +1 for the kinds that count, or what MODSEQ_UPDATE says. */
void index_log_record_count(const struct index_log_record *record,
			    struct index_log_counter *counter);

#endif
