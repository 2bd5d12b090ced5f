/* Values of settings: text to numbers, times, sizes, paths and peers. See settings_private.h. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "store/settings_private.h"

int settings_parse_bool(const char *text, bool *value_r, struct error *err)
{
	if (strcasecmp(text, "yes") == 0 || strcasecmp(text, "y") == 0 || strcmp(text, "1") == 0 ||
	    strcasecmp(text, "true") == 0)
		*value_r = true;
	else if (strcasecmp(text, "no") == 0 || strcasecmp(text, "n") == 0 ||
		 strcmp(text, "0") == 0 || strcasecmp(text, "false") == 0)
		*value_r = false;
	else
		return error_set(err, -EINVAL, "is neither yes nor no");
	return 0;
}

/* Digits at *text, which is left behind them. */
static int parse_digits(const char **text, uint64_t max, uint64_t *value_r, struct error *err)
{
	const char *p = *text;
	uint64_t value = 0;

	if (!isdigit((unsigned char)*p))
		return error_set(err, -EINVAL, "is not a number");
	for (; isdigit((unsigned char)*p); p++) {
		uint64_t digit = (uint64_t)(*p - '0');

		if (value > (max - digit) / 10)
			return error_set(err, -EINVAL, "is too large (at most %llu)",
					 (unsigned long long)max);
		value = value * 10 + digit;
	}
	*text = p;
	*value_r = value;
	return 0;
}

int settings_parse_number(const char *text, unsigned min, unsigned max, unsigned *value_r,
			  struct error *err)
{
	uint64_t value;
	int rc = parse_digits(&text, max, &value, err);

	if (rc < 0)
		return rc;
	if (*text)
		return error_set(err, -EINVAL, "is not a number");
	if (value < min)
		return error_set(err, -EINVAL, "is too small (at least %u)", min);
	*value_r = (unsigned)value;
	return 0;
}

struct unit {
	const char *name;
	uint64_t factor;
};

/* number [unit], a number alone being of unit factor 1. */
static int parse_with_unit(const char *text, const struct unit *units, size_t count,
			   const char *what, uint64_t max, uint64_t *value_r, struct error *err)
{
	uint64_t value, factor = 0;
	int rc = parse_digits(&text, UINT64_MAX, &value, err);

	if (rc < 0)
		return rc;
	while (*text == ' ' || *text == '\t')
		text++;
	if (!*text)
		factor = 1;
	for (size_t i = 0; i < count && !factor; i++) {
		if (strcasecmp(units[i].name, text) == 0)
			factor = units[i].factor;
	}
	if (!factor)
		return error_set(err, -EINVAL, "'%.20s' is not a unit of %s", text, what);
	if (value > max / factor)
		return error_set(err, -EINVAL, "is too large (at most %llu)",
				 (unsigned long long)max);
	*value_r = value * factor;
	return 0;
}

int settings_parse_secs(const char *text, unsigned max, unsigned *value_r, struct error *err)
{
	static const struct unit units[] = {
		{"s", 1},	 {"sec", 1},	   {"secs", 1},	     {"second", 1},
		{"seconds", 1},	 {"m", 60},	   {"min", 60},	     {"mins", 60},
		{"minute", 60},	 {"minutes", 60},  {"h", 3600},	     {"hour", 3600},
		{"hours", 3600}, {"d", 86400},	   {"day", 86400},   {"days", 86400},
		{"w", 604800},	 {"week", 604800}, {"weeks", 604800}};
	uint64_t value;
	int rc = parse_with_unit(text, units, sizeof units / sizeof units[0], "time", max, &value,
				 err);

	if (rc == 0)
		*value_r = (unsigned)value;
	return rc;
}

int settings_parse_size(const char *text, uint64_t max, uint64_t *value_r, struct error *err)
{
	static const struct unit units[] = {{"b", 1},
					    {"k", 1 << 10},
					    {"kb", 1 << 10},
					    {"kib", 1 << 10},
					    {"m", 1 << 20},
					    {"mb", 1 << 20},
					    {"mib", 1 << 20},
					    {"g", 1 << 30},
					    {"gb", 1 << 30},
					    {"gib", 1 << 30},
					    {"t", (uint64_t)1 << 40},
					    {"tb", (uint64_t)1 << 40},
					    {"tib", (uint64_t)1 << 40}};

	return parse_with_unit(text, units, sizeof units / sizeof units[0], "size", max, value_r,
			       err);
}

int settings_parse_mode(const char *text, mode_t *mode_r, struct error *err)
{
	size_t len = strlen(text);

	if (len < 1 || len > 5 || strspn(text, "01234567") != len)
		return error_set(err, -EINVAL, "is not a mode (as 0600)");
	*mode_r = (mode_t)strtoul(text, NULL, 8);
	return *mode_r > 0777 ? error_set(err, -EINVAL, "is not a mode (as 0600)") : 0;
}

int settings_parse_path(const char *text, struct buf *out, struct error *err)
{
	size_t len = strlen(text);

	if (text[0] != '/')
		return error_set(err, -EINVAL, "is not an absolute path");
	if (len >= PATH_MAX - 256)
		return error_set(err, -EINVAL, "is too long");
	for (const char *p = text; *p;) {
		size_t name_len;

		p += strspn(p, "/");
		name_len = strcspn(p, "/");
		if ((name_len == 1 && p[0] == '.') || (name_len == 2 && p[0] == '.' && p[1] == '.'))
			return error_set(err, -EINVAL, "has '.' or '..' in it");
		if (name_len)
			buf_printf(out, "/%.*s", (int)name_len, p);
		p += name_len;
	}
	if (len == strspn(text, "/"))
		buf_append_str(out, "/");
	return out->failed ? error_set(err, -EINVAL, "is too long") : 0;
}

/* ---- peers ---- */

static int take_transport(const char **text, enum settings_transport *transport_r,
			  struct error *err)
{
	static const char *const names[] = {"tcp:", "tcps:", "remote:", "remoteprefix:"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		size_t len = strlen(names[i]);

		if (strncmp(*text, names[i], len) == 0) {
			*text += len;
			*transport_r = (enum settings_transport)i;
			return 0;
		}
	}
	return error_set(err, -EINVAL,
			 "is not tcp:host[:port], tcps:host[:port], remote:[login@]host or "
			 "remoteprefix:[login@]host");
}

static bool is_host(const char *host, size_t len, bool bracketed)
{
	char address[INET6_ADDRSTRLEN + 1];
	struct in6_addr in6;

	if (bracketed) {
		if (len == 0 || len > INET6_ADDRSTRLEN)
			return false;
		memcpy(address, host, len);
		address[len] = '\0';
		return inet_pton(AF_INET6, address, &in6) == 1;
	}
	if (len == 0 || len > 255 || host[0] == '-' || host[0] == '.')
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)host[i]) && !strchr("-._", host[i]))
			return false;
	}
	return true;
}

/* host, host:port, [ipv6], [ipv6]:port, and an IPv6 address bare (then without port). */
static int take_host_port(const char *text, bool with_port, const char **host_r, size_t *len_r,
			  uint16_t *port_r, struct error *err)
{
	bool bracketed = text[0] == '[';
	const char *end = bracketed ? strchr(text, ']') : strchr(text, ':');
	unsigned port = 0;

	*host_r = text + bracketed;
	if (bracketed && !end)
		return error_set(err, -EINVAL, "has '[' without ']'");
	if (!bracketed && end && strchr(end + 1, ':')) {
		/* More than one ':' is an IPv6 address. */
		bracketed = true;
		end = NULL;
	}
	*len_r = end ? (size_t)(end - *host_r) : strlen(*host_r);
	if (!is_host(*host_r, *len_r, bracketed))
		return error_set(err, -EINVAL, "has no host name or address in it");
	if (end && *end == ']')
		end++;
	if (end && *end) {
		if (*end != ':' || !with_port)
			return error_set(err, -EINVAL, "has '%.20s' behind the host", end);
		if (settings_parse_number(end + 1, 1, 65535, &port, err) < 0)
			return error_set(err, -EINVAL,
					 "has no port number (1 to 65535) behind ':'");
	}
	*port_r = (uint16_t)port;
	return 0;
}

int settings_parse_peer(const char *text, struct settings_peer_text *peer_r, struct buf *out,
			struct error *err)
{
	const char *p = text, *login = "", *at, *host = "";
	size_t login_len = 0, host_len = 0;
	bool tcp;
	int rc;

	memset(peer_r, 0, sizeof *peer_r);
	rc = take_transport(&p, &peer_r->transport, err);
	if (rc < 0)
		return rc;
	tcp = peer_r->transport == SETTINGS_TRANSPORT_TCP ||
	      peer_r->transport == SETTINGS_TRANSPORT_TCPS;
	at = tcp ? NULL : strchr(p, '@');
	if (at) {
		login = p;
		login_len = (size_t)(at - p);
		/* It becomes an argument of ssh. */
		if (login_len == 0 || login[0] == '-' || strcspn(login, " \t'\"$`;|&") < login_len)
			return error_set(err, -EINVAL, "has no usable login before '@'");
		p = at + 1;
	}
	rc = take_host_port(p, tcp, &host, &host_len, &peer_r->port, err);
	if (rc < 0)
		return rc;
	peer_r->login = out->len;
	buf_append(out, login, login_len);
	buf_append_byte(out, '\0');
	peer_r->host = out->len;
	buf_append(out, host, host_len);
	buf_append_byte(out, '\0');
	return out->failed ? error_set(err, -EINVAL, "is too long") : 0;
}
