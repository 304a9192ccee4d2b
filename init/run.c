/* pbsdock-run: the run hook of jobs and tasks that have no terminal, as the job's user.
 *
 *   pbsdock-run AGENT_SOCKET RUN_HOOK WORDS INTERPRETER... COMMAND...
 *
 * RUN_HOOK is Torque's $job_starter, or "slurm" for a batch script of Slurm's. As a task of a step of Slurm's it is called
 * .../step ARGUMENTS..., with PBSDOCK_STEP="JOB PROGRAM" in its environment (spank.c): what else it needs to know is in the file
 * step.words beside it, each with a NUL behind it: the agent's socket, then the interpreter's words.
 * Asks the agent for the start of COMMAND, has the container's first process run it with this process's own descriptors 0, 1
 * and 2, and ends as it ended. INTERPRETER and what belongs to it are WORDS words: the run hook in Python, which is executed with
 * COMMAND behind it, before anything was started, where there is a terminal or the job has no first process of pbsdock's.
 * What happens when is the same in both: lib/pbsdock/hook/{runner,direct,agent_link,adopt,signals}.py. */
#define _GNU_SOURCE
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "stream.h"

#ifndef IMPATIENT /* as a test is */
enum {
	ADOPT_AFTER_MS = 500,
	CONNECT_MS = 60000,           /* to the first process, and each of its answers */
	AGENT_AWAY_MS = 5000,         /* how long the end waits for an agent that is away: it has only sentences to add */
	AGENT_AT_WORK_MS = 120000,
	GIVE_UP_MS = 600000,
};
#endif
enum {
	AGENT_COMES_MS = 60000,
	AGENT_STARTS_MS = 900000,     /* for each of its messages, until the job is started */
	AGENT_SENDS_MS = 60000,       /* for the rest of a message, from then on */
	ATTEMPTS = 3,
	JOINS = 20, JOIN_PAUSE_MS = 50,
	HEARD_MS = 1000,              /* for the first process, when the agent has told the end */
	REFUSED = 125,                /* exit status of a job that was not started */
	REQUEUE = 190,                /* the same by no fault of the job's: Slurm's RequeueExit */
};

struct end { enum { UNKNOWN, LOST, TOLD } state; uint32_t kind, number; char step[MOST_REPLY + 1], path[MOST_REPLY + 1]; };

extern char **environ;
static const int forwarded[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP, SIGXCPU };
static const char *agent_socket, *hook, *job;
static char **interpreter, **command;
static struct stream agent = { .fd = -1 }, first = { .fd = -1 };
static sigset_t as_found, blocked;
static int signals, fatal, directory = -1;
static char cwd[PATH_MAX];
static mode_t own_umask;
static bool is_pending[NSIG];
static char name[ID + 1], *task, *tracker;
static bool has_results, is_slurm, is_step, is_held, has_joined, is_by_itself, wants_place, wants_tracker, is_adopted, leader_alone;
static unsigned connections;
static struct message told; /* the agent's, of the end */
static struct end end;
static pid_t parent, tool, tracked, held;
static int64_t agent_lost_at, over_at, told_at, adopt_at;

/* A line on the job's standard error; a closed one, or a full disk, is no error. */
static void say(const char *before, const char *text, const char *behind) {
	struct bytes line = { 0 };
	siginfo_t info;
	sigset_t by_write;
	add(&line, "pbsdock: ", 9);
	add(&line, before, strlen(before));
	add(&line, text, strlen(text));
	add(&line, behind, strlen(behind));
	add(&line, "\n", 1);
	if (!line.is_lost && write(2, line.at, line.length) < 0 && (errno == EPIPE || errno == EFBIG)) {
		sigemptyset(&by_write);
		sigaddset(&by_write, SIGPIPE);
		sigaddset(&by_write, SIGXFSZ);
		while (sigtimedwait(&by_write, &info, &(struct timespec){ 0 }) < 0 && errno == EINTR)
			;
	}
	let_go(&line);
}

/* -- signals: blocked from the beginning, read from a descriptor -- */
static void block_signals(void) {
	sigset_t caught;
	sigemptyset(&caught);
	for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
		sigaddset(&caught, forwarded[i]);
	sigaddset(&caught, SIGCHLD);
	blocked = caught;
	sigaddset(&blocked, SIGPIPE); /* what write(2) says is enough */
	sigaddset(&blocked, SIGXFSZ);
	sigprocmask(SIG_BLOCK, &blocked, &as_found);
	signals = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool is_fatal(int number) {
	return number == SIGTERM || number == SIGINT || number == SIGHUP || number == SIGQUIT;
}

/* Ends this process by a signal, and leaves no core of its own behind. Returns if that signal does not end it. */
static void die(int number) {
	sigset_t only;
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	signal(number, SIG_DFL);
	sigemptyset(&only);
	sigaddset(&only, number);
	sigprocmask(SIG_UNBLOCK, &only, NULL);
	kill(getpid(), number);
}

static void read_signals(void) {
	struct signalfd_siginfo info;
	while (read(signals, &info, sizeof info) == (ssize_t)sizeof info)
		if (info.ssi_signo < NSIG)
			is_pending[info.ssi_signo] = true;
}

/* -- the agent -- */
static void lose_agent(void) {
	if (agent.fd >= 0)
		agent_lost_at = now();
	hang_up(&agent);
}

static void tell(struct bytes *b) {
	if (agent.fd >= 0 && complete(b) && !put(&agent, b, NULL, 0))
		lose_agent();
	let_go(b);
}

static struct bytes about(const char *op) {
	struct bytes b;
	begin(&b, op);
	field(&b, "job", job);
	field(&b, "task", task);
	return b;
}

static void tell_number(const char *op, const char *key, long long number) {
	struct bytes b = about(op);
	add_number(&b, key, number);
	tell(&b);
}

static void tell_over(void) {
	struct bytes b = about("over");
	if (end.state == TOLD) {
		add_number(&b, "kind", end.kind);
		add_number(&b, "number", end.number);
		field(&b, "step", end.step);
		field(&b, "path", end.path);
	}
	tell(&b);
}

static void rejoin(void) {
	struct bytes b = about("rejoin");
	add_number(&b, "attached", 1);
	int64_t lost_at = agent_lost_at;
	if (connect_to(&agent, agent_socket, AGENT_SENDS_MS, false))
		tell(&b);
	let_go(&b);
	if (agent.fd < 0)
		agent_lost_at = lost_at;
	else if (end.state != UNKNOWN)
		tell_over();
	else if (held)
		tell_number("held", "pid", held);
}

static void listen_to_agent(void) {
	struct message m;
	int fd;
	if (!hear(&agent, &m, &fd, 1))
		return lose_agent();
	if (fd >= 0)
		close(fd);
	if (!strcmp(m.text, "ended")) {
		forget(&told);
		told = m;
		told_at = now();
		is_by_itself = false;
		return;
	}
	if (!strcmp(m.text, "notice"))
		say("", value_of(&m, "sentence"), "");
	else if ((!strcmp(m.text, "refused") || !strcmp(m.text, "fault")) && end.state != UNKNOWN)
		is_by_itself = true; /* an agent that does not know the job has nothing to add */
	forget(&m);
}

/* -- asking for the start -- */
static _Noreturn void hand_over(void) {
	sigprocmask(SIG_SETMASK, &as_found, NULL);
	execv(interpreter[0], interpreter);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	say("the job was not started: cannot execute ", interpreter[0], "");
	_exit(REFUSED);
}

static _Noreturn void become_command(void) {
	if (!command[0])
		_exit(127);
	sigprocmask(SIG_SETMASK, &as_found, NULL);
	if (strchr(command[0], '/'))
		execv(command[0], command); /* which no shell interprets in a C library's name */
	else
		execvp(command[0], command);
	const char *why = strerror(errno);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	say(command[0], ": ", why);
	_exit(127);
}

static const char *variable(const char *key) {
	const char *value = getenv(key);
	return value ? value : "";
}

static struct bytes compose_start(bool is_again) {
	struct bytes b;
	begin(&b, "start");
	field(&b, "job", job);
	for (char **at = command; *at; at++)
		field(&b, "argv", *at);
	for (char **at = environ; *at; at++)
		if (strchr(*at, '=') && strncmp(*at, "PBSDOCK_STEP=", 13))
			field(&b, "env", *at);
	field(&b, "cwd", cwd);
	add_number(&b, "umask", own_umask);
	add_number(&b, "tty", 0);
	add_number(&b, "rows", 0);
	add_number(&b, "columns", 0);
	field(&b, "tasknum", variable("PBS_TASKNUM"));
	field(&b, "directive", variable("PBSDOCK"));
	add_number(&b, "direct", 1); /* where there is no first process: say so, and start nothing */
	if (is_again)
		add_number(&b, "again", 1);
	return b;
}

static bool connect_to_agent(void) {
	int64_t until = now() + AGENT_COMES_MS, left;
	while (!connect_to(&agent, agent_socket, (left = until - now()) > 0 ? left : 1, false)) {
		if (now() >= until)
			return false;
		poll(NULL, 0, 50);
	}
	be_patient(&agent, AGENT_STARTS_MS);
	return true;
}

/* Until the agent says more; a signal that ends a job ends this process, as it would a bare job's. */
static void wait_for_agent(void) {
	for (;;) {
		struct pollfd watched[2] = { { agent.fd, POLLIN, 0 }, { signals, POLLIN, 0 } };
		if (poll(watched, 2, -1) < 0)
			continue;
		read_signals();
		for (int number = 1; number < NSIG; number++)
			if (is_pending[number] && is_fatal(number))
				die(number);
		if (watched[0].revents)
			return;
	}
}

static bool hear_start(struct message *m, int *fd) {
	for (bool is_waiting = false;;) {
		if (is_waiting)
			wait_for_agent();
		if (!hear(&agent, m, fd, 1))
			return false;
		if (!strcmp(m->text, "waiting"))
			is_waiting = true; /* for what may take long; there is nothing yet to pass a signal on to */
		else if (!strcmp(m->text, "notice"))
			say("", value_of(m, "sentence"), "");
		else
			return true;
		if (*fd >= 0)
			close(*fd);
		forget(m);
	}
}

/* An agent that is lost meanwhile is asked again once it is back, and lets nothing run twice. False: no answer. */
static bool ask_for_start(struct message *answer, int *fd) {
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		struct bytes request = compose_start(attempt > 0);
		bool is_sent = complete(&request) && connect_to_agent();
		if (!is_sent) {
			let_go(&request);
			return false;
		}
		is_sent = put(&agent, &request, NULL, 0);
		let_go(&request);
		if (is_sent && hear_start(answer, fd)) {
			be_patient(&agent, AGENT_SENDS_MS);
			return true;
		}
		hang_up(&agent);
	}
	return false;
}

/* -- Torque's accounting -- */
static void starter_of(struct bytes *path) {
	const char *slash = strrchr(tracker, '/');
	*path = (struct bytes){ 0 };
	add(path, tracker, slash ? (size_t)(slash + 1 - tracker) : 0);
	add_text(path, "pbsdsh");
}

/* That the session of *pid* is to be counted; of a leader behind a task that takes a place in mom's task file (adopt.py). */
static void plan_adoption(pid_t pid) {
	struct bytes starter;
	if (!*tracker || pid <= 0 || tracked)
		return;
	tracked = pid;
	wants_tracker = true;
	starter_of(&starter);
	wants_place = *hook && !*task && !starter.is_lost && !access(starter.at, X_OK);
	let_go(&starter);
}

static bool start_tool(char *const *argv) {
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t how;
	sigset_t set;
	size_t count = 0;
	for (char **at = environ; *at; at++)
		count++;
	char **kept = calloc(count + 1, sizeof *kept);
	if (!kept)
		return false;
	count = 0;
	for (char **at = environ; *at; at++)
		if (!strncmp(*at, "PBS_", 4) || !strncmp(*at, "PATH=", 5))
			kept[count++] = *at;
	posix_spawn_file_actions_init(&actions);
	for (int fd = 0; fd < 3; fd++)
		posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
	posix_spawnattr_init(&how);
	posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	sigemptyset(&set);
	posix_spawnattr_setsigmask(&how, &set);
	for (int number = 1; number < 32; number++)
		sigaddset(&set, number);
	posix_spawnattr_setsigdefault(&how, &set);
	int error = posix_spawn(&tool, argv[0], &actions, &how, argv, kept);
	posix_spawnattr_destroy(&how);
	posix_spawn_file_actions_destroy(&actions);
	free(kept);
	if (error)
		tool = 0;
	return !error;
}

static bool run_next_tool(void) {
	struct bytes starter;
	char pid[24];
	bool is_started;
	if (wants_place) {
		wants_place = false;
		starter_of(&starter);
		is_started = !starter.is_lost && start_tool((char *[]){ starter.at, "-n", "0", (char *)(uintptr_t)hook, NULL });
		let_go(&starter);
	} else {
		wants_tracker = false;
		snprintf(pid, sizeof pid, "%d", (int)tracked);
		is_started = start_tool((char *[]){ tracker, "-j", (char *)(uintptr_t)job, "-a", pid, NULL });
	}
	if (!is_started)
		wants_tracker = false;
	return is_started;
}

static void reap_tool(void) {
	int status;
	if (!tool || waitpid(tool, &status, WNOHANG) != tool)
		return;
	tool = 0;
	if (wants_tracker)
		return;
	is_adopted = !status;
	tell_number("adopted", "status", WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

/* -- the first process -- */
static bool connect_to_first(void) {
	char path[64];
	connections++;
	snprintf(path, sizeof path, "/proc/self/fd/%d/socket", directory);
	return connect_to(&first, path, CONNECT_MS, true);
}

static bool ask_first(uint32_t kind, uint32_t number) {
	has_joined |= kind == JOIN;
	return ask_about(&first, name, kind, number, kind == SIGNAL && leader_alone ? LEADER : 0);
}

static void conclude(void) {
	over_at = now();
	wants_place = wants_tracker = false;
	hang_up(&first);
	tell_over();
}

/* The connection broke: asks on another one, or takes it that all is over. */
static void join_again(void) {
	hang_up(&first);
	for (int attempt = 0; attempt < (told.text || is_by_itself ? 0 : JOINS); attempt++) {
		if (connect_to_first() && ask_first(JOIN, 0))
			return;
		hang_up(&first);
		poll(NULL, 0, JOIN_PAUSE_MS);
	}
	end.state = LOST;
	conclude();
}

/* Takes one answer of the first process. */
static void hear_first(void) {
	struct answer a;
	if (!hear_answer(&first, &a) || first.kept_count) /* it was asked for no descriptor */
		return join_again();
	const struct reply *reply = &a.reply;
	if (reply->kind == PID) {
		if (!has_joined) /* else process 1 itself has sent it, whose session it is not */
			plan_adoption(first.sender);
		if (!has_joined && is_held)
			tell_number("held", "pid", held = first.sender);
	} else if (reply->kind == FAILED && !strcmp(a.step, "id") && reply->number == EEXIST) {
		if (!ask_first(JOIN, 0)) /* an agent was lost when this had been asked for */
			join_again();
	} else if (reply->kind == ENDED || (reply->kind == FAILED && strcmp(a.step, "id"))) {
		end = (struct end){ .state = TOLD, .kind = reply->kind, .number = reply->number };
		strcpy(end.step, a.step);
		strcpy(end.path, a.path);
		conclude();
	}
}

static void pass_signals(void) {
	read_signals();
	for (int number = 1; number < NSIG; number++) {
		if (!is_pending[number])
			continue;
		is_pending[number] = false;
		if (number == SIGCHLD) {
			reap_tool();
		} else if (first.fd < 0) {
			fatal = is_fatal(number) ? number : fatal;
			tell_number("signal", "signal", number); /* results may be being staged out, which mom does not know of */
		} else {
			/* An adopted session gets the signal from mom itself, unless mom was restarted since and forgot it. */
			if ((!is_adopted || getppid() != parent) && !ask_first(SIGNAL, (uint32_t)number))
				hear_first(); /* the end may have come before */
			if (number == SIGCONT)
				tell_number("signal", "signal", number);
		}
	}
}

/* -- from the request to the end -- */
static bool is_told_enough(void) {
	if (end.state == UNKNOWN)
		return false;
	if (agent.fd < 0 && agent_lost_at && now() - agent_lost_at > GIVE_UP_MS)
		return true;
	if (end.state == LOST || has_results)
		return false;
	return now() - over_at > (agent.fd >= 0 ? AGENT_AT_WORK_MS : AGENT_AWAY_MS);
}

static void wait_for_end(void) {
	for (;;) {
		bool is_told = told.text || is_by_itself;
		if (is_told && (first.fd < 0 || now() - told_at >= HEARD_MS))
			return;
		if (agent.fd < 0)
			rejoin();
		if (is_told_enough())
			return;
		int timeout = agent.fd < 0 ? 200 : end.state != UNKNOWN || is_told ? 1000 : -1;
		if (!tool && (wants_place || wants_tracker)) {
			if (now() < adopt_at)
				timeout = 100;
			else if (!run_next_tool())
				tell_number("adopted", "status", 127);
		}
		struct pollfd watched[3] = { { signals, POLLIN, 0 }, { agent.fd, POLLIN, 0 }, { first.fd, POLLIN, 0 } };
		for (int number = 1; number < NSIG; number++)
			timeout = is_pending[number] ? 0 : timeout;
		if (poll(watched, 3, timeout) < 0)
			continue;
		unsigned before = connections;
		pass_signals();
		if (watched[2].revents && first.fd >= 0 && connections == before)
			hear_first();
		if (watched[1].revents && agent.fd >= 0)
			listen_to_agent();
	}
}

/* What a task of a step has of its slurmstepd with --mpi=pmi2, which no path leads to; -1 without. */
static int pmi_socket(void) {
	const char *number = variable("PMI_FD");
	struct stat found;
	int fd = atoi(number);
	return is_step && *number && strspn(number, "0123456789") == strlen(number) && fd > 2 && !fstat(fd, &found) &&
	       S_ISSOCK(found.st_mode) ? fd : -1;
}

/* Returns "", or why nothing could be started. */
static const char *start(const struct message *answer, char *why, size_t room) {
	struct bytes request;
	const char *wrong;
	if (!connect_to_first())
		return strerror(errno);
	task = strdup(value_of(answer, "task"));
	tracker = strdup(value_of(answer, "pbs_track"));
	has_results = number_of(answer, "results", 0) != 0;
	leader_alone = number_of(answer, "leader_alone", 0) != 0;
	is_held = number_of(answer, "held", 0) != 0;
	int pmi = pmi_socket();
	struct head head = { .umask = own_umask, .flags = (*value_of(answer, "task") ? 0 : LEADER) | (pmi < 0 ? 0 : ANOTHER) };
	wrong = compose_run(answer, &head, &request, why, room);
	if (!task || !tracker)
		wrong = strerror(ENOMEM);
	if (!*wrong) {
		strcpy(name, value_of(answer, "name")); /* is_id: it fits */
		if (!put(&first, &request, (const int[]){ 0, 1, 2, pmi }, pmi < 0 ? 3 : 4))
			wrong = strerror(errno);
	}
	let_go(&request);
	return wrong;
}

/* Ends as the job has ended, in the agent's words or without it. */
static _Noreturn void leave(void) {
	long long code = REFUSED, signal_of = 0;
	const char *sentence = NULL;
	if (tool) {
		kill(tool, SIGKILL); /* there is nothing to count any more */
		waitpid(tool, NULL, 0);
	}
	if (end.state == TOLD && end.kind == ENDED) {
		signal_of = end.number & 0x7f;
		code = signal_of ? 128 + signal_of : end.number >> 8 & 0xff;
	}
	long long its_own = code;
	if (told.text && !is_by_itself) {
		while ((sentence = next_value(&told, "sentence", sentence)))
			say("", sentence, "");
		code = number_of(&told, "code", REFUSED);
	} else if (end.state != TOLD) {
		say("", "the agent of this node is gone; the job's end is unknown", "");
	} else if (end.kind == FAILED) {
		char why[2 * (MOST_REPLY + 1) + 128];
		snprintf(why, sizeof why, "%s%s%s: %s", end.step, *end.path ? " " : "", end.path, strerror((int)end.number));
		say("the job's command was not started: ", why, "");
	}
	if (fatal)
		die(fatal);
	if (signal_of && code == its_own)
		die((int)signal_of);
	_exit((int)(code & 0xff));
}

static _Noreturn void refuse(const char *before, const char *why, bool is_fault) {
	say(before, why, "");
	_exit(is_fault && is_slurm && !is_step ? REQUEUE : REFUSED);
}

/* Of the file beside this program; false if it is not there, or is none. */
static bool read_words(char **arguments) {
	static char text[8192], path[PATH_MAX + 16];
	size_t count = 0, length = 0;
	ssize_t got = readlink("/proc/self/exe", path, PATH_MAX);
	path[got > 0 ? got : 0] = 0;
	char *slash = strrchr(path, '/');
	if (!slash)
		return false;
	strcpy(slash, "/step.words");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && (got = read(fd, text + length, sizeof text - length)) > 0)
		length += (size_t)got;
	close(fd);
	if (!length || length == sizeof text || text[length - 1])
		return false;
	for (char *at = text; at < text + length; at += strlen(at) + 1)
		count++;
	size_t behind = 0;
	while (arguments[behind])
		behind++;
	char **words = calloc(count + behind + 1, sizeof *words);
	char *step = strdup(variable("PBSDOCK_STEP")), *space = step ? strchr(step, ' ') : NULL;
	if (!words || !space || count < 2 || !behind)
		return false;
	*space = 0;
	agent_socket = text;
	hook = "slurm";
	job = step;
	interpreter = words;
	for (char *at = text + strlen(text) + 1; at < text + length; at += strlen(at) + 1)
		*words++ = at;
	command = words;
	memcpy(words, arguments, behind * sizeof *words);
	words[0] = space + 1;
	return true;
}

int main(int argc, char **argv) {
	struct message answer;
	char why[256];
	struct stat about_it;
	const char *called = argc ? strrchr(argv[0], '/') : NULL;
	int words = argc > 4 ? atoi(argv[3]) : 0;
	is_step = called && !strcmp(called, "/step") && read_words(argv);
	if (!is_step && (words < 1 || words > argc - 4)) {
		fprintf(stderr, "usage, as $job_starter: pbsdock-run AGENT_SOCKET RUN_HOOK WORDS INTERPRETER... COMMAND...\n");
		return REFUSED;
	}
	if (!is_step) {
		agent_socket = argv[1];
		hook = argv[2];
		interpreter = argv + 4;
		command = argv + 4 + words;
	}
	is_slurm = !strcmp(hook, "slurm");
	if (!is_step)
		job = variable(is_slurm ? "SLURM_JOB_ID" : "PBS_JOBID");
	if (is_slurm && !is_step && variable("SHLVL") && !strcmp(variable("SHLVL"), "0"))
		unsetenv("SHLVL"); /* bash, which has executed this, makes one */
	for (int fd = 0; fd < 3; fd++)
		if (fstat(fd, &about_it))
			open("/dev/null", O_RDWR); /* the lowest that is free: none of ours comes in its place */
	block_signals();
	own_umask = umask(077);
	umask(own_umask);
	if ((isatty(0) && isatty(1)) || signals < 0 || !getcwd(cwd, sizeof cwd) || *cwd != '/')
		hand_over();
	if (!ask_for_start(&answer, &directory))
		refuse("", is_slurm && !is_step ? "the pbsdock agent on this node did not answer; the job was not started and is queued again"
		                    : "the pbsdock agent on this node did not answer; the job was not started, please submit it again", true);
	if (!strcmp(answer.text, "bare") && (!is_slurm || is_step)) {
		unsetenv("PBSDOCK_STEP");
		become_command();
	}
	if (!strcmp(answer.text, "relay") || !strcmp(answer.text, "bare"))
		hand_over(); /* a bare script of Slurm's names this hook in its first line */
	if (strcmp(answer.text, "started") || directory < 0 || !next_value(&answer, "argv", NULL)) {
		const char *sentence = next_value(&answer, "sentence", NULL);
		refuse("", sentence ? sentence : "the agent gave no answer that can be understood", !strcmp(answer.text, "fault"));
	}
	signal(SIGCHLD, SIG_DFL); /* ignored, no child could be waited for */
	parent = getppid();
	const char *wrong = start(&answer, why, sizeof why);
	if (*wrong)
		refuse("the job was not started: ", wrong, true);
	forget(&answer);
	adopt_at = now() + ADOPT_AFTER_MS;
	wait_for_end();
	leave();
}
