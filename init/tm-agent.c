/* tm-agent: what MPI launchers take for a remote shell, in the containers of a job of several nodes.
 *
 *   tm-agent [options of ssh] HOST COMMAND…
 *
 * Has pbs_mom start COMMAND, as a shell reads it, on that node of the job (TM, the task manager's protocol of Torque 4 to 6),
 * hands on its output and exits as it did. Called pbsdsh it is that program of mom's own installation, with the job's ticket
 * added to what travels with the tasks; and called by a name of Slurm's, such as srun, that. One static program, so that it runs in every image. Runs as the job's user. */
#define _GNU_SOURCE
#include "tm.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <strings.h>
#include <time.h>

#define TOOLS "/run/pbsdock/tools"
#define TICKET "PBSDOCK_TICKET"

enum {
	FAULT = 255,                  /* as ssh ends where the command could not be run */
	LINE = 256,
	SILENCE_MS = 200,             /* of output that others hold open after the command's end */
	PATIENCE_S = 60,              /* for a mom that is restarted while a command runs */
	START_S = 5,                  /* before: on another network she never comes */
};
enum { SPAWN_EVENT = INIT_EVENT + 1, OBIT_EVENT, SIGNAL_EVENT };

static volatile sig_atomic_t caught;

/* -- mom -- */
static bool is_connected(void) {
	long failed;
	if (connect_to_mom(&failed))
		return true;
	if (failed)
		fail("pbs_mom refuses to take tasks of this job (TM error %ld)", failed);
	return false;
}
static bool connect_again(int node, long task) { /* 0: no task yet */
	for (int i = 0; i < (task ? PATIENCE_S : START_S); i++) {
		sleep(1);
		if (is_connected())
			return !task || ask_for_end(node, task, OBIT_EVENT);
	}
	return false;
}

/* -- hosts -- */
static bool same_host(const char *a, const char *b) {
	size_t short_a = strcspn(a, "."), short_b = strcspn(b, ".");
	if (!strcasecmp(a, b))
		return true;
	return (!a[short_a] || !b[short_b]) && short_a == short_b && !strncasecmp(a, b, short_a);
}
/* The place of its first line in the node file: that of its first slot among mom's nodes. */
static int place_of(const char *host) {
	const char *path = variable("PBS_NODEFILE");
	char line[LINE], names[512] = "", last[LINE] = "";
	FILE *file = fopen(path, "re");
	int place = 0, found = -1;
	if (!file)
		fail("cannot read the node file %s: %s", path, strerror(errno));
	for (; fgets(line, sizeof(line), file); place++) {
		line[strcspn(line, " \t\r\n")] = 0;
		if (found < 0 && same_host(host, line))
			found = place;
		if (strcmp(line, last) && strlen(names) + strlen(line) + 3 < sizeof(names)) {
			strcat(strcat(names, *names ? ", " : ""), line);
			strcpy(last, line);
		}
	}
	fclose(file);
	if (found < 0)
		fail("host %s is none of this job's: %s", host, names);
	return found;
}

static void on_signal(int number) {
	caught = number;
}
static int64_t now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int run(const char *host, const char *command) {
	char ports[2][32];
	struct pollfd polled[5]; /* mom, two listeners, two streams: a place of -1 is passed over */
	int place = place_of(host), node = 0;
	long task = 0, event, failed, value, code = -1;
	bool is_over = false;
	int64_t heard = 0;

	if (!is_connected() && !connect_again(0, 0))
		fail("no answer from pbs_mom at 127.0.0.1:%s; the task manager needs the host's network (--network host)",
		     variable("PBS_MOMPORT"));
	if (place >= node_count)
		fail("the node file has more lines than pbs_mom has nodes for this job (%d)", node_count);
	node = nodes[place];
	for (int i = 0; i < 2; i++) {
		int port;
		polled[1 + i] = (struct pollfd){ listen_anywhere(&port), POLLIN, 0 };
		polled[3 + i] = (struct pollfd){ -1, POLLIN, 0 };
		snprintf(ports[i], sizeof(ports[i]), "TM_STD%s_PORT=%d", i ? "ERR" : "OUT", port);
	}

	put_head(SPAWN, SPAWN_EVENT);
	put_number(node);
	put_number(3);
	put_text("/bin/sh");
	put_text("-c");
	put_text(command);
	if (getenv(TICKET)) {
		char *text = NULL;
		if (asprintf(&text, "%s=%s", TICKET, getenv(TICKET)) < 0)
			fail("out of memory");
		put_text(text);
		free(text);
	}
	put_text(ports[0]);
	put_text(ports[1]);
	put_text("");
	if (!flush_out())
		fail("pbs_mom has closed the connection");

	struct sigaction action = { .sa_handler = on_signal };
	for (int i = 0; i < 3; i++)
		sigaction((int[]){ SIGHUP, SIGINT, SIGTERM }[i], &action, NULL);
	for (;;) {
		char bytes[65536];
		bool has_streams = polled[1].fd >= 0 || polled[2].fd >= 0 || polled[3].fd >= 0 || polled[4].fd >= 0;
		int64_t left = heard + SILENCE_MS - now_ms();
		if (is_over && (!has_streams || left <= 0))
			break;
		polled[0] = (struct pollfd){ is_over ? -1 : mom, POLLIN, 0 };
		int ready = poll(polled, 5, !is_over && is_read_ahead() ? 0 : is_over ? (int)left : -1);
		if (caught && task && !is_over) {
			signal_task(node, task, caught, SIGNAL_EVENT);
		} else if (caught && !task)
			exit(128 + caught);
		caught = 0;
		if (ready < 0)
			continue;
		for (int i = 0; i < 2; i++) {
			if (polled[1 + i].fd >= 0 && polled[1 + i].revents) {
				polled[3 + i].fd = accept4(polled[1 + i].fd, NULL, NULL, SOCK_CLOEXEC);
				if (polled[3 + i].fd >= 0) {
					close(polled[1 + i].fd);
					polled[1 + i].fd = -1;
				}
			} else if (polled[3 + i].fd >= 0 && polled[3 + i].revents) {
				ssize_t n = read(polled[3 + i].fd, bytes, sizeof(bytes));
				heard = now_ms();
				if (n > 0)
					write_all(1 + i, bytes, n);
				else if (n == 0 || errno != EINTR) {
					close(polled[3 + i].fd);
					polled[3 + i].fd = -1;
				}
			}
		}
		if (is_over || !(polled[0].revents || is_read_ahead()))
			continue;
		bool is_heard = get_head(&event, &failed);
		if (is_heard && !failed && (event == SPAWN_EVENT || event == OBIT_EVENT))
			is_heard = get_number(&value);
		if (!is_heard) {
			if (!task || !connect_again(node, task))
				fail("lost pbs_mom while the command ran on %s", host);
		} else if (failed && event == SPAWN_EVENT)
			fail("pbs_mom could not start the command on %s (TM error %ld)", host, failed);
		else if (event == SPAWN_EVENT) {
			task = value;
			if (!ask_for_end(node, task, OBIT_EVENT) && !connect_again(node, task))
				fail("lost pbs_mom while the command ran on %s", host);
		} else if (event == OBIT_EVENT) {
			is_over = true;
			heard = now_ms();
			code = failed ? FAULT : value;
			if (failed)
				say("pbs_mom cannot tell how the command on %s ended (TM error %ld)", host, failed);
		}
	}
	/* Torque tells of a signal as 256 and its number. */
	return code > 256 && code < 256 + 128 ? (int)(code - 128) : code >= 0 && code < 256 ? (int)code : FAULT;
}

/* Mom's own pbsdsh, behind a loader and libraries of its own where it needs them. */
static int pbsdsh(int argc, char **argv) {
	char **words = calloc((size_t)argc + 8, sizeof(char *));
	int n = 0;
	if (!words)
		fail("out of memory");
	if (access(TOOLS "/libexec/pbsdsh", X_OK))
		fail("this node has no pbsdsh of pbs_mom's that runs in a container; ask your site, or use tm-agent HOST COMMAND");
	if (!access(TOOLS "/lib/loader", X_OK)) {
		words[n++] = TOOLS "/lib/loader";
		words[n++] = "--library-path";
		words[n++] = TOOLS "/lib";
	}
	words[n++] = TOOLS "/libexec/pbsdsh";
	if (getenv(TICKET)) { /* without a value of its own it would travel as an empty one */
		words[n++] = "-e";
		words[n++] = TICKET;
	}
	for (int i = 1; i < argc; i++)
		words[n++] = argv[i];
	unsetenv("LD_PRELOAD"); /* the image's, for its own C library */
	unsetenv("LD_AUDIT");
	execv(words[0], words);
	fail("cannot run %s: %s", words[0], strerror(errno));
}

/* A command of Slurm's, with the configuration that names what it needs in here. */
static int slurms(const char *name, int argc, char **argv) {
	char **words = calloc((size_t)argc + 8, sizeof(char *)), why[512] = "", program[256];
	int n = 0, file;
	if (!words)
		fail("out of memory");
	if ((file = open(TOOLS "/etc/why-not", O_RDONLY | O_CLOEXEC)) >= 0) {
		ssize_t got = read(file, why, sizeof(why) - 1);
		why[got > 0 ? (size_t)got - (why[got - 1] == '\n') : 0] = 0;
		fail("cannot work here: %s", why);
	}
	snprintf(program, sizeof(program), TOOLS "/libexec/%s", name);
	words[n++] = TOOLS "/lib/loader";
	words[n++] = "--library-path";
	words[n++] = TOOLS "/lib";
	words[n++] = program;
	for (int i = 1; i < argc; i++)
		words[n++] = argv[i];
	unsetenv("LD_PRELOAD"); /* the image's, for its own C library */
	unsetenv("LD_AUDIT");
	setenv("SLURM_CONF", TOOLS "/etc/slurm.conf", 1);
	execv(words[0], words);
	fail("cannot run %s: %s", program, strerror(errno));
}

/* ssh's options, of which none matters here: those of the second list have a value. */
static int skip_options(int argc, char **argv, int at) {
	for (; at < argc && argv[at][0] == '-' && argv[at][1]; at++) {
		if (!strcmp(argv[at], "--"))
			return at + 1;
		for (const char *letter = argv[at] + 1; *letter; letter++) {
			if (!strchr("1246AaCfGgKkMNnqsTtVvXxYyBbcDEeFIiJLlmOopQRSWw", *letter))
				fail("unknown option -%c", *letter);
			if (strchr("BbcDEeFIiJLlmOopQRSWw", *letter)) {
				at += !letter[1];
				break;
			}
		}
	}
	return at;
}

int main(int argc, char **argv) {
	const char *name = strrchr(argv[0], '/'), *host, *at_sign;
	size_t length = 1;
	me = "tm-agent";
	fault = FAULT;
	if (!strcmp(name ? name + 1 : argv[0], "pbsdsh")) {
		me = "pbsdsh";
		return pbsdsh(argc, argv);
	}
	static const char *const of_slurm[] = { "srun", "scontrol", "squeue", "scancel", "sbatch", "sinfo", "sbcast", "sstat" };
	for (size_t i = 0; i < sizeof(of_slurm) / sizeof(*of_slurm); i++)
		if (!strcmp(name ? name + 1 : argv[0], of_slurm[i]))
			return slurms(me = of_slurm[i], argc, argv);
	int at = skip_options(argc, argv, 1);
	if (at >= argc)
		fail("usage: tm-agent [options of ssh] HOST COMMAND…");
	host = argv[at++];
	if ((at_sign = strrchr(host, '@')))
		host = at_sign + 1;
	at = skip_options(argc, argv, at);
	if (at >= argc)
		fail("no command: tm-agent [options of ssh] HOST COMMAND…");
	if (strcmp(variable("PBS_NODENUM"), "0"))
		fail("only the job's first node can start commands on others, this is node %s of it", variable("PBS_NODENUM"));
	for (int i = at; i < argc; i++)
		length += strlen(argv[i]) + 1;
	char *command = calloc(length, 1), *end = command;
	if (!command)
		fail("out of memory");
	for (int i = at; i < argc; i++)
		end = stpcpy(stpcpy(end, i > at ? " " : ""), argv[i]);
	return run(host, command);
}
