/*
 * Preloaded into dsyncfs, delays what it replies to the kernel without data ("it is done": of an
 * unlink, a rename) while the file SLOW_REPLY exists: programs that wait for nothing of the kernel
 * hear of it sooner. As on a machine with much to do, for longer.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define REPLY_BYTES 16 /* struct fuse_out_header */
#define DELAY_US    300000

ssize_t writev(int fd, const struct iovec *iov, int count)
{
	__typeof__(writev) *real = (__typeof__(writev) *)dlsym(RTLD_NEXT, "writev");
	const char *file = getenv("SLOW_REPLY");

	if (count == 1 && iov[0].iov_len == REPLY_BYTES && file && access(file, F_OK) == 0)
		usleep(DELAY_US);
	return real(fd, iov, count);
}
