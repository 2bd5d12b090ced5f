/* Kernel pass-through of file data. See passthrough.h. */
#include "fs/passthrough.h"

#if FS_HAVE_PASSTHROUGH

#include <errno.h>
#include "store/base/log.h"

struct backing_request {
	fuse_req_t req;
	int fd;
};

static int make_backing(void *ctx)
{
	const struct backing_request *request = ctx;

	return fuse_passthrough_open(request->req, request->fd);
}

void passthrough_open(fuse_req_t req, struct fs *fs, struct open_file *file,
		      struct fuse_file_info *fi)
{
	struct backing_request request = {.req = req, .fd = file->fd};

	if (!fs->passthrough || place_file_is_log(inode_kind(fs->inodes, file->nodeid)))
		return;
	file->backing_id = inode_backing_open(fs->inodes, file->nodeid, make_backing, &request);
	if (file->backing_id <= 0)
		return;
	fi->backing_id = file->backing_id;
	fi->keep_cache = 0;
}

void passthrough_release(fuse_req_t req, struct fs *fs, struct open_file *file)
{
	int id = file->backing_id > 0 ? inode_backing_release(fs->inodes, file->nodeid) : 0;

	if (id > 0)
		fuse_passthrough_close(req, id);
	file->backing_id = 0;
}

#else

void passthrough_open(fuse_req_t req, struct fs *fs, struct open_file *file,
		      struct fuse_file_info *fi)
{
}

void passthrough_release(fuse_req_t req, struct fs *fs, struct open_file *file)
{
}

#endif
