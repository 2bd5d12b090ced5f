/*
 * Fuzzer of both ends of the doveadm protocol: what a stranger sends to the port, and what a server
 * answers us. The first byte says which end, and how many bytes arrive at a time.
 */
#include <stdint.h>
#include <stdlib.h>
#include "sync/doveadm_protocol.h"

#define PASSWORD "secretpw"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void serve(const uint8_t *data, size_t size, size_t step)
{
	struct buf in = BUF_INIT(DOVEADM_LINE_MAX * 2), out = BUF_INIT(65536);
	struct doveadm_server server;
	struct doveadm_command command;
	enum doveadm_event event = DOVEADM_MORE;
	struct error err = {0};

	doveadm_server_init(&server);
	while (size && event == DOVEADM_MORE) {
		size_t len = size < step ? size : step;

		if (buf_append(&in, data, len) < 0)
			break;
		data += len;
		size -= len;
		event = doveadm_server_input(&server, PASSWORD, &in, &out, &command, &err);
	}
	if (event == DOVEADM_COMMAND && command.user[0] == '\0')
		abort();
	if (event == DOVEADM_CLOSE && err.text[0] == '\0')
		abort();
	buf_free(&in);
	buf_free(&out);
}

static void ask(const uint8_t *data, size_t size, size_t step)
{
	struct buf in = BUF_INIT(DOVEADM_LINE_MAX * 2), out = BUF_INIT(65536);
	struct doveadm_client client;
	struct error err = {0};
	int rc = 0;

	doveadm_client_start(&client, &out);
	while (size && rc == 0 && client.state != DOVEADM_CLIENT_STREAM) {
		size_t len = size < step ? size : step;

		if (buf_append(&in, data, len) < 0)
			break;
		data += len;
		size -= len;
		rc = doveadm_client_input(&client, PASSWORD, &in, &out, &err);
		if (client.state == DOVEADM_CLIENT_READY)
			(void)doveadm_client_command(&client, "alice@example.org", &out);
	}
	if (rc < 0 && err.text[0] == '\0')
		abort();
	buf_free(&in);
	buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t step;

	if (size < 1)
		return 0;
	step = (size_t)(data[0] >> 1) + 1;
	if (data[0] & 1)
		ask(data + 1, size - 1, step);
	else
		serve(data + 1, size - 1, step);
	return 0;
}
