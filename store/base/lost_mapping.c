#include "store/base/lost_mapping.h"

#include <signal.h>
#include <stddef.h>
#include <sysexits.h>
#include <unistd.h>

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	static const char text[] = LOST_MAPPING_TEXT "\n";

	(void)context;
	if (info->si_code == BUS_ADRERR) {
		ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);

		(void)ignored;
		_exit(EX_IOERR);
	}
	signal(number, SIG_DFL);
	raise(number);
}

void lost_mapping_ends_process(void)
{
	struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
}
