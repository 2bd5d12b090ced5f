/*
 * The names of settings that Dovecot knows, so that a mistyped one is told from one that merely
 * means nothing here; and the known name that is nearest to an unknown one. See settings_private.h.
 *
 * A path is the types of the blocks and the name; one that ends in '/' is a type of block. Both
 * lists are sorted bytewise (a test holds them to it, and to what `doveconf -a` prints).
 */
#include <stdlib.h>
#include <string.h>
#include "store/settings_private.h"

static const char *const names_23[] = {
	"auth_anonymous_username",
	"auth_cache_negative_ttl",
	"auth_cache_size",
	"auth_cache_ttl",
	"auth_cache_verify_password_with_worker",
	"auth_debug",
	"auth_debug_passwords",
	"auth_default_realm",
	"auth_failure_delay",
	"auth_gssapi_hostname",
	"auth_krb5_keytab",
	"auth_master_user_separator",
	"auth_mechanisms",
	"auth_policy_check_after_auth",
	"auth_policy_check_before_auth",
	"auth_policy_hash_mech",
	"auth_policy_hash_nonce",
	"auth_policy_hash_truncate",
	"auth_policy_log_only",
	"auth_policy_reject_on_fail",
	"auth_policy_report_after_auth",
	"auth_policy_request_attributes",
	"auth_policy_server_api_header",
	"auth_policy_server_timeout_msecs",
	"auth_policy_server_url",
	"auth_proxy_self",
	"auth_realms",
	"auth_socket_path",
	"auth_ssl_require_client_cert",
	"auth_ssl_username_from_cert",
	"auth_stats",
	"auth_use_winbind",
	"auth_username_chars",
	"auth_username_format",
	"auth_username_translation",
	"auth_verbose",
	"auth_verbose_passwords",
	"auth_winbind_helper_path",
	"auth_worker_max_count",
	"base_dir",
	"config_cache_size",
	"debug_log_path",
	"default_client_limit",
	"default_idle_kill",
	"default_internal_group",
	"default_internal_user",
	"default_login_user",
	"default_process_limit",
	"default_vsz_limit",
	"deliver_log_format",
	"dict/",
	"dict_db_config",
	"director_flush_socket",
	"director_mail_servers",
	"director_max_parallel_kicks",
	"director_max_parallel_moves",
	"director_output_buffer_size",
	"director_ping_idle_timeout",
	"director_ping_max_timeout",
	"director_servers",
	"director_user_expire",
	"director_user_kick_delay",
	"director_username_hash",
	"disable_plaintext_auth",
	"dotlock_use_excl",
	"doveadm_allowed_commands",
	"doveadm_api_key",
	"doveadm_http_rawlog_dir",
	"doveadm_password",
	"doveadm_port",
	"doveadm_socket_path",
	"doveadm_ssl",
	"doveadm_username",
	"doveadm_worker_count",
	"dsync_alt_char",
	"dsync_commit_msgs_interval",
	"dsync_features",
	"dsync_hashed_headers",
	"dsync_remote_cmd",
	"event_exporter/",
	"first_valid_gid",
	"first_valid_uid",
	"haproxy_timeout",
	"haproxy_trusted_networks",
	"hostname",
	"imap_capability",
	"imap_client_workarounds",
	"imap_fetch_failure",
	"imap_hibernate_timeout",
	"imap_id_log",
	"imap_id_retain",
	"imap_id_send",
	"imap_idle_notify_interval",
	"imap_literal_minus",
	"imap_logout_format",
	"imap_max_line_length",
	"imap_metadata",
	"imap_urlauth_host",
	"imap_urlauth_logout_format",
	"imap_urlauth_port",
	"imapc_cmd_timeout",
	"imapc_connection_retry_count",
	"imapc_connection_retry_interval",
	"imapc_features",
	"imapc_host",
	"imapc_list_prefix",
	"imapc_master_user",
	"imapc_max_idle_time",
	"imapc_max_line_length",
	"imapc_password",
	"imapc_port",
	"imapc_rawlog_dir",
	"imapc_sasl_mechanisms",
	"imapc_ssl",
	"imapc_ssl_verify",
	"imapc_user",
	"import_environment",
	"info_log_path",
	"instance_name",
	"last_valid_gid",
	"last_valid_uid",
	"lda_mailbox_autocreate",
	"lda_mailbox_autosubscribe",
	"lda_original_recipient_header",
	"libexec_dir",
	"listen",
	"lmtp_add_received_header",
	"lmtp_address_translate",
	"lmtp_client_workarounds",
	"lmtp_hdr_delivery_address",
	"lmtp_proxy",
	"lmtp_proxy_rawlog_dir",
	"lmtp_rawlog_dir",
	"lmtp_rcpt_check_quota",
	"lmtp_save_to_detail_mailbox",
	"lmtp_user_concurrency_limit",
	"lmtp_verbose_replies",
	"lock_method",
	"log_core_filter",
	"log_debug",
	"log_path",
	"log_timestamp",
	"login_access_sockets",
	"login_greeting",
	"login_log_format",
	"login_log_format_elements",
	"login_plugin_dir",
	"login_plugins",
	"login_proxy_max_disconnect_delay",
	"login_proxy_max_reconnects",
	"login_proxy_notify_path",
	"login_proxy_rawlog_dir",
	"login_proxy_timeout",
	"login_source_ips",
	"login_trusted_networks",
	"mail_access_groups",
	"mail_always_cache_fields",
	"mail_attachment_detection_options",
	"mail_attachment_dir",
	"mail_attachment_fs",
	"mail_attachment_hash",
	"mail_attachment_min_size",
	"mail_attribute_dict",
	"mail_cache_fields",
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
	"mail_chroot",
	"mail_debug",
	"mail_fsync",
	"mail_full_filesystem_access",
	"mail_gid",
	"mail_home",
	"mail_index_log2_max_age",
	"mail_index_log_rotate_max_size",
	"mail_index_log_rotate_min_age",
	"mail_index_log_rotate_min_size",
	"mail_index_rewrite_max_log_bytes",
	"mail_index_rewrite_min_log_bytes",
	"mail_location",
	"mail_log_prefix",
	"mail_max_keyword_length",
	"mail_max_lock_timeout",
	"mail_max_userip_connections",
	"mail_never_cache_fields",
	"mail_nfs_index",
	"mail_nfs_storage",
	"mail_plugin_dir",
	"mail_plugins",
	"mail_prefetch_count",
	"mail_privileged_group",
	"mail_save_crlf",
	"mail_server_admin",
	"mail_server_comment",
	"mail_shared_explicit_inbox",
	"mail_sort_max_read_count",
	"mail_temp_dir",
	"mail_temp_scan_interval",
	"mail_uid",
	"mail_vsize_bg_after_count",
	"mailbox_idle_check_interval",
	"mailbox_list_index",
	"mailbox_list_index_include_inbox",
	"mailbox_list_index_very_dirty_syncs",
	"maildir_broken_filename_sizes",
	"maildir_copy_with_hardlinks",
	"maildir_empty_new",
	"maildir_stat_dirs",
	"maildir_very_dirty_syncs",
	"managesieve_client_workarounds",
	"managesieve_implementation_string",
	"managesieve_logout_format",
	"managesieve_max_compile_errors",
	"managesieve_max_line_length",
	"managesieve_notify_capability",
	"managesieve_sieve_capability",
	"master_user_separator",
	"mbox_dirty_syncs",
	"mbox_dotlock_change_timeout",
	"mbox_lazy_writes",
	"mbox_lock_timeout",
	"mbox_md5",
	"mbox_min_index_size",
	"mbox_read_locks",
	"mbox_very_dirty_syncs",
	"mbox_write_locks",
	"mdbox_preallocate_space",
	"mdbox_rotate_interval",
	"mdbox_rotate_size",
	"metric/",
	"mmap_disable",
	"namespace/",
	"namespace/alias_for",
	"namespace/disabled",
	"namespace/hidden",
	"namespace/ignore_on_failure",
	"namespace/inbox",
	"namespace/list",
	"namespace/location",
	"namespace/mailbox/",
	"namespace/mailbox/auto",
	"namespace/mailbox/autoexpunge",
	"namespace/mailbox/autoexpunge_max_mails",
	"namespace/mailbox/comment",
	"namespace/mailbox/driver",
	"namespace/mailbox/special_use",
	"namespace/order",
	"namespace/prefix",
	"namespace/separator",
	"namespace/subscriptions",
	"namespace/type",
	"old_stats_carbon_interval",
	"old_stats_carbon_name",
	"old_stats_carbon_server",
	"old_stats_command_min_time",
	"old_stats_domain_min_time",
	"old_stats_ip_min_time",
	"old_stats_memory_limit",
	"old_stats_session_min_time",
	"old_stats_user_min_time",
	"passdb/",
	"passdb/args",
	"passdb/auth_verbose",
	"passdb/default_fields",
	"passdb/deny",
	"passdb/driver",
	"passdb/master",
	"passdb/mechanisms",
	"passdb/name",
	"passdb/override_fields",
	"passdb/pass",
	"passdb/result_failure",
	"passdb/result_internalfail",
	"passdb/result_success",
	"passdb/skip",
	"passdb/username_filter",
	"pop3_client_workarounds",
	"pop3_delete_type",
	"pop3_deleted_flag",
	"pop3_enable_last",
	"pop3_fast_size_lookups",
	"pop3_lock_session",
	"pop3_logout_format",
	"pop3_no_flag_updates",
	"pop3_reuse_xuidl",
	"pop3_save_uidl",
	"pop3_uidl_duplicates",
	"pop3_uidl_format",
	"pop3c_features",
	"pop3c_host",
	"pop3c_master_user",
	"pop3c_password",
	"pop3c_port",
	"pop3c_quick_received_date",
	"pop3c_rawlog_dir",
	"pop3c_ssl",
	"pop3c_ssl_verify",
	"pop3c_user",
	"postmaster_address",
	"protocols",
	"quota_full_tempfail",
	"rawlog_dir",
	"recipient_delimiter",
	"rejection_reason",
	"rejection_subject",
	"replication_dsync_parameters",
	"replication_full_sync_interval",
	"replication_max_conns",
	"replicator_host",
	"replicator_port",
	"sendmail_path",
	"service/",
	"service/chroot",
	"service/client_limit",
	"service/drop_priv_before_exec",
	"service/executable",
	"service/extra_groups",
	"service/fifo_listener/",
	"service/fifo_listener/group",
	"service/fifo_listener/mode",
	"service/fifo_listener/user",
	"service/group",
	"service/idle_kill",
	"service/inet_listener/",
	"service/inet_listener/address",
	"service/inet_listener/haproxy",
	"service/inet_listener/port",
	"service/inet_listener/reuse_port",
	"service/inet_listener/ssl",
	"service/privileged_group",
	"service/process_limit",
	"service/process_min_avail",
	"service/protocol",
	"service/service_count",
	"service/type",
	"service/unix_listener/",
	"service/unix_listener/group",
	"service/unix_listener/mode",
	"service/unix_listener/user",
	"service/user",
	"service/vsz_limit",
	"shutdown_clients",
	"ssl",
	"ssl_alt_cert",
	"ssl_alt_key",
	"ssl_ca",
	"ssl_cert",
	"ssl_cert_username_field",
	"ssl_cipher_list",
	"ssl_cipher_suites",
	"ssl_client_ca_dir",
	"ssl_client_ca_file",
	"ssl_client_cert",
	"ssl_client_key",
	"ssl_client_require_valid_cert",
	"ssl_crypto_device",
	"ssl_curve_list",
	"ssl_dh",
	"ssl_dh_parameters_length",
	"ssl_key",
	"ssl_key_password",
	"ssl_min_protocol",
	"ssl_options",
	"ssl_parameters_regenerate",
	"ssl_prefer_server_ciphers",
	"ssl_protocols",
	"ssl_require_crl",
	"ssl_verify_client_cert",
	"state_dir",
	"stats_http_rawlog_dir",
	"stats_writer_socket_path",
	"submission_add_received_header",
	"submission_backend_capabilities",
	"submission_client_workarounds",
	"submission_host",
	"submission_logout_format",
	"submission_max_mail_size",
	"submission_max_recipients",
	"submission_relay_command_timeout",
	"submission_relay_connect_timeout",
	"submission_relay_host",
	"submission_relay_master_user",
	"submission_relay_max_idle_time",
	"submission_relay_password",
	"submission_relay_port",
	"submission_relay_rawlog_dir",
	"submission_relay_ssl",
	"submission_relay_ssl_verify",
	"submission_relay_trusted",
	"submission_relay_user",
	"submission_ssl",
	"submission_timeout",
	"syslog_facility",
	"userdb/",
	"userdb/args",
	"userdb/auth_verbose",
	"userdb/default_fields",
	"userdb/driver",
	"userdb/name",
	"userdb/override_fields",
	"userdb/result_failure",
	"userdb/result_internalfail",
	"userdb/result_success",
	"userdb/skip",
	"valid_chroot_dirs",
	"verbose_proctitle",
	"verbose_ssl",
	"version_ignore",
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
	if (bsearch(path, names_23, COUNT(names_23), sizeof names_23[0], by_name))
		return SETTINGS_DOVECOT_23;
	if (bsearch(path, names_24, COUNT(names_24), sizeof names_24[0], by_name))
		return SETTINGS_DOVECOT_24;
	return SETTINGS_DOVECOT_NO;
}

void settings_dovecot_each(void (*each)(void *ctx, const char *path), void *ctx)
{
	for (size_t i = 0; i < COUNT(names_23); i++)
		each(ctx, names_23[i]);
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
