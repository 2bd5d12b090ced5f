/* The base library: errors, buffers, GUIDs, digests, tab escaping, and paths that stay below a
 * directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "store/base/buf.h"
#include "store/base/digest.h"
#include "store/base/error.h"
#include "store/base/file.h"
#include "store/base/guid.h"
#include "store/base/lost_mapping.h"
#include "store/base/map_window.h"
#include "store/base/process.h"
#include "store/base/service.h"
#include "store/base/tabescape.h"

static void error_says_what_and_why(void **state)
{
	struct error err;

	assert_int_equal(error_errno(&err, -ENOSPC, "write(%s)", "file"), -ENOSPC);
	assert_string_equal(err.text, "write(file): No space left on device");
	assert_int_equal(error_prefix(&err, "user=%s", "alice"), -ENOSPC);
	assert_string_equal(err.text, "user=alice: write(file): No space left on device");
	assert_int_equal(error_set(NULL, -EINVAL, "nobody listens"), -EINVAL);
}

static void error_is_bounded(void **state)
{
	char *text = malloc(5000);
	struct error err;

	assert_non_null(text);
	memset(text, 'x', 4999);
	text[4999] = '\0';
	error_set(&err, -EINVAL, "%s", text);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	error_prefix(&err, "front");
	assert_memory_equal(err.text, "front: xxx", 10);
	free(text);
}

static void buf_grows_to_its_maximum_only(void **state)
{
	struct buf buf = BUF_INIT(10);

	assert_string_equal(buf_str(&buf), "");
	assert_int_equal(buf_append_str(&buf, "12345"), 0);
	assert_int_equal(buf_append_str(&buf, "67890"), 0);
	assert_int_equal(buf_append_byte(&buf, 'x'), -EMSGSIZE);
	/* sticky, and what was there before stays */
	assert_int_equal(buf_append(&buf, "", 0), -EMSGSIZE);
	assert_string_equal(buf_str(&buf), "1234567890");
	buf_clear(&buf);
	assert_int_equal(buf_printf(&buf, "%d-%s", 42, "ab"), 0);
	assert_string_equal(buf_str(&buf), "42-ab");
	buf_consume(&buf, 3);
	assert_string_equal(buf_str(&buf), "ab");
	buf_free(&buf);
}

static void guid_hex_round_trip(void **state)
{
	struct guid guid, again;
	char hex[GUID_HEX_SIZE];

	guid_generate(&guid);
	assert_int_equal(guid_from_hex(guid_to_hex(&guid, hex), &again), 0);
	assert_true(guid_equal(&guid, &again));
	assert_int_equal(guid_from_hex("0123456789ABCDEF0123456789abcdef", &guid), 0);
	assert_int_equal(guid.bytes[15], 0xef);
	assert_int_equal(guid_from_hex("0123456789abcdef0123456789abcde", &guid), -EINVAL);
	assert_int_equal(guid_from_hex("0123456789abcdef0123456789abcdef0", &guid), -EINVAL);
	assert_int_equal(guid_from_hex("0123456789abcdeg0123456789abcdef", &guid), -EINVAL);
}

static void guid_of_names_and_messages(void **state)
{
	struct guid guid;
	char hex[GUID_HEX_SIZE];

	/* as a real Dovecot announced a deleted mailbox */
	guid_from_name("Work2", &guid);
	assert_string_equal(guid_to_hex(&guid, hex), "b818431af6b1ff56d7e667bb2acf06ff");
	/* 32 hex digits stand for themselves, anything else for the end of its SHA-1 */
	guid_from_message_guid("43fc404798d04ac9ace9b13315ade43c", &guid);
	assert_string_equal(guid_to_hex(&guid, hex), "43fc404798d04ac9ace9b13315ade43c");
	guid_from_message_guid("Work2", &guid);
	assert_memory_equal(guid_to_hex(&guid, hex), "f6b1ff56d7e667bb2acf06ff", 24);
}

static void secrets_are_compared_whole(void **state)
{
	assert_true(secret_equal("secret", 6, "secret", 6));
	assert_false(secret_equal("secret", 6, "secreT", 6));
	assert_false(secret_equal("secret", 6, "secre", 5));
	assert_true(secret_equal("", 0, "", 0));
}

static void tabescape_round_trip(void **state)
{
	static const char raw[] = "a\0b\001c\td\ne\rf\x80";
	struct buf buf = BUF_INIT(100);

	assert_int_equal(tabescape_append(&buf, raw, sizeof raw - 1), 0);
	assert_string_equal(buf_str(&buf), "a\0010b\0011c\001td\001ne\001rf\x80");
	assert_int_equal(tabunescape(buf.data, buf.len), sizeof raw - 1);
	assert_memory_equal(buf.data, raw, sizeof raw);
	buf_free(&buf);
}

static void tabunescape_is_lenient(void **state)
{
	char odd[] = "x\001yz\001";

	assert_int_equal(tabunescape(odd, 5), 3);
	assert_string_equal(odd, "xyz");
}

/* A directory of the test's own; removed by its teardown. */
struct place {
	char path[64];
	int fd;
};

static int place_setup(void **state)
{
	struct place *place = malloc(sizeof *place);

	if (!place)
		return -1;
	strcpy(place->path, "/tmp/dsyncfs-test-XXXXXX");
	if (!mkdtemp(place->path))
		return -1;
	place->fd = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = place;
	return place->fd < 0 ? -1 : 0;
}

static int place_teardown(void **state)
{
	struct place *place = *state;
	int parent = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = file_remove_tree(parent, place->path + strlen("/tmp/"));

	close(parent);
	close(place->fd);
	free(place);
	return rc;
}

static void paths_stay_below_the_directory(void **state)
{
	struct place *place = *state;
	int fd;

	assert_int_equal(file_mkdirs_beneath(place->fd, "a/b/c", 0700), 0);
	assert_int_equal(file_mkdirs_beneath(place->fd, "a/b/c", 0700), 0);
	fd = file_open_beneath(place->fd, "a/b/c/file", O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_int_equal(file_write_all(fd, "hello", 5), 0);
	close(fd);
	assert_int_equal(file_open_beneath(place->fd, "../etc", O_RDONLY, 0), -EINVAL);
	assert_int_equal(file_open_beneath(place->fd, "a/../../etc", O_RDONLY, 0), -EINVAL);
	assert_int_equal(file_open_beneath(place->fd, "/etc/passwd", O_RDONLY, 0), -EINVAL);
	assert_int_equal(file_open_beneath(place->fd, "a//b", O_RDONLY, 0), -EINVAL);
	assert_int_equal(file_open_beneath(place->fd, "", O_RDONLY, 0), -EINVAL);
	assert_int_equal(file_open_beneath(place->fd, "a/none", O_RDONLY, 0), -ENOENT);

	assert_int_equal(symlinkat("/etc", place->fd, "a/link"), 0);
	assert_int_equal(symlinkat("/etc/passwd", place->fd, "a/file"), 0);
	fd = file_open_beneath(place->fd, "a/link/passwd", O_RDONLY, 0);
	assert_true(fd == -ELOOP || fd == -ENOTDIR);
	assert_int_equal(file_open_beneath(place->fd, "a/file", O_RDONLY, 0), -ELOOP);
	assert_true(file_mkdirs_beneath(place->fd, "a/link/x", 0700) < 0);
}

static void removing_a_tree_follows_no_link(void **state)
{
	struct place *place = *state;
	struct stat st;
	int fd;

	assert_int_equal(file_mkdirs_beneath(place->fd, "kept", 0700), 0);
	fd = file_open_beneath(place->fd, "kept/file", O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(file_mkdirs_beneath(place->fd, "gone/sub", 0700), 0);
	assert_int_equal(symlinkat("../kept", place->fd, "gone/link"), 0);
	assert_int_equal(file_remove_tree(place->fd, "gone"), 0);
	assert_int_equal(fstatat(place->fd, "gone", &st, 0), -1);
	assert_int_equal(fstatat(place->fd, "kept/file", &st, 0), 0);
	assert_int_equal(file_remove_tree(place->fd, "gone"), 0);
	assert_int_equal(file_remove_tree(place->fd, ".."), -EINVAL);
	assert_int_equal(file_remove_tree(place->fd, "a/b"), -EINVAL);
}

static void reading_is_bounded(void **state)
{
	struct place *place = *state;
	struct buf buf = BUF_INIT(10);
	int fd = file_open_beneath(place->fd, "file", O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(file_write_all(fd, "0123456789", 10), 0);
	assert_int_equal(file_read_at(place->fd, "file", &buf), 0);
	assert_int_equal(buf.len, 10);
	assert_int_equal(file_write_all(fd, "x", 1), 0);
	buf_clear(&buf);
	assert_int_equal(file_read_at(place->fd, "file", &buf), -EMSGSIZE);
	buf_free(&buf);
	close(fd);
}

/* Nobody waits for the other end of a FIFO that somebody put in a file's place. */
static void what_is_no_file_is_not_opened(void **state)
{
	const struct place *place = *state;
	AUTO_BUF struct buf text = BUF_INIT(10);

	assert_int_equal(mkfifoat(place->fd, "fifo", 0600), 0);
	assert_int_equal(mkdirat(place->fd, "directory", 0700), 0);
	assert_int_equal(symlinkat("fifo", place->fd, "link"), 0);
	assert_int_equal(file_read_at(place->fd, "fifo", &text), -ENXIO);
	assert_int_equal(file_open_regular(place->fd, "fifo", O_WRONLY), -ENXIO);
	assert_int_equal(file_open_regular(place->fd, "fifo", O_RDWR), -ENXIO);
	assert_int_equal(file_read_at(place->fd, "directory", &text), -EISDIR);
	assert_int_equal(file_open_regular(place->fd, "directory", O_RDWR), -EISDIR);
	assert_int_equal(file_read_at(place->fd, "link", &text), -ELOOP);
	assert_int_equal(file_read_at(place->fd, "nothing", &text), -ENOENT);
}

static void safe_names_are_single_components(void **state)
{
	char name[300];

	assert_true(file_name_is_safe("a"));
	assert_true(file_name_is_safe("..a"));
	assert_false(file_name_is_safe(""));
	assert_false(file_name_is_safe("."));
	assert_false(file_name_is_safe(".."));
	assert_false(file_name_is_safe("a/b"));
	memset(name, 'n', sizeof name);
	name[255] = '\0';
	assert_true(file_name_is_safe(name));
	name[255] = 'n';
	name[256] = '\0';
	assert_false(file_name_is_safe(name));
}

static void a_zombie_is_not_alive(void **state)
{
	siginfo_t info;
	pid_t pid;

	(void)state;
	assert_true(process_is_alive(getpid()));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(0);
	/* Waits for its end, and leaves it a zombie. */
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_false(process_is_alive(pid));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_false(process_is_alive(pid));
}

/* ---- systemd ---- */

static int listen_as_systemd(const char *name, bool abstract)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(at.sun_path, name, strlen(name));
	if (abstract)
		at.sun_path[0] = '\0';
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
	return fd;
}

static void hears(int fd, const char *expected)
{
	char text[128] = "";
	ssize_t n = recv(fd, text, sizeof text - 1, 0);

	if (expected)
		assert_memory_equal(text, expected, strlen(expected));
	else
		assert_true(n < 0 && errno == EAGAIN);
}

static void service_manager_is_told(void **state)
{
	char name[64], pid[16];
	int fd;

	snprintf(name, sizeof name, "@dsyncfs-test-%d", (int)getpid());
	fd = listen_as_systemd(name, true);
	snprintf(pid, sizeof pid, "%d", (int)getpid());
	assert_int_equal(setenv("WATCHDOG_USEC", "3000000", 1), 0);
	assert_int_equal(setenv("WATCHDOG_PID", pid, 1), 0);
	service_init();
	assert_null(getenv("NOTIFY_SOCKET")); /* children do not speak for us */
	assert_int_equal(service_alive_interval_ms(), 1500);
	service_ready();
	hears(fd, "READY=1");
	service_alive();
	hears(fd, "WATCHDOG=1");
	service_reloading();
	hears(fd, "RELOADING=1\nMONOTONIC_USEC=");
	service_stopping();
	hears(fd, "STOPPING=1");
	close(fd);

	snprintf(name, sizeof name, "/tmp/dsyncfs-test-%d", (int)getpid());
	fd = listen_as_systemd(name, false);
	assert_int_equal(setenv("WATCHDOG_USEC", "3000000", 1), 0);
	assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0); /* somebody else's */
	service_init();
	assert_int_equal(service_alive_interval_ms(), 0);
	service_ready();
	hears(fd, "READY=1");
	service_init(); /* nobody listens */
	service_ready();
	hears(fd, NULL);
	assert_int_equal(unlink(name), 0);
	close(fd);
}

/* Pages of the map that are in this process's memory. */
static size_t resident_bytes(const void *map)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	char line[512], start[32];
	size_t kib = 0;
	bool found = false;

	assert_non_null(smaps);
	snprintf(start, sizeof start, "%lx-", (unsigned long)(uintptr_t)map);
	while (fgets(line, sizeof line, smaps)) {
		if (strncmp(line, start, strlen(start)) == 0)
			found = true;
		else if (found && sscanf(line, "Rss: %zu kB", &kib) == 1)
			break;
	}
	fclose(smaps);
	assert_true(found);
	return kib * 1024;
}

static void a_map_is_resident_in_part(void **state)
{
	enum { SIZE = 24 << 20, MAX = 2 << 20 };
	char path[] = "/tmp/dsyncfs-map.XXXXXX", *page = calloc(1, 4096);
	int fd = mkstemp(path);
	struct map_window *window;
	const char *map;

	assert_true(fd >= 0 && page);
	unlink(path);
	for (size_t i = 0; i < SIZE; i += 4096) {
		page[5] = (char)(i / 4096 % 100);
		assert_int_equal(write(fd, page, 4096), 4096);
	}
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	assert_null(map_window_create(map, MAX, MAX));
	window = map_window_create(map, SIZE, MAX);
	assert_non_null(window);
	for (size_t round = 0; round < 2; round++) {
		for (size_t n = 0; n < SIZE / 4096; n++) {
			/* In turn, and then all over the place. */
			size_t i = round ? n * 2654435761U % (SIZE / 4096) : n;

			map_window_touch(window, i * 4096 + 5);
			assert_int_equal(map[i * 4096 + 5], i % 100);
			if (n % 256 == 0)
				assert_true(resident_bytes(map) <= 2 * MAX);
		}
	}
	map_window_free(&window);
	munmap((void *)map, SIZE);
	close(fd);
	free(page);
}

/* In a child: reads a file that is mapped and was cut short, or gets the signal from somebody. */
static int status_after_bus_error(bool lost)
{
	FILE *file = tmpfile();
	pid_t pid;
	int status;

	assert_non_null(file);
	assert_int_equal(ftruncate(fileno(file), 4096), 0);
	pid = fork();
	if (pid == 0) {
		volatile const char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);

		close(STDERR_FILENO);
		lost_mapping_ends_process();
		if (map == MAP_FAILED || ftruncate(fileno(file), 0) < 0)
			_exit(1);
		if (lost)
			_exit(*map);
		raise(SIGBUS);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	fclose(file);
	return status;
}

static void a_lost_mapping_ends_the_process(void **state)
{
	int status = status_after_bus_error(true);

	(void)state;
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), EX_IOERR);
	status = status_after_bus_error(false);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_says_what_and_why),
		cmocka_unit_test(error_is_bounded),
		cmocka_unit_test(buf_grows_to_its_maximum_only),
		cmocka_unit_test(a_map_is_resident_in_part),
		cmocka_unit_test(guid_hex_round_trip),
		cmocka_unit_test(guid_of_names_and_messages),
		cmocka_unit_test(secrets_are_compared_whole),
		cmocka_unit_test(tabescape_round_trip),
		cmocka_unit_test(a_zombie_is_not_alive),
		cmocka_unit_test(tabunescape_is_lenient),
		cmocka_unit_test(safe_names_are_single_components),
		cmocka_unit_test_setup_teardown(paths_stay_below_the_directory, place_setup,
						place_teardown),
		cmocka_unit_test_setup_teardown(removing_a_tree_follows_no_link, place_setup,
						place_teardown),
		cmocka_unit_test(service_manager_is_told),
		cmocka_unit_test(a_lost_mapping_ends_the_process),
		cmocka_unit_test_setup_teardown(reading_is_bounded, place_setup, place_teardown),
		cmocka_unit_test_setup_teardown(what_is_no_file_is_not_opened, place_setup,
						place_teardown),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
