/*
 * A Dovecot 2.4 configuration for the dsync command: read by Dovecot's own doveconf, which knows
 * its includes and its names, and said again in ours.
 */
#ifndef DSYNCFS_SYNC_DSYNC_DOVECONF_H
#define DSYNCFS_SYNC_DSYNC_DOVECONF_H

#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/settings.h"

/* As settings_load(). -EPROTONOSUPPORT: doveconf is not installed, or is not one of 2.4. */
int dsync_doveconf_load(const char *path, const char *const *overrides, size_t override_count,
			unsigned flags, struct settings **set_r, struct error *err);
/* Pure: what `doveconf -n` printed, as settings in the syntax of 2.3. */
int dsync_doveconf_translate(const char *text, size_t len, const char *name, struct buf *out,
			     struct error *err);

#endif
