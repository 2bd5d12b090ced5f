/*
 * Files that are mapped into memory (uidlists, snapshots of indexes) and cannot be read any more:
 * their mount died, or somebody cut them short in place. The kernel says so by SIGBUS, in the
 * middle of whatever reads them.
 */
#ifndef DSYNCFS_BASE_LOST_MAPPING_H
#define DSYNCFS_BASE_LOST_MAPPING_H

#define LOST_MAPPING_TEXT                                                                          \
	"a mapped file cannot be read any more: its mount died, or it was cut short"

/* From now on the process says so on its standard error and ends with EX_IOERR. It leaves what one
 * leaves that is killed. Any other bus error ends it as it would without this. */
void lost_mapping_ends_process(void);

#endif
