/* pbsdock-docker: `docker` inside a job. Knows nothing of Docker's command line: it tells the agent how it was called, and does
 * what the agent asks for, with its user's own rights and nothing else.
 *
 * The verbs are in README.md; their other end is lib/pbsdock/shim. Whatever an agent says, it can do no more here than this
 * user's own programs can, and no message of its can break this process. The environment is sent and never asked. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/signalfd.h>

#include "stream.h"
#include "terminal.h"
#include "copy.h"

#ifndef IMPATIENT /* as a test is */
enum {
	ANSWER_MS = 10000,            /* for the agent's first message */
	AGENT_AT_WORK_MS = 120000,    /* from a container's end to the agent's word on it */
	AGENT_AWAY_MS = 5000,         /* the same, of an agent that was lost meanwhile */
};
#endif
enum {
	REST_MS = 60000,              /* for the rest of a message, and for what is sent */
	CONNECT_MS = 60000,           /* to the first process */
	JOINS = 20, JOIN_PAUSE_MS = 50,
	HEARD_MS = 1000,              /* for the first process, when the agent has told the end */
	FOLLOW_MS = 100,
	FAILURE = 125,                /* Docker's own exit code for its own failures */
	MOST_READ = WIRE_MOST - 1024, /* of a file, into one message */
	MOST_LINE = 4096,
	COPIED = 1 << 16,
};

static const char in_container[] = "/run/pbsdock/shim/"; /* where a job's container has this program */
#ifndef DOOR
#define DOOR "/run/pbsdock/door/agent.sock" /* and the agent's socket; a host may have another instance's there */
#endif

extern char **environ;
static const int ends[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU };
static const int passed_on[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, SIGCONT, SIGTSTP, SIGWINCH };
static char agent_path[PATH_MAX];
static struct stream agent = { .fd = -1 };
static int64_t heard_until;           /* when the agent's next message has to have come; 0: any time */

/* The container that this process has started, or runs a command in. */
static struct {
	struct stream first;
	int directory, master, signals;
	char name[ID + 1], *id;
	bool is_over, is_lost, has_terminal, has_proxy, is_left, is_told_again, has_held_key;
	uint32_t kind, number;        /* of its end; kind 0: the first process is gone without a word */
	char step[MOST_REPLY + 1], path[MOST_REPLY + 1];
	struct flow typed, shown;
} child = { .first = { .fd = -1 }, .directory = -1, .master = -1, .typed = { .from = -1, .to = -1 }, .shown = { .from = -1, .to = -1 } };

/* -- this process's own descriptors and its end -- */
static _Noreturn void leave(int code) {
	restore_terminal();
	_exit(code & 0xff);
}

static void end_by(int number) {
	leave(128 + number);
}

/* All of it; false with errno if it could not be. */
static bool write_all(int fd, const char *bytes, size_t length) {
	while (length) {
		ssize_t sent = write(fd, bytes, length);
		if (sent < 0 && errno == EAGAIN)
			poll(&(struct pollfd){ fd, POLLOUT, 0 }, 1, -1);
		else if (sent < 0 && errno != EINTR)
			return false;
		bytes += sent > 0 ? sent : 0;
		length -= sent > 0 ? (size_t)sent : 0;
	}
	return true;
}

/* As Docker's own, which a closed pipe ends. */
static void show(int fd, const char *bytes, size_t length) {
	if (!write_all(fd, bytes, length) && errno == EPIPE)
		end_by(SIGPIPE);
}

/* A line on standard error; whether anybody reads it does not matter. */
static void say(const char *before, const char *text, const char *behind) {
	struct bytes line = { 0 };
	add(&line, before, strlen(before));
	add(&line, text, strlen(text));
	add(&line, behind, strlen(behind));
	add(&line, "\n", 1);
	if (!line.is_lost)
		write_all(2, line.at, line.length);
	let_go(&line);
}

static _Noreturn void fail(const char *sentence) {
	say("docker: ", sentence, "");
	leave(FAILURE);
}

/* -- the agent -- */
static void tell(struct bytes *b, const int *fds, size_t count) {
	if (agent.fd >= 0 && complete(b) && !put(&agent, b, fds, count))
		hang_up(&agent);
	let_go(b);
}

static void tell_done(const char *op) {
	struct bytes b;
	begin(&b, op);
	tell(&b, NULL, 0);
}

static void tell_failed(int error, const char *reason) {
	struct bytes b;
	begin(&b, "failed");
	add_number(&b, "errno", error);
	field(&b, "reason", reason ? reason : strerror(error));
	tell(&b, NULL, 0);
}

static void tell_content(struct bytes *data) {
	struct bytes b;
	begin(&b, "content");
	add_text(&b, "data");
	add(&b, data->at, data->length);
	add(&b, "", 1);
	tell(&b, NULL, 0);
}

static void add_end(struct bytes *b) {
	field(b, "child", child.id);
	if (!child.kind)
		return;
	add_number(b, "kind", child.kind);
	add_number(b, "number", child.number);
	field(b, "step", child.step);
	field(b, "path", child.path);
}

/* The agent's next message; false if it is lost, or takes too long. */
static bool hear_agent(struct message *m, int *fds) {
	int ready;
	do {
		int64_t left = heard_until - now();
		ready = poll(&(struct pollfd){ agent.fd, POLLIN, 0 }, 1, !heard_until ? -1 : left > 0 ? (int)left : 0);
	} while (ready < 0);
	be_patient(&agent, REST_MS);
	if (!ready || !hear(&agent, m, fds, 2)) {
		hang_up(&agent);
		return false;
	}
	return true;
}

/* -- verbs: output, files, questions -- */
static void obey_out(const struct message *m, int *fds) {
	const char *text = value_of(m, "text");
	(void)fds;
	show(number_of(m, "stream", 1) == 2 ? 2 : 1, text, strlen(text));
}

static void obey_notice(const struct message *m, int *fds) {
	(void)fds;
	say("", value_of(m, "sentence"), "");
}

static void obey_waiting(const struct message *m, int *fds) {
	(void)m;
	(void)fds;
}

/* What *fd* has, up to *most* bytes. Returns 0 or an errno, with its reason where it is no call's. */
static int read_text(int fd, size_t most, struct bytes *data, const char **reason) {
	char part[COPIED];
	for (ssize_t got; (got = read(fd, part, sizeof part));) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno;
		add(data, part, (size_t)got);
		if (data->is_lost)
			return ENOMEM;
		*reason = memchr(part, 0, (size_t)got) ? "it holds a NUL" : data->length > most ? "it is too long" : NULL;
		if (*reason)
			return EINVAL;
	}
	return 0;
}

static void obey_read(const struct message *m, int *fds) {
	const char *path = value_of(m, "path"), *reason = NULL;
	long long most = number_of(m, "most", MOST_READ);
	struct bytes data = { 0 };
	int fd = !strcmp(path, "-") ? 0 : open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC), error = errno;
	(void)fds;
	if (fd >= 0)
		error = read_text(fd, most >= 0 && most < MOST_READ ? (size_t)most : MOST_READ, &data, &reason);
	if (error)
		tell_failed(error, reason);
	else
		tell_content(&data);
	if (fd > 0)
		close(fd);
	let_go(&data);
}

/* Into *path* by a new name beside it. */
static bool replace(const char *path, const char *text, mode_t mode) {
	char fresh[PATH_MAX + 16], real[PATH_MAX], *slash;
	if (realpath(path, real))
		path = real; /* a link stays one */
	else if (errno == ENOENT && strlen(path) < sizeof real && (slash = strrchr(strcpy(real, path), '/')) && slash > real) {
		*slash = 0;
		if (mkdir(real, 0700) && errno != EEXIST)
			return false;
	}
	if (snprintf(fresh, sizeof fresh, "%s.XXXXXX", path) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return false;
	}
	int fd = mkostemp(fresh, O_CLOEXEC);
	if (fd < 0)
		return false;
	bool is_whole = write_all(fd, text, strlen(text)) && !fchmod(fd, mode) && !fsync(fd);
	is_whole = !close(fd) && is_whole && !rename(fresh, path);
	int error = errno;
	if (!is_whole)
		unlink(fresh);
	errno = error;
	return is_whole;
}

static bool create(const char *path, const char *text, mode_t mode) {
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOCTTY | O_CLOEXEC, mode);
	if (fd < 0)
		return false;
	bool is_whole = write_all(fd, text, strlen(text));
	is_whole = !close(fd) && is_whole;
	int error = errno;
	if (!is_whole)
		unlink(path);
	errno = error;
	return is_whole;
}

static void obey_write(const struct message *m, int *fds) {
	const char *path = value_of(m, "path"), *text = value_of(m, "text");
	mode_t mode = (mode_t)strtoul(value_of(m, "mode"), NULL, 8) & 0777;
	(void)fds;
	if (!strcmp(value_of(m, "how"), "new") ? create(path, text, mode) : replace(path, text, mode))
		tell_done("done");
	else
		tell_failed(errno, NULL);
}

static void obey_ask(const struct message *m, int *fds) {
	const char *prompt = value_of(m, "prompt");
	struct bytes line = { 0 };
	char byte = 0;
	ssize_t got;
	int to = open("/dev/tty", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	(void)fds;
	bool is_silent = !number_of(m, "echo", 0) && change_terminal(make_silent);
	write_all(to < 0 ? 2 : to, prompt, strlen(prompt));
	while (line.length < MOST_LINE && ((got = read(0, &byte, 1)) == 1 ? byte != '\n' : got < 0 && errno == EINTR))
		if (got == 1 && byte)
			add(&line, &byte, 1);
	if (is_silent)
		write_all(to < 0 ? 2 : to, "\n", 1);
	restore_terminal();
	if (to >= 0)
		close(to);
	if (byte != '\n' && !line.length)
		tell_failed(0, "there was nothing to read");
	else
		tell_content(&line);
	let_go(&line);
}

/* What *fd* has by now. The beginning of a file may have been given back since it was opened: a hole, which would be read as
 * NULs (lseek(2)). */
static void copy_stream(int fd, int to) {
	static char bytes[COPIED];
	for (;;) {
		off_t at = lseek(fd, 0, SEEK_CUR);
		if (at >= 0)
			lseek(fd, at, SEEK_DATA);
		ssize_t got = read(fd, bytes, sizeof bytes);
		if (got > 0)
			show(to, bytes, (size_t)got);
		else if (!got || errno != EINTR)
			return;
	}
}

/* Of descriptors to standard output and error; while it is followed, until the agent says that no more will come. */
static void obey_copy(const struct message *m, int *fds) {
	bool is_followed = number_of(m, "follow", 0) != 0, is_last;
	const char *stream = NULL;
	int to[2] = { 1, 1 };
	for (int i = 0; i < 2 && (stream = next_value(m, "stream", stream)); i++)
		to[i] = !strcmp(stream, "2") ? 2 : 1;
	do {
		is_last = !is_followed;
		if (is_followed && poll(&(struct pollfd){ agent.fd, POLLIN, 0 }, 1, FOLLOW_MS) > 0) {
			struct message more;
			int others[2];
			if (!hear_agent(&more, others)) {
				is_last = true;
			} else {
				is_last = !strcmp(more.text, "over");
				if (!strcmp(more.text, "notice"))
					obey_notice(&more, others);
				for (int i = 0; i < 2; i++)
					if (others[i] >= 0)
						close(others[i]);
				forget(&more);
			}
		}
		for (int i = 0; i < 2; i++)
			if (fds[i] >= 0)
				copy_stream(fds[i], to[i]);
	} while (!is_last);
	tell_done("copied");
}

static void obey_cp(const struct message *m, int *fds) {
	struct copy c = { .root = fds[0], .is_inward = !strcmp(value_of(m, "direction"), "in"), .say = say };
	const char *wrong = copy_tree(&c, value_of(m, "source"), value_of(m, "target"), number_of(m, "link", 0) != 0);
	if (*wrong) {
		tell_failed(c.error, wrong);
	} else {
		struct bytes b;
		begin(&b, "copied");
		add_number(&b, "bytes", c.bytes);
		tell(&b, NULL, 0);
	}
}

/* -- verbs: a container -- */
static bool connect_to_first(void) {
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d/socket", child.directory);
	return connect_to(&child.first, path, CONNECT_MS, false);
}

static void conclude(uint32_t kind, uint32_t number, const char *step, const char *path) {
	child.is_over = true;
	child.kind = kind;
	child.number = number;
	strcpy(child.step, step);
	strcpy(child.path, path);
	hang_up(&child.first);
}

/* The connection broke: asks on another, or takes it that all is over. */
static void join_again(void) {
	hang_up(&child.first);
	for (int attempt = 0; attempt < JOINS; attempt++) {
		if (connect_to_first() && ask_about(&child.first, child.name, JOIN, 0, 0))
			return;
		hang_up(&child.first);
		poll(NULL, 0, JOIN_PAUSE_MS);
	}
	conclude(0, 0, "", "");
}

static void take_master(int master) {
	child.master = master;
	fcntl(master, F_SETFL, O_NONBLOCK);
	child.shown = (struct flow){ .from = master, .to = 1 };
	child.typed.to = master;
	struct winsize size = window();
	ioctl(master, TIOCSWINSZ, &size);
}

static void hear_first(void) {
	struct answer a;
	if (!hear_answer(&child.first, &a))
		return join_again();
	if (a.reply.kind == PID && child.has_terminal && child.master < 0 && child.first.kept_count)
		take_master(child.first.kept[--child.first.kept_count]);
	if (child.first.kept_count)
		return join_again(); /* nobody has asked for that */
	if (a.reply.kind == ENDED || a.reply.kind == FAILED)
		conclude(a.reply.kind, a.reply.number, a.step, a.path);
}

static void take_signals(void) {
	struct signalfd_siginfo info;
	while (read(child.signals, &info, sizeof info) == (ssize_t)sizeof info) {
		int number = (int)info.ssi_signo;
		if (number == SIGWINCH && child.has_terminal) {
			struct winsize size = window();
			if (child.master >= 0)
				ioctl(child.master, TIOCSWINSZ, &size);
		} else if (child.has_proxy) {
			if (child.first.fd >= 0 && !ask_about(&child.first, child.name, SIGNAL, (uint32_t)number, 0))
				hear_first(); /* the end may have come before */
		} else if (number == SIGTSTP) {
			raise(SIGSTOP);
		} else {
			for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
				if (ends[i] == number)
					end_by(number);
		}
	}
}

static void take_typed(void) {
	fill(&child.typed);
	if (is_changed && find_keys(&child.has_held_key, child.typed.bytes, &child.typed.have))
		child.is_left = true;
}

/* The agent's word while a container runs. Returns the exit code that it has told, or -1. */
static int hear_meanwhile(void) {
	struct message m;
	int fds[2], code = -1;
	heard_until = now() + REST_MS;
	if (!hear_agent(&m, fds))
		return -1;
	if (!strcmp(m.text, "notice"))
		obey_notice(&m, fds);
	else if (!strcmp(m.text, "out"))
		obey_out(&m, fds);
	else if (!strcmp(m.text, "exit"))
		code = (int)(number_of(&m, "code", FAILURE) & 0xff);
	else if (!strcmp(m.text, "refused") || !strcmp(m.text, "fault")) {
		say("docker: ", value_of(&m, "sentence"), "");
		code = (int)(number_of(&m, "status", FAILURE) & 0xff);
	}
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	forget(&m);
	return code;
}

/* Until the container is over, or its terminal was left. */
static void wait_for_child(void) {
	int code = -1;
	int64_t until = 0;
	while (!child.is_over && !child.is_left) {
		struct pollfd watched[7] = { { child.signals, POLLIN, 0 }, { child.first.fd, POLLIN, 0 }, { agent.fd, POLLIN, 0 } };
		watched[3] = source_of(&child.typed);
		watched[4] = sink_of(&child.typed);
		watched[5] = source_of(&child.shown);
		watched[6] = sink_of(&child.shown);
		if (child.typed.to < 0)
			watched[3].fd = -1; /* there is no terminal yet */
		if (code >= 0 && now() >= until)
			leave(code);
		if (poll(watched, 7, code >= 0 ? HEARD_MS : -1) < 0)
			continue;
		if (watched[0].revents)
			take_signals();
		if (watched[1].revents && child.first.fd >= 0)
			hear_first();
		if (watched[2].revents && agent.fd >= 0 && code < 0 && (code = hear_meanwhile()) >= 0)
			until = now() + HEARD_MS;
		if (watched[3].revents)
			take_typed();
		if (watched[4].revents)
			empty(&child.typed);
		if (watched[5].revents)
			fill(&child.shown);
		if (watched[6].revents)
			empty(&child.shown);
	}
	if (code >= 0)
		leave(code);
}

/* What the container's terminal still has. */
static void drain(void) {
	do
		if (child.shown.have && child.shown.to >= 0)
			write_all(child.shown.to, child.shown.bytes + child.shown.at, child.shown.have);
	while (child.shown.from >= 0 && (fill(&child.shown), child.shown.have));
}

/* As the container ended, without the agent. */
static _Noreturn void leave_by_itself(void) {
	int error = (int)child.number, code = FAILURE, signal_of = error & 0x7f;
	if (child.kind == ENDED)
		leave(signal_of ? 128 + signal_of : error >> 8);
	if (child.kind == FAILED) {
		char why[2 * (MOST_REPLY + 1) + 128];
		snprintf(why, sizeof why, "%s%s%s: %s", child.step, *child.path ? " " : "", child.path, strerror(error));
		say("docker: the command was not started: ", why, "");
		if (!strcmp(child.step, "execve"))
			code = error == ENOENT ? 127 : 126;
		leave(code);
	}
	fail("the pbsdock agent on this node and the container are gone; how it ended is unknown");
}

/* The agent was lost: the next one is told, and may say more of the end. */
static void tell_next_agent(void) {
	if (!child.is_over || child.is_told_again)
		return;
	child.is_told_again = true;
	heard_until = now() + AGENT_AWAY_MS;
	while (agent.fd < 0 && now() < heard_until)
		if (connect_to(&agent, agent_path, AGENT_AWAY_MS, false)) {
			struct bytes b;
			begin(&b, "docker-over");
			add_end(&b);
			tell(&b, NULL, 0);
		} else {
			poll(NULL, 0, JOIN_PAUSE_MS);
		}
}

/* Returns "" or why nothing could be started. */
static const char *start(const struct message *m, char *why, size_t room) {
	bool has_input = number_of(m, "stdin", 0) != 0;
	struct winsize size = window();
	struct head head = { .flags = number_of(m, "leader", 0) ? LEADER : 0, .window = { size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel } };
	struct bytes request;
	int fds[3] = { 0, 1, 2 };
	head.umask = umask(077);
	umask((mode_t)head.umask);
	head.umask = (uint32_t)number_of(m, "umask", head.umask);
	head.flags |= child.has_terminal ? TERMINAL : 0;
	if (head.umask > 0777) {
		snprintf(why, room, "its umask is %#o; at most 0777 is one", head.umask);
		return why;
	}
	if (!connect_to_first())
		return strerror(errno);
	const char *wrong = compose_run(m, &head, &request, why, room);
	if (!*wrong) {
		strcpy(child.name, value_of(m, "name")); /* is_id: it fits */
		if (!has_input && !child.has_terminal)
			fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (fds[0] < 0 || !put(&child.first, &request, fds, child.has_terminal ? 0 : 3))
			wrong = strerror(errno);
		if (fds[0] > 0)
			close(fds[0]);
	}
	let_go(&request);
	if (!*wrong && has_input && child.has_terminal) {
		change_terminal(cfmakeraw);
		child.typed.from = 0;
	}
	return wrong;
}

static void obey_started(const struct message *m, int *fds) {
	char why[256];
	sigset_t watched, before;
	if (child.directory >= 0 || fds[0] < 0 || !next_value(m, "argv", NULL))
		fail("the agent gave an answer that cannot be understood");
	child.directory = fds[0];
	fds[0] = -1;
	child.has_terminal = number_of(m, "terminal", 0) != 0;
	child.has_proxy = number_of(m, "proxy", 1) != 0;
	child.id = strdup(*value_of(m, "child") ? value_of(m, "child") : value_of(m, "name"));
	sigemptyset(&watched);
	for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++)
		sigaddset(&watched, passed_on[i]);
	sigprocmask(SIG_BLOCK, &watched, &before);
	child.signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
	const char *wrong = child.id && child.signals >= 0 ? start(m, why, sizeof why) : strerror(errno);
	if (*wrong) {
		say("docker: the container was not started: ", wrong, "");
		leave(FAILURE);
	}
	wait_for_child();
	if (!child.is_left)
		drain();
	restore_terminal();
	struct bytes b;
	begin(&b, child.is_left ? "left" : "over");
	add_end(&b);
	tell(&b, &child.master, child.is_left && child.master >= 0);
	if (child.is_left)
		hang_up(&child.first); /* the end is the agent's to learn */
	sigprocmask(SIG_SETMASK, &before, NULL);
	heard_until = now() + AGENT_AT_WORK_MS;
}

/* -- verbs: the end -- */
static void obey_refused(const struct message *m, int *fds) {
	(void)fds;
	say("docker: ", value_of(m, "sentence"), "");
	leave((int)number_of(m, "status", FAILURE));
}

static void obey_exit(const struct message *m, int *fds) {
	(void)fds;
	leave((int)number_of(m, "code", FAILURE));
}

static const struct verb {
	const char *op;
	void (*obey)(const struct message *, int *);
} verbs[] = {
	{ "out", obey_out },
	{ "notice", obey_notice },
	{ "waiting", obey_waiting },
	{ "read", obey_read },
	{ "write", obey_write },
	{ "ask", obey_ask },
	{ "copy", obey_copy },
	{ "cp", obey_cp },
	{ "started", obey_started },
	{ "refused", obey_refused },
	{ "fault", obey_refused },
	{ "exit", obey_exit },
};

static void obey(const struct message *m, int *fds) {
	for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
		if (!strcmp(verbs[i].op, m->text))
			return verbs[i].obey(m, fds);
	fail("the agent gave an answer that cannot be understood");
}

/* -- from the call to the end -- */
/* Where the agent listens, which root has made known: beside this program, or by a place of its own in a job's container. */
static void find_agent(void) {
	char path[PATH_MAX + 16];
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
	path[length > 0 ? length : 0] = 0;
	if (!strncmp(path, in_container, sizeof in_container - 1)) {
		strcpy(agent_path, DOOR);
		return;
	}
	char *slash = strrchr(path, '/');
	strcpy(slash ? slash + 1 : path, "agent.path");
	int fd = slash ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0 && read(fd, agent_path, sizeof agent_path - 1) > 0)
		agent_path[strcspn(agent_path, "\n")] = 0;
	else if (!access(DOOR, F_OK))
		strcpy(agent_path, DOOR);
	else
		fail("there is no pbsdock agent here: this docker works in jobs only");
	if (fd >= 0)
		close(fd);
}

static void ask(char **argv) {
	struct bytes b;
	char cwd[PATH_MAX], place[2] = "0";
	struct winsize size = window();
	mode_t mask = umask(077);
	umask(mask);
	begin(&b, "docker");
	if (*argv)
		field(&b, "called", *argv++);
	for (char **at = argv; *at; at++)
		field(&b, "argv", *at);
	for (char **at = environ; *at; at++)
		if (strchr(*at, '='))
			field(&b, "env", *at);
	field(&b, "cwd", getcwd(cwd, sizeof cwd) && *cwd == '/' ? cwd : "");
	add_number(&b, "umask", mask);
	for (int fd = 0; fd < 3; fd++, place[0]++)
		if (isatty(fd))
			field(&b, "tty", place);
	add_number(&b, "rows", size.ws_row);
	add_number(&b, "columns", size.ws_col);
	tell(&b, NULL, 0);
}

static void watch_signals(void) {
	sigset_t unstopped;
	struct sigaction before, action = { .sa_handler = end_by };
	sigfillset(&action.sa_mask);
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
		if (!sigaction(ends[i], NULL, &before) && before.sa_handler != SIG_IGN) /* nohup(1) */
			sigaction(ends[i], &action, NULL);
	signal(SIGPIPE, SIG_IGN); /* what write(2) says is enough */
	signal(SIGXFSZ, SIG_IGN);
	sigemptyset(&unstopped);
	sigaddset(&unstopped, SIGTTOU); /* the terminal is given back even from the background */
	sigprocmask(SIG_BLOCK, &unstopped, NULL);
}

/* The agent does not answer, or is gone. */
static _Noreturn void leave_alone(bool has_answered) {
	if (child.is_over)
		leave_by_itself();
	if (child.is_left)
		leave(0);
	fail(has_answered ? "the pbsdock agent on this node is gone" : "the pbsdock agent on this node did not answer");
}

/* One that has just been started, by the hook before the job, may be on its way. */
static void connect_to_agent(void) {
	int64_t until = now() + ANSWER_MS;
	while (!connect_to(&agent, agent_path, ANSWER_MS, false) && (errno == ENOENT || errno == ECONNREFUSED) && now() < until)
		poll(NULL, 0, JOIN_PAUSE_MS);
}

int main(int count, char **argv) {
	(void)count;
	struct stat about_it;
	struct message m;
	int fds[2];
	for (int fd = 0; fd < 3; fd++)
		if (fstat(fd, &about_it))
			open("/dev/null", O_RDWR); /* the lowest that is free: none of ours comes in its place */
	watch_signals();
	find_agent();
	connect_to_agent();
	heard_until = now() + ANSWER_MS;
	if (agent.fd >= 0)
		ask(argv);
	for (bool has_answered = false;; has_answered = true) {
		if (agent.fd < 0 || !hear_agent(&m, fds)) {
			tell_next_agent();
			if (agent.fd < 0 || !hear_agent(&m, fds))
				leave_alone(has_answered);
		}
		if (!child.is_over && !child.is_left)
			heard_until = 0;
		obey(&m, fds);
		for (int i = 0; i < 2; i++)
			if (fds[i] >= 0)
				close(fds[i]);
		forget(&m);
	}
}
