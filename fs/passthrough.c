/* Kernel pass-through of file data. See passthrough.h. */
#include "fs/passthrough.h"

#if FS_HAVE_PASSTHROUGH

#include <fcntl.h>
#include "fs/credentials.h"
#include "store/base/log.h"

struct backing_request {
	fuse_req_t req;
	struct fs *fs;
	int fd;
};

static int make_backing(void *ctx)
{
	const struct backing_request *request = ctx;
	const struct fuse_ctx *caller = fuse_req_ctx(request->req);
	int id;

	/* The kernel writes with the credentials of this moment, and the blocks reserved for root
	   shall stay root's. */
	if (caller->uid != 0)
		credentials_take(caller->uid, caller->gid, 0);
	id = fuse_passthrough_open(request->req, request->fd);
	if (caller->uid != 0)
		credentials_drop();
	/* What refuses one file (another stacked filesystem below, a missing capability) refuses
	   all. */
	if (id <= 0 && !__atomic_exchange_n(&request->fs->backing_refused, true, __ATOMIC_RELAXED))
		log_warning("the kernel does not pass the backing directory's files through; they "
			    "are copied");
	return id;
}

void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn)
{
	/* Without the promise to clear suid bits ourselves the kernel asks for an attribute before
	   every write, which eats what pass-through gains. */
	fs->passthrough = (conn->capable & FUSE_CAP_PASSTHROUGH) &&
			  (conn->capable & FUSE_CAP_HANDLE_KILLPRIV_V2);
	if (fs->passthrough) {
		conn->want |= FUSE_CAP_PASSTHROUGH;
		conn->max_backing_stack_depth = 1;
	}
	if (conn->capable & FUSE_CAP_HANDLE_KILLPRIV_V2)
		conn->want |= FUSE_CAP_HANDLE_KILLPRIV_V2;
}

void passthrough_open(fuse_req_t req, struct fs *fs, uint64_t nodeid, struct open_file *file,
		      struct fuse_file_info *fi)
{
	struct backing_request request = {.req = req, .fs = fs, .fd = file->fd};
	bool may = !place_file_is_ours(inode_kind(fs->inodes, nodeid)) &&
		   !__atomic_load_n(&fs->backing_refused, __ATOMIC_RELAXED);

	if (!fs->passthrough)
		return;
	file->nodeid = nodeid;
	file->backing_id =
		inode_backing_open(fs->inodes, nodeid, may ? make_backing : NULL, &request);
	if (file->backing_id == 0)
		return;
	fi->backing_id = file->backing_id;
	fi->keep_cache = 0;
}

void passthrough_release(fuse_req_t req, struct fs *fs, struct open_file *file)
{
	int id = file->nodeid ? inode_backing_release(fs->inodes, file->nodeid) : 0;

	if (id > 0)
		fuse_passthrough_close(req, id);
	file->nodeid = 0;
	file->backing_id = 0;
}

bool passthrough_was_unseen(struct fs *fs, const struct open_file *file, int flags)
{
	return file->backing_id && (flags & O_ACCMODE) != O_RDONLY &&
	       place_file_is_log(inode_kind(fs->inodes, file->nodeid));
}

#else

void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn)
{
}

void passthrough_open(fuse_req_t req, struct fs *fs, uint64_t nodeid, struct open_file *file,
		      struct fuse_file_info *fi)
{
}

void passthrough_release(fuse_req_t req, struct fs *fs, struct open_file *file)
{
}

bool passthrough_was_unseen(struct fs *fs, const struct open_file *file, int flags)
{
	return false;
}

#endif
