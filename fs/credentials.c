/* Filesystem uid, gid and umask of serving threads. See credentials.h. */
#include "fs/credentials.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int drop_capability(unsigned cap)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	data[CAP_TO_INDEX(cap)].effective &= ~CAP_TO_MASK(cap);
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int credentials_prepare(struct error *err)
{
	int bits = prctl(PR_GET_SECUREBITS);
	int rc;

	if (bits < 0 || prctl(PR_SET_SECUREBITS, (unsigned long)bits | SECBIT_NO_SETUID_FIXUP) < 0)
		return error_errno(err, -errno,
				   "cannot keep capabilities (SECBIT_NO_SETUID_FIXUP)");
	rc = drop_capability(CAP_SYS_RESOURCE);
	if (rc < 0)
		return error_errno(err, rc, "cannot give up CAP_SYS_RESOURCE");
	return 0;
}

int credentials_prepare_thread(void)
{
	/* umask belongs to what CLONE_FS shares. */
	if (unshare(CLONE_FS) < 0)
		return -errno;
	umask(0);
	return 0;
}

static _Thread_local mode_t mask_taken;

void credentials_take(uid_t uid, gid_t gid, mode_t mask)
{
	if (mask)
		umask(mask);
	mask_taken = mask;
	setfsgid(gid);
	setfsuid(uid);
}

void credentials_drop(void)
{
	setfsuid(0);
	setfsgid(0);
	if (mask_taken)
		umask(0);
}
