/* dsyncctl showconf: the settings as understood; reads back as itself. */
#include "tools/dsyncctl.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "store/base/file.h"

#define TEXT_MAX (1024 * 1024)

/* "name = value" at top level; blocks keep their text, line by line. */
static json_t *to_json(char *text)
{
	json_t *root = json_object(), *lines = json_array();
	unsigned depth = 0;

	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char *equals = strstr(line, " = ");

		json_array_append_new(lines, json_string(line));
		if (strchr(line, '}') && depth)
			depth--;
		if (depth == 0 && equals && line[0] != '#') {
			*equals = '\0';
			json_object_set_new(root, line, json_string(equals + 3));
		}
		if (strchr(line, '{'))
			depth++;
	}
	return json_pack("{s:o, s:o}", "settings", root, "lines", lines);
}

int dsyncctl_showconf(const struct dsyncctl *ctl, int argc, char **argv)
{
	AUTO_BUF struct buf text = BUF_INIT(TEXT_MAX);
	struct error err = {0};
	bool secrets = false;
	int option, rc;

	while ((option = getopt(argc, argv, "P")) != -1) {
		if (option != 'P')
			return EX_USAGE;
		secrets = true;
	}
	if (optind != argc) {
		fprintf(stderr, "usage: dsyncctl showconf [-P]\n");
		return EX_USAGE;
	}
	rc = settings_print(ctl->set, secrets, false, &text);
	if (rc < 0) {
		error_errno(&err, rc, "showconf");
		return dsyncctl_fail(&err);
	}
	if (ctl->json && text.len)
		return dsyncctl_print_json(to_json(text.data));
	fputs(buf_str(&text), stdout);
	return EX_OK;
}
