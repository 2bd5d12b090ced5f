/*
 * A worker: dsyncd's own binary, started again as one mail uid, that does what touches mail: takes
 * events into uidlist and index, and runs dsync sessions. It never opens LMDB; what it has to know
 * and what it found out travels over its socket (worker_protocol.h).
 *
 * An outgoing worker runs jobs, one after the other, and keeps its connection to the peer for the
 * next one. An incoming worker serves the session of a peer whose connection dsyncd accepted and
 * authenticated, and keeps that for some seconds. Helpers stay root: they find and make users
 * (which touches the mount, where dsyncd must not) and try whether a peer is there.
 *
 * It ends when dsyncd closes the socket, or dies.
 */
#ifndef DSYNCFS_SYNC_WORKER_H
#define DSYNCFS_SYNC_WORKER_H

#include <stdint.h>
#include <sys/types.h>

/* As argv[1] of dsyncd; then kind, uid, gid, origin token, node id, log target, parent's pid,
 * and when the mail was mounted (journal_writer_began). */
#define WORKER_ARGUMENT "--worker"
#define WORKER_ARGC	10

#define WORKER_FD_SOCKET   3
#define WORKER_FD_SETTINGS 4 /* a memfd with settings_print()'s text */

enum worker_kind { WORKER_OUTGOING, WORKER_INCOMING, WORKER_HELPER };

/* Never returns to dsyncd's own main: the exit status of the process. */
int worker_main(int argc, char **argv);

#endif
