/*
 * The names of settings that Dovecot knows, so that a mistyped one is told from one that merely
 * means nothing here; and the known name that is nearest to an unknown one. See settings_private.h.
 *
 * A path is the types of the blocks and the name; one that ends in '/' is a type of block. All
 * lists are sorted bytewise (a test holds them to it, and to what `doveconf -a` prints).
 */
#include <stdlib.h>
#include <string.h>
#include "store/settings_private.h"

/* What Dovecot 2.3 takes and does not show: hidden and obsolete names, those of packages that are
 * not installed everywhere, and of releases after the one that the list is of. */
static const char *const names_23_more[] = {
	"auth_count",
	"auth_process_size",
	"auth_user",
	"dbox_rotate_days",
	"dbox_rotate_min_size",
	"dbox_rotate_size",
	"director_consistent_hashing",
	"doveadm_proxy_port",
	"fsync_disable",
	"lmtp_address_translate",
	"login_chroot",
	"login_dir",
	"login_executable",
	"login_max_connections",
	"login_process_per_connection",
	"login_processes_count",
	"login_user",
	"mail_cache_compress_min_size",
	"mail_cache_max_header_name_length",
	"mail_cache_max_headers_count",
	"mail_cache_max_size",
	"mail_cache_min_mail_count",
	"mail_cache_purge_continued_percentage",
	"mail_cache_purge_delete_percentage",
	"mail_cache_purge_header_continue_count",
	"mail_cache_purge_min_size",
	"mail_cache_record_max_size",
	"mail_cache_unaccessed_field_drop",
	"mail_drop_priv_before_exec",
	"mail_executable",
	"mail_index_log2_max_age",
	"mail_index_log_rotate_max_size",
	"mail_index_log_rotate_min_age",
	"mail_index_log_rotate_min_size",
	"mail_index_rewrite_max_log_bytes",
	"mail_index_rewrite_min_log_bytes",
	"mail_log_max_lines_per_sec",
	"mail_process_size",
	"maildir_copy_preserve_filename",
	"managesieve_client_workarounds",
	"managesieve_implementation_string",
	"managesieve_logout_format",
	"managesieve_max_compile_errors",
	"managesieve_max_line_length",
	"managesieve_notify_capability",
	"managesieve_sieve_capability",
	"max_mail_processes",
	"namespace/alias_for",
	"ssl_ca_file",
	"ssl_cert_file",
	"ssl_dh_parameters_length",
	"ssl_disable",
	"ssl_key_file",
	"ssl_listen",
	"ssl_parameters_regenerate",
	"ssl_protocols",
	"submission_add_received_header",
	"submission_backend_capabilities",
};

/* Enough of them to recognise such a file at its first lines: dovecot_config_version has to be the
 * first setting there. */
static const char *const names_24[] = {
	"acl_driver",
	"acl_sharing_map/",
	"auth_allow_cleartext",
	"auth_allow_weak_schemes",
	"dict_server/",
	"dovecot_config_version",
	"dovecot_storage_version",
	"fs/",
	"fs_compress_write_method",
	"fts/",
	"fts_autoindex",
	"language/",
	"ldap_auth_dn",
	"ldap_base",
	"ldap_uris",
	"mail_alt_path",
	"mail_attribute/",
	"mail_cache_purge_min_age",
	"mail_compress_write_method",
	"mail_control_path",
	"mail_driver",
	"mail_inbox_path",
	"mail_index_path",
	"mail_path",
	"mail_plugins/",
	"mail_volatile_path",
	"mailbox/",
	"mailbox_directory_name",
	"mailbox_list_layout",
	"mailbox_list_utf8",
	"mailbox_root_directory_name",
	"mailbox_subscriptions_filename",
	"mysql/",
	"passdb_driver",
	"pgsql/",
	"quota/",
	"quota_driver",
	"sieve_script/",
	"sql_driver",
	"ssl_client/",
	"ssl_server/",
	"ssl_server_ca_file",
	"ssl_server_cert_file",
	"ssl_server_dh_file",
	"ssl_server_key_file",
	"ssl_server_prefer_ciphers",
	"userdb_driver",
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int by_name(const void *key, const void *element)
{
	return strcmp(key, *(const char *const *)element);
}

enum settings_dovecot_name settings_dovecot_find(const char *path)
{
	if (bsearch(path, settings_dovecot_list, settings_dovecot_list_count,
		    sizeof settings_dovecot_list[0], by_name) ||
	    bsearch(path, names_23_more, COUNT(names_23_more), sizeof names_23_more[0], by_name))
		return SETTINGS_DOVECOT_23;
	if (bsearch(path, names_24, COUNT(names_24), sizeof names_24[0], by_name))
		return SETTINGS_DOVECOT_24;
	return SETTINGS_DOVECOT_NO;
}

void settings_dovecot_each(void (*each)(void *ctx, const char *path), void *ctx)
{
	for (size_t i = 0; i < settings_dovecot_list_count; i++)
		each(ctx, settings_dovecot_list[i]);
	for (size_t i = 0; i < COUNT(names_23_more); i++)
		each(ctx, names_23_more[i]);
}

/* ---- the nearest name ---- */

#define DISTANCE_NAME_MAX 64

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned least = a < b ? a : b;

	return least < c ? least : c;
}

/* Insertions, deletions, replacements, and swaps of neighbours, between a and b. */
static unsigned distance(const char *a, const char *b)
{
	size_t a_len = strlen(a), b_len = strlen(b);
	unsigned rows[3][DISTANCE_NAME_MAX + 1];

	if (a_len > DISTANCE_NAME_MAX || b_len > DISTANCE_NAME_MAX)
		return UINT32_MAX;
	for (size_t j = 0; j <= b_len; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned *row = rows[i % 3], *above = rows[(i + 2) % 3],
			 *above2 = rows[(i + 1) % 3];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b_len; j++) {
			row[j] = min3(above[j] + 1, row[j - 1] + 1,
				      above[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    above2[j - 2] + 1 < row[j])
				row[j] = above2[j - 2] + 1;
		}
	}
	return rows[a_len % 3][b_len];
}

struct nearest {
	const char *path;
	size_t prefix_len; /* of the blocks that candidates must share */
	bool is_block;
	const char *best;
	unsigned best_distance;
};

static void consider(void *ctx, const char *path)
{
	struct nearest *nearest = ctx;
	const char *name = path + nearest->prefix_len, *slash;
	unsigned d;

	if (strncmp(path, nearest->path, nearest->prefix_len) != 0)
		return;
	/* In the same block, and of the same sort: a name or a block. */
	slash = strchr(name, '/');
	if (nearest->is_block ? !slash || slash[1] != '\0' : slash != NULL)
		return;
	d = distance(nearest->path + nearest->prefix_len, name);
	if (d < nearest->best_distance) {
		nearest->best_distance = d;
		nearest->best = name;
	}
}

const char *settings_nearest(const char *path)
{
	struct nearest nearest = {.path = path};
	size_t len = strlen(path), name_len;

	nearest.is_block = len && path[len - 1] == '/';
	nearest.prefix_len = len - nearest.is_block;
	while (nearest.prefix_len && path[nearest.prefix_len - 1] != '/')
		nearest.prefix_len--;
	name_len = len - nearest.prefix_len;
	/* Farther than that it is a guess, not a hint. */
	nearest.best_distance = name_len < 6 ? 2 : 4;
	if (nearest.prefix_len == 0 && !nearest.is_block) {
		for (size_t i = 0; i < settings_table_count; i++)
			consider(&nearest, settings_table[i].name);
		consider(&nearest, "mail_replica");
		consider(&nearest, "mail_replica2");
	}
	settings_dovecot_each(consider, &nearest);
	return nearest.best;
}
