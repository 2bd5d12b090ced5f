/* The settings that are ours or mean something here: name, type, default, help. What Dovecot has,
 * it has with this name and meaning. See settings_private.h. */
#include <string.h>
#include "store/settings_private.h"

#define AT(field) offsetof(struct settings, field)

const struct setting_def settings_table[] = {
	{"mail_root", SETTING_PATH, AT(mail_root), "/var/mail/vhosts", 0, 0,
	 "The mount point that holds the users. Default: what of mail_home comes before its first "
	 "variable."},
	{"mail_home", SETTING_TEXT, AT(mail_home), "", 0, 0,
	 "A user's home, below mail_root; variables %u %n %d. Default: <mail_root>/%d/%n"},
	{"mail_location", SETTING_TEXT, AT(mail_location), "", 0, 0,
	 "maildir:PATH, mdbox:PATH or sdbox:PATH with :LAYOUT= :INDEX= :CONTROL= :INBOX= :ALT=; ~/ "
	 "is the home. Default: found per user"},
	{"mail_uid", SETTING_TEXT, AT(mail_uid), "", 0, 0,
	 "The system user whose mail it is. Default: the owner of the user's home"},
	{"mail_gid", SETTING_TEXT, AT(mail_gid), "", 0, 0,
	 "The system group. Default: that of mail_uid, or of the user's home"},
	{"mail_attribute_dict", SETTING_TEXT, AT(mail_attribute_dict), "", 0, 0,
	 "Where Dovecot keeps IMAP METADATA: file:PATH. Without it, or with another dictionary, "
	 "it is not replicated"},
	{"mail_attachment_dir", SETTING_TEXT, AT(mail_attachment_dir), "", 0, 0,
	 "Where attachments of mdbox and sdbox are that are not stored with their message"},
	{"sieve", SETTING_TEXT, AT(sieve), "", 0, 0,
	 "Pigeonhole's scripts: file:DIR;active=LINK, or the active one alone. Default: "
	 "file:~/sieve;active=~/.dovecot.sieve"},
	{"sieve_dir", SETTING_TEXT, AT(sieve_dir), "", 0, 0,
	 "Their directory, where sieve does not say it"},
	{"zlib_save", SETTING_TEXT, AT(zlib_save), "", 0, 0,
	 "How new messages of mdbox and sdbox are compressed: gz, bz2, zstd or lz4"},
	{"mdbox_rotate_size", SETTING_SIZE, AT(mdbox_rotate_size), "10M", 4096, 2000000000,
	 "How large the files of mdbox become"},
	{"mdbox_rotate_interval", SETTING_TIME, AT(mdbox_rotate_interval), "0", 0, 10 * 365 * 86400,
	 "How old a file of mdbox may be that is added to. 0: any"},
	{"mdbox_preallocate_space", SETTING_BOOL, AT(mdbox_preallocate_space), "no", 0, 0,
	 "A new file of mdbox gets mdbox_rotate_size bytes of the disk at once"},
	{"listen", SETTING_WORDS, AT(listen), "*, ::", 0, 0,
	 "Addresses to take dsync sessions on. * is every IPv4, :: every IPv6 address"},
	{"doveadm_port", SETTING_PORT, AT(doveadm_peer_port), "0", 0, 65535,
	 "The port of peers whose mail_replica has none, and ours where no inet_listener of "
	 "service doveadm says another"},
	{"doveadm_password", SETTING_SECRET, AT(doveadm_password), "", 0, 0,
	 "The secret that both nodes share"},
	{"ssl_cert", SETTING_FILE, AT(ssl_cert), "", 0, 0, "Our certificate: </path/file.pem"},
	{"ssl_key", SETTING_FILE, AT(ssl_key), "", 0, 0, "Its key: </path/file.key"},
	{"ssl_client_ca_file", SETTING_TEXT, AT(ssl_client_ca_file), "", 0, 0,
	 "Whom tcps: peers must be signed by. Default: the system's"},
	{"ssl_client_ca_dir", SETTING_TEXT, AT(ssl_client_ca_dir), "", 0, 0,
	 "The same, as a directory of hashed certificates"},
	{"ssl_min_protocol", SETTING_TEXT, AT(ssl_min_protocol), "TLSv1.2", 0, 0,
	 "TLSv1.2 or TLSv1.3"},
	{"dsync_remote_cmd", SETTING_TEXT, AT(dsync_remote_cmd), "", 0, 0,
	 "The command for remote: peers. Default: by ssh"},
	{"replication_max_conns", SETTING_NUMBER, AT(replication_max_conns), "10", 1, 10000,
	 "How many users are synced at once"},
	{"replication_sync_timeout", SETTING_TIME, AT(replication_sync_timeout_secs), "0", 0, 86400,
	 "How long a delivery waits for the peer. 0: it does not"},
	{"replication_full_sync_interval", SETTING_TIME, AT(replication_full_sync_interval_secs),
	 "24 hours", 0, 10 * 365 * 86400, "How often everything is compared, to be sure"},
	{"replication_dsync_parameters", SETTING_TEXT, AT(replication_dsync_parameters),
	 "-d -N -l 30 -U", 0, 0, "Options of the syncs; -d -N -l -U mean nothing else here"},
	{"replication_poll_interval", SETTING_TIME, AT(replication_poll_interval_secs), "30 secs",
	 1, 86400, "How often a peer that cannot notify us is asked"},
	{"state_dir", SETTING_PATH, AT(state_dir), "/var/lib/dsyncfs", 0, 0,
	 "Journal and sockets; never inside a mount"},
};
const size_t settings_table_count = sizeof settings_table / sizeof settings_table[0];
_Static_assert(sizeof settings_table / sizeof settings_table[0] <= SETTINGS_TABLE_MAX,
	       "the draft has a place for each");

const struct setting_def *settings_table_find(const char *name)
{
	for (size_t i = 0; i < settings_table_count; i++) {
		if (strcmp(settings_table[i].name, name) == 0)
			return &settings_table[i];
	}
	return NULL;
}
