/* The syntax of settings files. See settings_file.h. */
#include "store/settings_file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/buf.h"
#include "store/base/file.h"
#include "store/base/log.h"

#define VALUE_FILE_MAX ((size_t)64 << 10)
#define INCLUDES_MAX   1000

struct reader {
	const struct settings_handler *handler;
	size_t total;
	unsigned includes, include_depth;
};

/* One file being read. */
struct source {
	struct reader *reader;
	struct settings_place place;
	const char *next, *end; /* what is not read yet */
	const struct settings_block *block;
	unsigned base_depth; /* of the block that the file is included in */
};

static int read_path(struct reader *reader, const char *path, const struct settings_block *block,
		     struct error *err);
static int read_lines(struct source *source, struct error *err);

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static char *skip_space(char *p)
{
	while (is_space(*p))
		p++;
	return p;
}

static void trim_end(char *text)
{
	size_t len = strlen(text);

	while (len && is_space(text[len - 1]))
		len--;
	text[len] = '\0';
}

static unsigned depth_of(const struct settings_block *block)
{
	return block ? block->depth : 0;
}

/* ---- lines ---- */

/* The next line, with those it goes on in. False: there is none. */
static int next_line(struct source *source, struct buf *line, bool *more_r, struct error *err)
{
	bool joined = false;

	buf_clear(line);
	*more_r = source->next < source->end;
	while (source->next < source->end) {
		const char *start = source->next;
		const char *nl = memchr(start, '\n', (size_t)(source->end - start));
		const char *stop = nl ? nl : source->end;

		source->next = nl ? nl + 1 : source->end;
		source->place.line++;
		if (memchr(start, '\0', (size_t)(stop - start)))
			return error_set(err, -EINVAL, "NUL byte: not a text file");
		while (stop > start && is_space(stop[-1]))
			stop--;
		while (joined && start < stop && is_space(*start))
			start++;
		if (buf_append(line, start, (size_t)(stop - start)) < 0)
			return error_set(err, -EINVAL, "line too long");
		/* A comment ends with its line. */
		if (!line->len || line->data[line->len - 1] != '\\' ||
		    *skip_space(line->data) == '#')
			return 0;
		line->data[--line->len] = '\0';
		joined = true;
	}
	return 0;
}

/* ---- values ---- */

/* Cuts a comment off an unquoted value. */
static void cut_comment(struct source *source, char *value)
{
	char *hash = strchr(value, '#');

	if (!hash)
		return;
	if (hash > value && !is_space(hash[-1])) {
		char text[160];

		snprintf(text, sizeof text,
			 "'#' starts a comment: the value ends before it; put the value in quotes "
			 "if '#' belongs to it");
		source->reader->handler->warn(source->reader->handler->ctx, &source->place, text);
	}
	*hash = '\0';
	trim_end(value);
}

/* A value that is one quoted string. *quoted_r false: it is not. */
static int unquote(char *value, bool *quoted_r, struct error *err)
{
	char quote = value[0], *to = value, *p;

	*quoted_r = false;
	if (quote != '"' && quote != '\'')
		return 0;
	for (p = value + 1; *p && *p != quote; p++) {
		if (quote == '"' && *p == '\\' && p[1])
			p++;
	}
	if (!*p)
		return error_set(err, -EINVAL, "quote %c without its end", quote);
	p = skip_space(p + 1);
	if (*p && *p != '#')
		return 0;
	for (p = value + 1; *p != quote; p++) {
		if (quote == '"' && *p == '\\' && (p[1] == '"' || p[1] == '\\' || p[1] == '\''))
			p++;
		*to++ = *p;
	}
	*to = '\0';
	*quoted_r = true;
	return 0;
}

static bool is_name_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '/';
}

/* Replaces $name at the start of a word. */
static int expand_variables(struct source *source, const char *value, struct buf *out,
			    struct error *err)
{
	const struct settings_handler *handler = source->reader->handler;

	for (const char *p = value; *p;) {
		char name[128];
		const char *found;
		size_t len = 0;

		if (*p != '$' || (p > value && !is_space(p[-1])) || !is_name_char(p[1])) {
			buf_append_byte(out, (unsigned char)*p++);
			continue;
		}
		for (p++; is_name_char(*p) && len < sizeof name - 1; p++)
			name[len++] = *p;
		name[len] = '\0';
		found = handler->lookup(handler->ctx, source->block, name);
		if (!found)
			return error_set(err, -EINVAL,
					 "$%s: no such setting; put the value in quotes if it "
					 "starts with '$'",
					 name);
		buf_append_str(out, found);
	}
	return out->failed ? error_set(err, -EINVAL, "value too long") : 0;
}

/* A path in a settings file is relative to that file's directory. */
static int absolute_path(const struct source *source, const char *path, char *abs_r, size_t size,
			 struct error *err)
{
	const char *slash = strrchr(source->place.file, '/');
	int dir_len = slash && path[0] != '/' ? (int)(slash + 1 - source->place.file) : 0;
	int len = snprintf(abs_r, size, "%.*s%s", dir_len, source->place.file, path);

	if (!path[0])
		return error_set(err, -EINVAL, "file name missing");
	return len < 0 || (size_t)len >= size ? error_set(err, -EINVAL, "path too long") : 0;
}

static int value_from_file(struct source *source, const char *name, const char *path,
			   struct buf *out, struct error *err)
{
	const struct settings_handler *handler = source->reader->handler;
	char abs[PATH_MAX];
	AUTO_CLOSE int fd = -1;
	int rc = absolute_path(source, path, abs, sizeof abs, err);

	if (rc < 0)
		return rc;
	if (handler->wants_path(handler->ctx, source->block, name)) {
		buf_printf(out, "<%s", abs);
		return out->failed ? error_set(err, -EINVAL, "path too long") : 0;
	}
	fd = open(abs, O_RDONLY | O_CLOEXEC);
	/* A user's program reads the machine's settings, and not its secrets. What needs one says
	 * that it is not set. */
	if (fd < 0 && errno == EACCES && geteuid() != 0) {
		log_info("%s:%u: %s = <%s: %s, so it is not set", source->place.file,
			 source->place.line, name, path, strerror(errno));
		return 0;
	}
	if (fd < 0)
		return error_set(err, -EINVAL, "%s = <%s: %s", name, path, strerror(errno));
	rc = file_read(fd, out);
	if (rc < 0)
		return error_set(err, -EINVAL, "%s = <%s: %s", name, path,
				 rc == -EMSGSIZE ? "file too large" : strerror(-rc));
	if (out->len && memchr(out->data, '\0', out->len))
		return error_set(err, -EINVAL, "%s = <%s: NUL byte in it", name, path);
	/* The newline is the editor's. */
	if (out->len && out->data[out->len - 1] == '\n')
		out->data[--out->len] = '\0';
	return 0;
}

static int read_value(struct source *source, const char *name, char *text, struct error *err)
{
	const struct settings_handler *handler = source->reader->handler;
	AUTO_BUF struct buf value = BUF_INIT(VALUE_FILE_MAX);
	bool quoted;
	int rc = unquote(text, &quoted, err);

	if (rc < 0)
		return rc;
	if (quoted) {
		buf_append_str(&value, text);
	} else {
		cut_comment(source, text);
		rc = text[0] == '<'
			     ? value_from_file(source, name, skip_space(text + 1), &value, err)
			     : expand_variables(source, text, &value, err);
	}
	if (rc == 0 && value.failed)
		rc = error_set(err, -EINVAL, "value too long");
	return rc < 0 ? rc
		      : handler->value(handler->ctx, source->block, name, buf_str(&value),
				       &source->place, err);
}

/* ---- blocks and includes ---- */

/* From the line that opens a block to the one that closes it. */
static int read_block(struct source *source, const char *type, char *title, struct error *err)
{
	const struct settings_handler *handler = source->reader->handler;
	struct settings_block block = {.type = type,
				       .title = title,
				       .parent = source->block,
				       .depth = depth_of(source->block) + 1};
	unsigned opened_at = source->place.line;
	int rc;

	if (block.depth > SETTINGS_DEPTH_MAX)
		return error_set(err, -EINVAL, "blocks are nested too deeply");
	rc = handler->begin(handler->ctx, &block, &source->place, err);
	if (rc < 0)
		return rc;
	source->block = &block;
	rc = read_lines(source, err);
	source->block = block.parent;
	if (rc < 0)
		return rc;
	if (rc == 0)
		return error_set(err, -EINVAL, "%s { of line %u is never closed", type, opened_at);
	return handler->end(handler->ctx, &block, &source->place, err);
}

static int open_block(struct source *source, char *type, char *rest, struct error *err)
{
	char *brace = strchr(rest, '{'), *title;
	bool quoted;
	int rc;

	/* The title may be quoted, and then hold a brace. */
	if (rest[0] == '"' || rest[0] == '\'') {
		char *close = strchr(rest + 1, rest[0]);

		brace = close ? strchr(close, '{') : NULL;
	}
	if (!brace)
		return error_set(err, -EINVAL, "neither 'name = value' nor 'block {': %.100s",
				 type);
	*brace = '\0';
	if (*skip_space(brace + 1) && *skip_space(brace + 1) != '#')
		return error_set(
			err, -EINVAL,
			"after '{' the line has to end: what the block holds goes on lines "
			"of its own");
	title = rest;
	trim_end(title);
	rc = unquote(title, &quoted, err);
	if (rc < 0)
		return rc;
	return read_block(source, type, title, err);
}

static int include(struct source *source, char *pattern, bool must_exist, struct error *err)
{
	struct reader *reader = source->reader;
	char abs[PATH_MAX];
	glob_t found = {0};
	int rc;

	cut_comment(source, pattern);
	rc = absolute_path(source, pattern, abs, sizeof abs, err);
	if (rc < 0)
		return rc;
	rc = glob(abs, GLOB_BRACE, NULL, &found);
	if (rc == GLOB_NOMATCH) {
		globfree(&found);
		return must_exist ? error_set(err, -EINVAL, "!include %s: no such file", pattern)
				  : 0;
	}
	if (rc != 0) {
		globfree(&found);
		return error_set(err, -EINVAL, "!include %s: cannot be read", pattern);
	}
	reader->include_depth++;
	if (reader->include_depth > SETTINGS_DEPTH_MAX)
		rc = error_set(err, -EINVAL,
			       "!include %s: includes are nested too deeply (a file that includes "
			       "itself?)",
			       pattern);
	for (size_t i = 0; i < found.gl_pathc && rc == 0; i++) {
		if (++reader->includes > INCLUDES_MAX)
			rc = error_set(err, -EINVAL, "too many includes");
		else
			rc = read_path(reader, found.gl_pathv[i], source->block, err);
	}
	reader->include_depth--;
	globfree(&found);
	/* Whatever kept it from being read: these settings are not usable. */
	if (rc < 0 && err)
		err->code = -EINVAL;
	return rc < 0 ? -EINVAL : 0;
}

/* 1: the line closes the block. */
static int read_line(struct source *source, char *line, struct error *err)
{
	char *p = skip_space(line), *name = p, *after;

	if (*p == '\0' || *p == '#')
		return 0;
	if (*p == '}') {
		p = skip_space(p + 1);
		if (*p && *p != '#')
			return error_set(err, -EINVAL, "after '}' the line has to end");
		if (depth_of(source->block) == source->base_depth)
			return error_set(err, -EINVAL, "'}' without a block to close");
		return 1;
	}
	while (*p && !is_space(*p) && *p != '=' && *p != '{' && *p != '#')
		p++;
	after = skip_space(p);
	if (strncmp(name, "!include_try", 12) == 0 && p == name + 12)
		return include(source, after, false, err);
	if (strncmp(name, "!include", 8) == 0 && p == name + 8)
		return include(source, after, true, err);
	if (p == name || *name == '!')
		return error_set(err, -EINVAL, "neither 'name = value' nor 'block {': %.100s",
				 name);
	if (*after == '=') {
		*p = '\0';
		return read_value(source, name, skip_space(after + 1), err);
	}
	if (*after == '{' && after == p) {
		/* "type{": the name ends where the brace is. */
		memmove(after + 1, after, strlen(after) + 1);
		*after++ = '\0';
		return open_block(source, name, after, err);
	}
	if (*p)
		*p = '\0';
	return open_block(source, name, after, err);
}

/* 1: a line closed the block; 0: the file ended. */
static int read_lines(struct source *source, struct error *err)
{
	AUTO_BUF struct buf line = BUF_INIT(SETTINGS_LINE_MAX);
	bool more;
	int rc;

	while ((rc = next_line(source, &line, &more, err)) == 0 && more) {
		if (!line.len)
			continue;
		/* Room for the NUL that "type{" needs. */
		if (!buf_reserve(&line, 2))
			return error_set(err, -EINVAL, "line too long");
		rc = read_line(source, line.data, err);
		if (rc != 0)
			return rc;
	}
	return rc;
}

/* ---- files ---- */

static int read_source(struct reader *reader, const char *text, size_t len, const char *name,
		       const struct settings_block *block, struct error *err)
{
	struct source source = {.reader = reader,
				.place = {.file = name},
				.next = text,
				.end = text + len,
				.block = block,
				.base_depth = depth_of(block)};
	int rc;

	reader->total += len;
	if (len > SETTINGS_FILE_MAX || reader->total > SETTINGS_TOTAL_MAX)
		return error_set(err, -EINVAL, "%s: settings are too large", name);
	/* A byte order mark of some editors. */
	if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		source.next += 3;
	rc = read_lines(&source, err);
	/* An error of an included file already has its place. */
	if (rc < 0 && err && !(err->text[0] == '\1'))
		return error_prefix(err, "\1%s:%u", name, source.place.line);
	return rc;
}

static int read_path(struct reader *reader, const char *path, const struct settings_block *block,
		     struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(SETTINGS_FILE_MAX);
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	int rc;

	if (fd < 0)
		return error_errno(err, -errno, "%s", path);
	if (fstat(fd, &st) < 0 || S_ISDIR(st.st_mode))
		return error_set(err, -EINVAL, "%s: not a file", path);
	rc = file_read(fd, &text);
	if (rc < 0)
		return error_errno(err, rc, "%s", path);
	return read_source(reader, buf_str(&text), text.len, path, block, err);
}

/* The mark that tells errors with a place from those without has done its duty. */
static int finish(int rc, struct error *err)
{
	if (rc < 0 && err && err->text[0] == '\1')
		memmove(err->text, err->text + 1, strlen(err->text));
	return rc;
}

int settings_file_read(const char *path, const struct settings_handler *handler, struct error *err)
{
	struct reader reader = {.handler = handler};

	return finish(read_path(&reader, path, NULL, err), err);
}

int settings_text_read(const char *text, size_t len, const char *name,
		       const struct settings_handler *handler, struct error *err)
{
	struct reader reader = {.handler = handler};

	return finish(read_source(&reader, text, len, name, NULL, err), err);
}
