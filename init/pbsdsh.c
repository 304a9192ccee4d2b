/* pbsdsh for the emulated nodes of `pbsdock try`: options, words and exit codes of Torque's src/cmds/pbsdsh.c.
 *
 * One static program, so that it runs in any container. It asks what stands for pbs_mom (lib/pbsdock/trial/tm.py) in the
 * protocol of tm.h. As Torque's does, -o listens on two ports that the task's node connects to. */
#define _GNU_SOURCE
#include "tm.h"
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

enum { SYSTEM = 17000, NOT_CONNECTED = 17002, BAD_ENVIRONMENT = 17005, NOT_FOUND = 17006 }; /* tm_.h */
enum { STREAMS = 4096 };

/* The events of task i: its start has 2 i + 2, its end 2 i + 3. */
enum { FIRST_EVENT = INIT_EVENT + 1 };

extern char **environ;

static char id[64];
static bool verbose;
static volatile sig_atomic_t caught;

static char **asked; /* NAME=VALUE for the tasks */
static int asked_count;

static struct task {
	int slot;
	long number; /* 0: not started, or over */
} *tasks;

static int task_count, waiting;

static void on_signal(int number) {
	caught = number;
}
static void *grown(void *old, int count, size_t size) {
	void *made = reallocarray(old, (size_t)count, size);
	if (!made)
		fail("out of memory");
	return made;
}
static char *copied(const char *text) {
	char *copy = strdup(text);
	if (!copy)
		fail("out of memory");
	return copy;
}

/* -- what the tasks get of the environment -- */
static void ask_for(const char *pair) {
	asked = grown(asked, asked_count + 1, sizeof(*asked));
	asked[asked_count++] = copied(pair);
}
static void ask_for_value(const char *name, const char *value) {
	char *pair = NULL;
	if (asprintf(&pair, "%s=%s", name, value) < 0)
		fail("out of memory");
	ask_for(pair);
	free(pair);
}
static void ask_for_list(const char *list, bool have_all) {
	char *copy = copied(list);
	for (char *name = strtok(copy, ","); name; name = strtok(NULL, ",")) {
		const char *value = getenv(name);
		if (strchr(name, '='))
			ask_for(name);
		else if (!value || !have_all)
			ask_for_value(name, value ? value : "");
	}
	free(copy);
}

/* Pass on what the tasks write to two listeners. Once all tasks are over, which *over* tells, it ends when the expected
 * connections have ended, or nothing has come for a while: not every task connects. */
static pid_t relay(int listeners[2], int over, int others_end, int expected) {
	pid_t pid = fork();
	if (pid)
		return pid;
	close(others_end);
	close(mom);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	static int to[STREAMS];
	static struct pollfd polled[STREAMS];
	static char bytes[65536];
	int count = 3, ended = 0;
	bool is_last = false;
	polled[0] = (struct pollfd){ listeners[0], POLLIN, 0 };
	polled[1] = (struct pollfd){ listeners[1], POLLIN, 0 };
	polled[2] = (struct pollfd){ over, POLLIN, 0 };
	for (;;) {
		if (is_last && ended >= expected)
			_exit(0);
		int ready = poll(polled, (nfds_t)count, is_last ? 100 : -1), size = count;
		if (ready < 0 && errno != EINTR)
			_exit(1);
		if (is_last && !ready)
			_exit(0);
		if (ready <= 0)
			continue;
		if (polled[2].revents) {
			is_last = true;
			polled[2].fd = -1;
		}
		for (int i = 3; i < count; i++) {
			if (!polled[i].revents)
				continue;
			ssize_t n = read(polled[i].fd, bytes, sizeof(bytes));
			if (n > 0)
				write_all(to[i], bytes, n);
			else {
				close(polled[i].fd);
				polled[i].fd = -1;
				ended++;
			}
		}
		for (int i = 0; i < 2; i++)
			if (polled[i].revents & POLLIN && size < STREAMS) {
				polled[size] = (struct pollfd){ accept4(polled[i].fd, NULL, NULL, SOCK_CLOEXEC), POLLIN, 0 };
				to[size++] = i + 1;
			}
		count = size;
	}
}

static void kill_tasks(void) {
	for (int i = 0; i < task_count; i++)
		if (tasks[i].number) {
			say("killing task %ld signal %d", tasks[i].number, (int)caught);
			signal_task(nodes[tasks[i].slot], tasks[i].number, caught, INIT_EVENT);
		}
}
static void take_answer(void) {
	long event = 0, failed = 0, value = 0;
	bool is_heard = get_head(&event, &failed), is_end = (event - FIRST_EVENT) % 2;
	long i = (event - FIRST_EVENT) / 2;
	if (is_heard && (event < FIRST_EVENT || i >= task_count))
		return;
	if (!is_heard || (!failed && !get_number(&value))) {
		say("Event poll failed, error TM_ENOTCONNECTED");
		exit(2);
	}
	if (failed) {
		if (is_end)
			say("error %ld on obit for task %d", failed, tasks[i].slot);
		else
			say("error %ld on spawn", failed);
	} else if (!is_end) {
		if (verbose)
			say("spawn event returned: %ld", i);
		tasks[i].number = value;
		ask_for_end(nodes[tasks[i].slot], value, (int)event + 1);
		return;
	} else if (verbose || value)
		say("task %d exit status %ld", tasks[i].slot, value);
	tasks[i].number = 0;
	waiting--;
}
static void wait_for_tasks(void) {
	while (waiting) {
		struct pollfd polled = { mom, POLLIN, 0 };
		if (caught) {
			kill_tasks();
			exit(1);
		}
		if (is_read_ahead() || poll(&polled, 1, 200) > 0)
			take_answer();
	}
}
static void spawn(int index, int argc, char **argv) {
	put_head(SPAWN, FIRST_EVENT + 2 * index);
	put_number(nodes[tasks[index].slot]);
	put_number(argc);
	for (int i = 0; i < argc; i++)
		put_text(argv[i]);
	for (int i = 0; i < asked_count; i++)
		put_text(asked[i]);
	put_text("");
	flush_out(); /* that she is gone is seen when the answer is awaited */
	if (verbose)
		say("spawned task %d", tasks[index].slot);
	waiting++;
}

/* The names in the node file, which must be as many as there are slots. */
static char **node_names(void) {
	char *path = getenv("PBS_NODEFILE"), line[1024];
	char **names = grown(NULL, node_count, sizeof(*names));
	int count = 0;
	if (!path) {
		fprintf(stderr, "PBS_NODEFILE environment variable not set\n");
		exit(1);
	}
	FILE *file = fopen(path, "re");
	if (!file) {
		fprintf(stderr, "failed to open %s\n", path);
		exit(1);
	}
	while (count < node_count && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		names[count++] = copied(line);
	}
	fclose(file);
	if (count != node_count) {
		fprintf(stderr, "number of hostnames (%d) read from %s does not match number of nodes (%d) in job\n", count, path,
		        node_count);
		exit(1);
	}
	return names;
}
static bool is_host(const char *name, const char *wanted) {
	size_t length = strcspn(name, ".");
	return !strcmp(name, wanted) || (strlen(wanted) == length && !strncmp(name, wanted, length));
}
static int slot_of(char *wanted, char **names) {
	int nth = 0;
	char *slash = strchr(wanted, '/');
	if (slash) {
		*slash = 0;
		nth = atoi(slash + 1);
	}
	for (int i = 0; i < node_count; i++)
		if (is_host(names[i], wanted) && nth-- == 0)
			return i;
	fail("%s not found", wanted);
}

static const char *name_of(long code) {
	switch (code) {
	case SYSTEM: return "TM_ESYSTEM";
	case NOT_CONNECTED: return "TM_ENOTCONNECTED";
	case BAD_ENVIRONMENT: return "TM_EBADENVIRONMENT";
	case NOT_FOUND: return "TM_ENOTFOUND";
	default: return "?";
	}
}
static void connect_or_exit(void) {
	long code = 0;
	const char *needed[] = { "PBS_JOBID", "PBS_JOBCOOKIE", "PBS_NODENUM", "PBS_TASKNUM", "PBS_MOMPORT" };
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++)
		if (!getenv(needed[i]) || !*getenv(needed[i]))
			code = BAD_ENVIRONMENT;
	if (!code && connect_to_mom(&code))
		return;
	code = code ? code : NOT_CONNECTED;
	fail("tm_init failed, rc = %s (%ld)", name_of(code), code);
}

_Noreturn static void usage(const char *name) {
	fprintf(stderr, "Usage: %s [-c copies][-e name[=[value]][,...]][-E][-o][-s][-u][-v] program [args]...]\n", name);
	fprintf(stderr, "       %s [-n nodenumber][-e name[=[value]][,...]][-E][-o][-s][-u][-v] program [args]...\n", name);
	fprintf(stderr, "       %s [-h hostname][-e name[=[value]][,...]][-E][-o][-v] program [args]...\n", name);
	exit(1);
}

int main(int argc, char **argv) {
	int copies = -1, only = -1, option, over[2] = { -1, -1 };
	bool grab = false, in_turn = false, unique = false, all = false, wrong = false;
	char *host = NULL, **names = NULL, port[32];
	pid_t relayer = 0;
	snprintf(id, sizeof(id), "pbsdsh(%.20s)", getenv("PBSDEBUG") && getenv("PBS_TASKNUM") ? getenv("PBS_TASKNUM") : "");
	me = id;
	fault = 1;
	while ((option = getopt(argc, argv, "+c:e:n:h:osuvE")) != -1)
		switch (option) {
		case 'c': wrong |= (copies = atoi(optarg)) <= 0; break;
		case 'e': ask_for_list(optarg, all); break;
		case 'E':
			for (char **pair = environ; !all && *pair; pair++)
				ask_for(*pair);
			all = true;
			break;
		case 'h': host = copied(optarg); break;
		case 'n': wrong |= (only = atoi(optarg)) < 0; break;
		case 'o': grab = true; break;
		case 's': in_turn = true; break;
		case 'u': unique = true; break;
		case 'v': verbose = true; break;
		default: wrong = true;
		}
	if (optind == argc)
		say("must specify a program");
	if (wrong || (only >= 0 && copies >= 1) || optind == argc)
		usage(argv[0]);
	if (!getenv("PBS_ENVIRONMENT"))
		fail("not executing under PBS");
	connect_or_exit();
	struct sigaction action = { .sa_handler = on_signal };
	for (int i = 0; i < 3; i++)
		sigaction((int[]){ SIGHUP, SIGINT, SIGTERM }[i], &action, NULL);
	if (unique || host)
		names = node_names();
	if (host)
		only = slot_of(host, names);
	int *chosen = grown(NULL, node_count, sizeof(*chosen)), count = 0;
	for (int i = 0; i < node_count; i++)
		if (!unique || host || !i || strcmp(names[i], names[i - 1]))
			chosen[count++] = i;
	if (only >= count || copies > count)
		fail("only %d nodes available", count);
	int first = only >= 0 ? only : 0, last = only >= 0 ? only + 1 : copies >= 0 ? copies : count;
	if (grab) {
		int listeners[2], ports[2];
		for (int i = 0; i < 2; i++)
			listeners[i] = listen_anywhere(&ports[i]);
		if (pipe(over))
			fail("no pipe: %s", strerror(errno));
		fflush(NULL);
		relayer = relay(listeners, over[0], over[1], 2 * (last - first));
		close(over[0]);
		for (int i = 0; i < 2; i++) {
			close(listeners[i]);
			snprintf(port, sizeof(port), "%d", ports[i]);
			ask_for_value(i ? "TM_STDERR_PORT" : "TM_STDOUT_PORT", port);
		}
	}
	tasks = grown(NULL, node_count, sizeof(*tasks));
	for (int i = first; i < last; i++) {
		tasks[task_count] = (struct task){ .slot = chosen[i] };
		spawn(task_count++, argc - optind, argv + optind);
		if (in_turn)
			wait_for_tasks();
	}
	wait_for_tasks();
	if (relayer > 0) {
		close(over[1]);
		waitpid(relayer, NULL, 0);
	}
	return 0;
}
