/* Messages between dsyncd and its workers: encoding, bounded parsing, packets. See
 * worker_protocol.h. */
#include "sync/worker_protocol.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "store/base/file.h"

/* ---- fields: little-endian is not needed, both ends are one machine and one binary ---- */

void worker_put_begin(struct buf *message, enum worker_message_type type)
{
	message->max = WORKER_MESSAGE_MAX;
	buf_clear(message);
	worker_put_u8(message, WORKER_PROTOCOL_VERSION);
	worker_put_u8(message, (uint8_t)type);
}

void worker_put_u8(struct buf *message, uint8_t value)
{
	buf_append_byte(message, value);
}

void worker_put_u32(struct buf *message, uint32_t value)
{
	buf_append(message, &value, sizeof value);
}

void worker_put_u64(struct buf *message, uint64_t value)
{
	buf_append(message, &value, sizeof value);
}

void worker_put_bytes(struct buf *message, const void *data, size_t len)
{
	if (len > WORKER_MESSAGE_MAX) {
		message->failed = -EMSGSIZE;
		return;
	}
	worker_put_u32(message, (uint32_t)len);
	buf_append(message, data, len);
}

/* Length, bytes, and a NUL, so that the reader can point into the message. */
void worker_put_str(struct buf *message, const char *str)
{
	worker_put_bytes(message, str, strlen(str) + 1);
}

void worker_put_guid(struct buf *message, const struct guid *guid)
{
	buf_append(message, guid->bytes, sizeof guid->bytes);
}

int worker_get_begin(struct worker_reader *reader, const struct buf *message)
{
	*reader = (struct worker_reader){
		.data = (const uint8_t *)message->data,
		.left = message->len,
	};
	if (worker_get_u8(reader) != WORKER_PROTOCOL_VERSION)
		return -EPROTO;
	reader->type = (enum worker_message_type)worker_get_u8(reader);
	return reader->failed ? -EPROTO : 0;
}

static const uint8_t *take(struct worker_reader *reader, size_t len)
{
	const uint8_t *data = reader->data;

	if (reader->failed || len > reader->left) {
		reader->failed = true;
		return NULL;
	}
	reader->data += len;
	reader->left -= len;
	return data;
}

uint8_t worker_get_u8(struct worker_reader *reader)
{
	const uint8_t *data = take(reader, 1);

	return data ? *data : 0;
}

uint32_t worker_get_u32(struct worker_reader *reader)
{
	const uint8_t *data = take(reader, sizeof(uint32_t));
	uint32_t value = 0;

	if (data)
		memcpy(&value, data, sizeof value);
	return value;
}

uint64_t worker_get_u64(struct worker_reader *reader)
{
	const uint8_t *data = take(reader, sizeof(uint64_t));
	uint64_t value = 0;

	if (data)
		memcpy(&value, data, sizeof value);
	return value;
}

const void *worker_get_bytes(struct worker_reader *reader, size_t *len_r)
{
	uint32_t len = worker_get_u32(reader);
	const uint8_t *data = take(reader, len);

	*len_r = data ? len : 0;
	return data;
}

const char *worker_get_str(struct worker_reader *reader, size_t max)
{
	size_t len;
	const char *str = worker_get_bytes(reader, &len);

	if (!str || len == 0 || len - 1 > max || str[len - 1] != '\0' || strlen(str) != len - 1) {
		reader->failed = true;
		return "";
	}
	return str;
}

void worker_get_guid(struct worker_reader *reader, struct guid *guid_r)
{
	const uint8_t *data = take(reader, sizeof guid_r->bytes);

	*guid_r = (struct guid){0};
	if (data)
		memcpy(guid_r->bytes, data, sizeof guid_r->bytes);
}

int worker_get_end(const struct worker_reader *reader)
{
	return reader->failed || reader->left ? -EPROTO : 0;
}

/* An enum's value, if it is one of 0 to last. */
static unsigned get_enum(struct worker_reader *reader, unsigned last)
{
	unsigned value = worker_get_u8(reader);

	if (value > last) {
		reader->failed = true;
		return 0;
	}
	return value;
}

static bool get_bool(struct worker_reader *reader)
{
	return get_enum(reader, 1) == 1;
}

/* ---- messages ---- */

void worker_put_job(struct buf *message, const struct worker_job *job)
{
	worker_put_begin(message, WORKER_JOB);
	worker_put_str(message, job->user);
	worker_put_str(message, job->peer);
	worker_put_u32(message, job->flags);
}

int worker_get_job(struct worker_reader *reader, struct worker_job *job_r)
{
	job_r->user = worker_get_str(reader, WORKER_NAME_MAX);
	job_r->peer = worker_get_str(reader, WORKER_NAME_MAX);
	job_r->flags = worker_get_u32(reader);
	return worker_get_end(reader);
}

void worker_put_event(struct buf *message, const struct worker_event *event)
{
	worker_put_u8(message, (uint8_t)event->event.kind);
	worker_put_u32(message, event->event.origin);
	worker_put_u64(message, event->event.seq);
	worker_put_u64(message, (uint64_t)event->event.time);
	worker_put_str(message, event->event.dir);
	worker_put_str(message, event->event.name);
	worker_put_str(message, event->event.name2);
	worker_put_guid(message, &event->guid);
}

int worker_get_event(struct worker_reader *reader, struct worker_event *event_r)
{
	event_r->event.home = "";
	event_r->event.kind = get_enum(reader, MAIL_EVENT_RESCAN_HOME);
	event_r->event.origin = worker_get_u32(reader);
	event_r->event.seq = worker_get_u64(reader);
	event_r->event.time = (int64_t)worker_get_u64(reader);
	event_r->event.dir = worker_get_str(reader, WORKER_NAME_MAX);
	event_r->event.name = worker_get_str(reader, WORKER_NAME_MAX);
	event_r->event.name2 = worker_get_str(reader, WORKER_NAME_MAX);
	worker_get_guid(reader, &event_r->guid);
	return reader->failed ? -EPROTO : 0;
}

void worker_put_box(struct buf *message, const struct worker_box *box)
{
	worker_put_begin(message, WORKER_BOX);
	worker_put_str(message, box->dir);
	worker_put_str(message, box->name);
	worker_put_guid(message, &box->guid);
	worker_put_u32(message, box->uid_validity);
	worker_put_u32(message, box->uid_next);
	worker_put_u32(message, box->messages);
	worker_put_u64(message, box->highest_modseq);
	worker_put_u8(message, box->incomplete);
}

int worker_get_box(struct worker_reader *reader, struct worker_box *box_r)
{
	box_r->dir = worker_get_str(reader, WORKER_NAME_MAX);
	box_r->name = worker_get_str(reader, WORKER_NAME_MAX);
	worker_get_guid(reader, &box_r->guid);
	box_r->uid_validity = worker_get_u32(reader);
	box_r->uid_next = worker_get_u32(reader);
	box_r->messages = worker_get_u32(reader);
	box_r->highest_modseq = worker_get_u64(reader);
	box_r->incomplete = get_bool(reader);
	return worker_get_end(reader);
}

void worker_put_list_expunges(struct buf *message, const struct worker_list_expunges *task)
{
	worker_put_begin(message, WORKER_LIST_EXPUNGES);
	worker_put_guid(message, &task->guid);
	worker_put_str(message, task->name);
	worker_put_u64(message, task->since);
}

int worker_get_list_expunges(struct worker_reader *reader, struct worker_list_expunges *task_r)
{
	worker_get_guid(reader, &task_r->guid);
	task_r->name = worker_get_str(reader, WORKER_NAME_MAX);
	task_r->since = worker_get_u64(reader);
	return worker_get_end(reader);
}

void worker_put_expunges(struct buf *message, const struct worker_expunges *head)
{
	worker_put_begin(message, WORKER_EXPUNGES);
	worker_put_guid(message, &head->guid);
	worker_put_u8(message, head->more);
	worker_put_u8(message, head->failed);
	worker_put_u32(message, head->uid_validity);
	worker_put_u32(message, head->uid_next);
	worker_put_u32(message, head->messages);
	worker_put_u64(message, head->highest_modseq);
}

int worker_get_expunges(struct worker_reader *reader, struct worker_expunges *head_r)
{
	worker_get_guid(reader, &head_r->guid);
	head_r->more = get_bool(reader);
	head_r->failed = get_bool(reader);
	head_r->uid_validity = worker_get_u32(reader);
	head_r->uid_next = worker_get_u32(reader);
	head_r->messages = worker_get_u32(reader);
	head_r->highest_modseq = worker_get_u64(reader);
	return reader->failed ? -EPROTO : 0;
}

void worker_put_expunge(struct buf *message, const struct sync_expunge *expunge)
{
	worker_put_u32(message, expunge->uid);
	worker_put_guid(message, &expunge->guid);
	worker_put_u64(message, expunge->modseq);
}

int worker_get_expunge(struct worker_reader *reader, struct sync_expunge *expunge_r)
{
	expunge_r->uid = worker_get_u32(reader);
	worker_get_guid(reader, &expunge_r->guid);
	expunge_r->modseq = worker_get_u64(reader);
	return reader->failed ? -EPROTO : 0;
}

void worker_put_caught_up(struct buf *message, const struct worker_caught_up *result)
{
	worker_put_begin(message, WORKER_CAUGHT_UP);
	worker_put_u8(message, result->tree_changed);
	worker_put_u32(message, result->failed);
	worker_put_str(message, result->reason);
}

int worker_get_caught_up(struct worker_reader *reader, struct worker_caught_up *result_r)
{
	result_r->tree_changed = get_bool(reader);
	result_r->failed = worker_get_u32(reader);
	result_r->reason = worker_get_str(reader, ERROR_TEXT_MAX);
	return worker_get_end(reader);
}

void worker_put_go(struct buf *message, const struct worker_go *go)
{
	worker_put_begin(message, WORKER_GO);
	worker_put_u8(message, go->connect);
	worker_put_u8(message, (uint8_t)go->type);
	worker_put_u8(message, (uint8_t)go->box_count);
	for (size_t i = 0; i < go->box_count; i++) {
		worker_put_guid(message, &go->boxes[i].guid);
		worker_put_str(message, go->boxes[i].name);
	}
}

int worker_get_go(struct worker_reader *reader, struct worker_go *go_r)
{
	go_r->connect = get_bool(reader);
	go_r->type = get_enum(reader, SYNC_BOXES);
	go_r->box_count = get_enum(reader, WORKER_BOXES_MAX);
	for (size_t i = 0; i < go_r->box_count; i++) {
		worker_get_guid(reader, &go_r->boxes[i].guid);
		go_r->boxes[i].name = worker_get_str(reader, WORKER_NAME_MAX);
	}
	return worker_get_end(reader);
}

void worker_put_peer(struct buf *message, const struct sync_peer *peer)
{
	worker_put_begin(message, WORKER_BEGIN);
	worker_put_str(message, peer->id);
	worker_put_str(message, peer->hostname);
	worker_put_u8(message, peer->is_dsyncfs);
}

int worker_get_peer(struct worker_reader *reader, struct sync_peer *peer_r)
{
	const char *id = worker_get_str(reader, sizeof peer_r->id - 1);
	const char *hostname = worker_get_str(reader, sizeof peer_r->hostname - 1);

	*peer_r = (struct sync_peer){0};
	memcpy(peer_r->id, id, strlen(id) + 1);
	memcpy(peer_r->hostname, hostname, strlen(hostname) + 1);
	peer_r->is_dsyncfs = get_bool(reader);
	return worker_get_end(reader);
}

void worker_put_state(struct buf *message, const struct sync_mailbox_state *state)
{
	worker_put_guid(message, &state->guid);
	worker_put_u32(message, state->uid_validity);
	worker_put_u32(message, state->common_uid);
	worker_put_u64(message, state->acked_modseq);
	worker_put_u64(message, state->peer_modseq);
	worker_put_u32(message, state->messages);
	worker_put_u32(message, state->reached_uid);
}

int worker_get_state(struct worker_reader *reader, struct sync_mailbox_state *state_r)
{
	worker_get_guid(reader, &state_r->guid);
	state_r->uid_validity = worker_get_u32(reader);
	state_r->common_uid = worker_get_u32(reader);
	state_r->acked_modseq = worker_get_u64(reader);
	state_r->peer_modseq = worker_get_u64(reader);
	state_r->messages = worker_get_u32(reader);
	state_r->reached_uid = worker_get_u32(reader);
	return reader->failed ? -EPROTO : 0;
}

void worker_put_session(struct buf *message, const struct worker_session *session)
{
	worker_put_begin(message, WORKER_SESSION);
	worker_put_str(message, session->user);
	worker_put_u8(message, (uint8_t)session->client_minor);
	worker_put_u8(message, session->log_passthrough);
	worker_put_u8(message, session->debug);
	worker_put_bytes(message, session->unread, session->unread_len);
}

int worker_get_session(struct worker_reader *reader, struct worker_session *session_r)
{
	session_r->user = worker_get_str(reader, WORKER_NAME_MAX);
	session_r->client_minor = worker_get_u8(reader);
	session_r->log_passthrough = get_bool(reader);
	session_r->debug = get_bool(reader);
	session_r->unread = worker_get_bytes(reader, &session_r->unread_len);
	return worker_get_end(reader);
}

void worker_put_done(struct buf *message, const struct worker_done *done)
{
	worker_put_begin(message, WORKER_DONE);
	worker_put_u8(message, (uint8_t)done->outcome);
	worker_put_u8(message, (uint8_t)done->failure);
	worker_put_u8(message, done->kept);
	worker_put_u32(message, done->mailboxes);
	worker_put_u32(message, done->sent);
	worker_put_u32(message, done->received);
	worker_put_u32(message, done->applied);
	worker_put_str(message, done->peer_id);
	worker_put_str(message, done->reason);
}

int worker_get_done(struct worker_reader *reader, struct worker_done *done_r)
{
	done_r->outcome = get_enum(reader, SYNC_FAILED);
	done_r->failure = get_enum(reader, WORKER_FAILURE_STALE);
	done_r->kept = get_bool(reader);
	done_r->mailboxes = worker_get_u32(reader);
	done_r->sent = worker_get_u32(reader);
	done_r->received = worker_get_u32(reader);
	done_r->applied = worker_get_u32(reader);
	done_r->peer_id = worker_get_str(reader, sizeof((struct sync_peer *)NULL)->id - 1);
	done_r->reason = worker_get_str(reader, ERROR_TEXT_MAX);
	return worker_get_end(reader);
}

void worker_put_found(struct buf *message, const struct worker_found *found)
{
	worker_put_begin(message, WORKER_FOUND);
	worker_put_u32(message, (uint32_t)found->code);
	worker_put_u32(message, (uint32_t)found->uid);
	worker_put_u32(message, (uint32_t)found->gid);
	worker_put_str(message, found->user);
	worker_put_str(message, found->name);
	worker_put_str(message, found->home_rel);
	worker_put_str(message, found->text);
}

int worker_get_found(struct worker_reader *reader, struct worker_found *found_r)
{
	found_r->code = (int)worker_get_u32(reader);
	found_r->uid = worker_get_u32(reader);
	found_r->gid = worker_get_u32(reader);
	found_r->user = worker_get_str(reader, WORKER_NAME_MAX);
	found_r->name = worker_get_str(reader, WORKER_NAME_MAX);
	found_r->home_rel = worker_get_str(reader, WORKER_NAME_MAX);
	found_r->text = worker_get_str(reader, ERROR_TEXT_MAX);
	return worker_get_end(reader);
}

/* ---- packets ---- */

int worker_send(int socket_fd, const struct buf *message, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec part = {.iov_base = message->data, .iov_len = message->len};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

	if (message->failed)
		return message->failed;
	if (fd >= 0) {
		struct cmsghdr *cmsg;

		header.msg_control = control.bytes;
		header.msg_controllen = sizeof control.bytes;
		cmsg = CMSG_FIRSTHDR(&header);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
	}
	for (;;) {
		if (sendmsg(socket_fd, &header, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EINTR)
			return errno == ECONNRESET ? -EPIPE : -errno;
	}
}

/* Takes the first descriptor of a control message, closes any other. */
static void take_descriptors(struct msghdr *header, int *fd_r)
{
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(header); cmsg; cmsg = CMSG_NXTHDR(header, cmsg)) {
		size_t count;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
			if (fd_r && *fd_r < 0)
				*fd_r = fd;
			else
				close(fd);
		}
	}
}

int worker_receive(int socket_fd, struct buf *message, int *fd_r)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {.iov_len = WORKER_MESSAGE_MAX};
	ssize_t n;

	if (fd_r)
		*fd_r = -1;
	message->max = WORKER_MESSAGE_MAX;
	buf_clear(message);
	part.iov_base = buf_reserve(message, WORKER_MESSAGE_MAX);
	if (!part.iov_base)
		return message->failed;
	for (;;) {
		struct msghdr header = {
			.msg_iov = &part,
			.msg_iovlen = 1,
			.msg_control = control.bytes,
			.msg_controllen = sizeof control.bytes,
		};

		n = recvmsg(socket_fd, &header, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == ECONNRESET ? 0 : -errno;
		take_descriptors(&header, fd_r);
		if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
			if (fd_r)
				file_close(fd_r);
			return -EMSGSIZE;
		}
		break;
	}
	if (n == 0)
		return 0;
	buf_commit(message, (size_t)n);
	return 1;
}
