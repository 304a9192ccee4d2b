/* All processes of a session, as this process's /proc has them; and the time. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Milliseconds that only grow. */
static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The session of a process that lives, as /proc/PID/stat has it; else 0. */
static pid_t session_of(DIR *processes, const char *pid) {
	char path[32], text[512];
	snprintf(path, sizeof path, "%.20s/stat", pid);
	int fd = openat(dirfd(processes), path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	text[length > 0 ? length : 0] = 0;
	char *at = strrchr(text, ')'); /* ") state parent group session": a name may hold anything */
	if (!at || strlen(at) < 4 || strchr("ZX", at[2]))
		return 0;
	strtol(at + 3, &at, 10);
	strtol(at, &at, 10);
	return (pid_t)strtol(at, NULL, 10);
}

/* Once over all processes, as pbs_mom does it; SIGKILL until none lives, or a fork could slip through. */
static uint32_t signal_session(DIR *processes, pid_t session, int which) {
	uint32_t first = 0, found = 1;
	for (int round = 0; found && round < (which == SIGKILL ? 10 : 1); round++) {
		found = 0;
		rewinddir(processes);
		for (struct dirent *entry; (entry = readdir(processes));)
			if (*entry->d_name >= '1' && *entry->d_name <= '9' && session_of(processes, entry->d_name) == session)
				found += !kill((pid_t)strtol(entry->d_name, NULL, 10), which);
		first = round ? first : found;
	}
	return first;
}
