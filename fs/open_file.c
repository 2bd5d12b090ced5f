/* Open files: a table in chunks that never move. See open_file.h. */
#include "fs/open_file.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define CHUNK_FILES 512
#define CHUNKS_MAX  8192

struct chunk {
	struct open_file files[CHUNK_FILES];
	uint32_t next_free[CHUNK_FILES]; /* index + 1 of the next free one */
};

struct open_files {
	pthread_mutex_t lock;
	uint32_t generation; /* of this process; never 0 */
	uint32_t used;	     /* indexes ever handed out */
	uint32_t free;	     /* index + 1; 0: none */
	struct chunk *chunks[CHUNKS_MAX];
};

struct open_files *open_files_create(void)
{
	struct open_files *files = calloc(1, sizeof *files);

	if (!files)
		return NULL;
	pthread_mutex_init(&files->lock, NULL);
	if (getrandom(&files->generation, sizeof files->generation, 0) !=
	    (ssize_t)sizeof files->generation)
		files->generation = (uint32_t)getpid();
	files->generation |= 1;
	return files;
}

static struct open_file *file_at(struct open_files *files, uint32_t index)
{
	return &files->chunks[index / CHUNK_FILES]->files[index % CHUNK_FILES];
}

static void release(struct open_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	free(file->name);
	free(file->entries);
	pthread_mutex_destroy(&file->lock);
	file->used = false;
}

void open_files_free(struct open_files **files)
{
	struct open_files *f = *files;

	if (!f)
		return;
	for (uint32_t i = 0; i < f->used; i++) {
		if (file_at(f, i)->used)
			release(file_at(f, i));
	}
	for (uint32_t i = 0; i < CHUNKS_MAX; i++)
		free(f->chunks[i]);
	pthread_mutex_destroy(&f->lock);
	free(f);
	*files = NULL;
}

struct open_file *open_files_add(struct open_files *files, int fd, uint64_t *fh_r)
{
	struct open_file *file = NULL;
	uint32_t index;

	pthread_mutex_lock(&files->lock);
	if (files->free) {
		index = files->free - 1;
		files->free = files->chunks[index / CHUNK_FILES]->next_free[index % CHUNK_FILES];
	} else {
		index = files->used;
		if (index / CHUNK_FILES >= CHUNKS_MAX)
			goto out;
		if (!files->chunks[index / CHUNK_FILES])
			files->chunks[index / CHUNK_FILES] = calloc(1, sizeof(struct chunk));
		if (!files->chunks[index / CHUNK_FILES])
			goto out;
		files->used++;
	}
	file = file_at(files, index);
	*file = (struct open_file){.fd = fd, .used = true};
	pthread_mutex_init(&file->lock, NULL);
	*fh_r = (uint64_t)files->generation << 32 | index;
out:
	pthread_mutex_unlock(&files->lock);
	return file;
}

struct open_file *open_file_get(struct open_files *files, uint64_t fh)
{
	uint32_t index = (uint32_t)fh;
	struct open_file *file;

	if (fh >> 32 != files->generation || index / CHUNK_FILES >= CHUNKS_MAX ||
	    !files->chunks[index / CHUNK_FILES])
		return NULL;
	file = file_at(files, index);
	return file->used ? file : NULL;
}

void open_files_remove(struct open_files *files, uint64_t fh)
{
	struct open_file *file = open_file_get(files, fh);
	uint32_t index = (uint32_t)fh;

	if (!file)
		return;
	release(file);
	pthread_mutex_lock(&files->lock);
	files->chunks[index / CHUNK_FILES]->next_free[index % CHUNK_FILES] = files->free;
	files->free = index + 1;
	pthread_mutex_unlock(&files->lock);
}

void open_files_each(struct open_files *files, void (*each)(void *ctx, struct open_file *file),
		     void *ctx)
{
	for (uint32_t i = 0; i < files->used; i++) {
		struct open_file *file = file_at(files, i);

		if (file->used)
			each(ctx, file);
	}
}
