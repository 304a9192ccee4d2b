/* pbsdock-init: process 1 of a job's container. Runs as the job's user, without any capability.
 *
 *   pbsdock-init DIRECTORY [GRACE_MS]
 *
 * Listens on DIRECTORY/socket (message.h) and runs nothing until root has opened the gate. Then the job's owner and root may
 * have programs run with descriptors, arguments, environment, directory, umask and limits of their own, and learn how they
 * ended. When the leader has ended, all else is killed (if a signal did it, a moment later, and GRACE_MS later if that was
 * SIGTERM) and this process exits as it did.
 *
 * DIRECTORY/ID.status is written before ENDED or FAILED is sent: "ended STATUS\n" or "failed STEP ERRNO PATH\n".
 * Nothing is allocated but a request's texts while they come in, and by a child the pointers that its execve needs. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "message.h"
#include "session.h"

enum {
	CLIENTS = 1024,               /* a task keeps its connection */
	FOR_ROOT = 16,                /* more, which the owner cannot take */
	TASKS = 1024,                 /* running; and ended, as long as no other needs the place */
	ALL_TEXTS = 64 << 20,         /* of all the owner's unfinished requests */
	MOMENT_MS = 200,              /* about as long as pbs_mom takes to find that a job's shell is gone */
	MOST_FDS = 4,                 /* of a request */
	PATIENCE_MS = 10000,          /* for a message, and from an answer to the next message */
};

struct client {
	int fd, task, fds[MOST_FDS], fd_count;
	uint32_t have;                /* of the head and then of the texts */
	bool is_root;
	int64_t deadline;             /* 0: none */
	struct head head;
	char *texts;
};
struct task {
	enum { FREE, RUNNING, OVER } state;
	pid_t pid;
	int status, gate;             /* gate: a byte into it lets the task go on, 0: it is not held */
	uint32_t flags, order;        /* order: of their ends */
	char id[ID + 1];
};
struct fault { const char *step; int error; char path[PATH + 1]; }; /* the step is a literal: one program before execve */

static struct client clients[CLIENTS + FOR_ROOT];
static struct pollfd polled[2 + CLIENTS + FOR_ROOT];
static struct task tasks[TASKS];
static struct fault *faults; /* what a task's child could not do: shared with it until it has become the program */
static int client_count, listener, signals, directory, leader = -1;
static DIR *processes;
static bool is_open;
static uint32_t all_texts, ends, holds;
static int64_t accept_after, grace, over_at;
static struct rlimit descriptors;

/* -- connections: letting go, answering -- */
static void forget_message(struct client *c) {
	while (c->fd_count)
		close(c->fds[--c->fd_count]);
	if (c->texts) {
		munmap(c->texts, c->head.length + 1);
		all_texts -= c->is_root ? 0 : c->head.length;
	}
	c->texts = NULL;
	c->have = 0;
}

static void drop(struct client *c) {
	forget_message(c);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1; /* the place is given away when the round is over */
}

/* Whoever does not read the little there is to read is dropped: nobody waits for a client. */
static void answer(struct client *c, uint32_t kind, uint32_t number, const char *step, const char *path) {
	char message[2 * (PATH + 1)];
	size_t length = compose(message, kind, number, step, path);
	if (send(c->fd, message, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length)
		drop(c);
}

static void refuse(struct client *c, const char *step, int error) {
	answer(c, FAILED, (uint32_t)error, step, "");
}

/* -- the child's side -- */
/* All that can be set. Returns the number of the first that cannot, with its errno, else LIMITS. */
static uint32_t set_limits(const struct head *h) {
	uint32_t unset = LIMITS;
	for (uint32_t i = LIMITS; i--;)
		if (h->limited >> i & 1 && syscall(SYS_prlimit64, 0, i, h->limits[i], NULL))
			unset = i;
	return unset;
}

static _Noreturn void give_up(struct fault *fault, const char *step, const char *path) {
	fault->error = errno;
	strncpy(fault->path, path, PATH);
	fault->step = step;
	_exit(fault->error == ENOENT ? 127 : 126);
}

static int make_terminal(const uint16_t *window, struct fault *fault, int *fds) {
	int unlocked = 0, master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct winsize size = { window[0], window[1], window[2], window[3] };
	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) || ioctl(master, TIOCSWINSZ, &size))
		give_up(fault, "terminal", "/dev/ptmx");
	fds[0] = fds[1] = fds[2] = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	return master;
}

/* The child itself says it: the kernel adds the sender's pid, translated, and nobody may name another's. */
static void tell_pid(int connection, int master, struct fault *fault) {
	char message[sizeof(struct reply)];
	struct iovec part = { message, compose(message, PID, (uint32_t)getpid(), NULL, NULL) };
	union { char space[CMSG_SPACE(sizeof master)]; struct cmsghdr item; } control = { { 0 } };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };
	if (master >= 0) {
		control.item = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof master), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.item), &master, sizeof master);
		m.msg_control = &control;
		m.msg_controllen = sizeof control.space;
	}
	if (sendmsg(connection, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && master >= 0)
		give_up(fault, "terminal", ""); /* nobody has its other end; without this answer all else can run */
}

/* Signals are blocked, but for the one that nobody can block. */
static void wait_at(const int *gate, struct fault *fault) {
	char go;
	ssize_t got;
	close(gate[1]);
	do
		got = read(gate[0], &go, 1);
	while (got < 0 && errno == EINTR);
	errno = EPERM;
	if (got != 1)
		give_up(fault, "gate", "");
}

static _Noreturn void become(const struct client *c, const int *gate, struct fault *fault) {
	const struct head *h = &c->head;
	uint32_t count = count_texts(c->texts, h->length), place = 0;
	int master = -1, fds[3] = { c->fds[0], c->fds[1], c->fds[2] }, another = h->flags & ANOTHER ? c->fds[c->fd_count - 1] : -1;
	sigset_t none;
	char **texts = mmap(NULL, (count + 2) * sizeof *texts, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (texts == MAP_FAILED)
		give_up(fault, "memory", "");
	for (char *at = c->texts; at < c->texts + h->length; at += strlen(at) + 1) {
		texts[place++] = at;
		place += place == 3 + h->arguments; /* a null pointer ends the arguments */
	}
	if (h->flags & SESSION ? setsid() < 0 : setpgid(0, 0) < 0)
		give_up(fault, "session", "");
	if (h->flags & TERMINAL)
		master = make_terminal(h->window, fault, fds);
	for (int i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0)
			give_up(fault, "descriptors", "");
	if (another >= 0 && ((another != 3 && dup2(another, 3) < 0) || fcntl(3, F_SETFD, 0))) /* so far process 1's own */
		give_up(fault, "descriptors", "");
	if (h->flags & (TERMINAL | CONTROL) && ioctl(0, TIOCSCTTY, 0))
		give_up(fault, "terminal", "");
	umask((mode_t)h->umask);
	if (chdir(texts[1]))
		give_up(fault, "chdir", texts[1]);
	setrlimit(RLIMIT_NOFILE, &descriptors); /* as this process was given it, if the request does not say otherwise */
	uint32_t unset = set_limits(h);
	if (unset < LIMITS) {
		char name[16];
		snprintf(name, sizeof name, "%u", unset);
		give_up(fault, "setrlimit", name);
	}
	tell_pid(c->fd, master, fault);
	if (gate[0])
		wait_at(gate, fault);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	syscall(SYS_close_range, another < 0 ? 3U : 4U, ~0U, 0U); /* before Linux 5.9: all that this process opened is close-on-exec */
	char *program = *texts[2] ? texts[2] : texts[3];
	environ = texts + 4 + h->arguments; /* its PATH is what counts */
	if (h->flags & SEARCH)
		execvp(program, texts + 3);
	else
		execve(program, texts + 3, environ);
	give_up(fault, "execve", program);
}

/* -- tasks -- */
static int find(const char *id) {
	int task = TASKS;
	while (task-- && (tasks[task].state == FREE || strcmp(tasks[task].id, id)))
		;
	return task;
}

/* A place for one more, at the cost of the one that ended first; -1 if all are running. */
static int find_place(void) {
	int best = -1;
	for (int i = 0; i < TASKS; i++) {
		if (tasks[i].state == FREE)
			return i;
		if (tasks[i].state == OVER && i != leader && (best < 0 || tasks[i].order < tasks[best].order))
			best = i;
	}
	return best;
}

static void save(const struct task *t, const struct fault *fault) {
	char text[2 * (PATH + 1)], name[ID + 8];
	int length = fault->step ? snprintf(text, sizeof text, "failed %s %d %s\n", fault->step, fault->error, fault->path)
				 : snprintf(text, sizeof text, "ended %d\n", t->status);
	snprintf(name, sizeof name, "%s.status", t->id);
	unlinkat(directory, ".new", 0);
	int fd = openat(directory, ".new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	bool is_whole = write(fd, text, (size_t)length) == length;
	close(fd);
	if (is_whole) /* else the directory is full: the end is sent all the same, and kept for those who join */
		renameat(directory, ".new", directory, name);
}

static void tell_end(struct client *c, int task) {
	const struct fault *fault = &faults[task];
	c->task = -1;
	c->deadline = now() + PATIENCE_MS;
	if (fault->step)
		answer(c, FAILED, (uint32_t)fault->error, fault->step, fault->path);
	else
		answer(c, ENDED, (uint32_t)tasks[task].status, NULL, NULL);
}

/* Milliseconds for what a leader with this wait status has left: the signal may have gone to all of its session. */
static int64_t spared(int status) {
	int number = status & 127;
	if (number == SIGTERM)
		return grace;
	return number && number != SIGKILL && grace > MOMENT_MS ? MOMENT_MS : 0;
}

static void close_gate(struct task *t) {
	if (t->gate)
		close(t->gate);
	t->gate = 0;
}

/* Returns whether there are children left. */
static bool reap(void) {
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		int task = TASKS;
		while (task-- && (tasks[task].state != RUNNING || tasks[task].pid != pid))
			;
		if (task < 0)
			continue; /* somebody's orphan */
		close_gate(&tasks[task]);
		tasks[task].state = OVER;
		tasks[task].status = status;
		tasks[task].order = ++ends;
		save(&tasks[task], &faults[task]);
		for (int i = 0; i < client_count; i++)
			if (clients[i].fd >= 0 && clients[i].task == task)
				tell_end(&clients[i], task);
		if (task == leader)
			over_at = now() + spared(status);
	}
	return !pid;
}

static void run(struct client *c) {
	char name[ID + 8];
	int gate[2] = { 0, 0 };
	snprintf(name, sizeof name, "%s.status", c->texts);
	if (!is_open)
		return refuse(c, "gate", EACCES);
	if (over_at || c->task >= 0)
		return refuse(c, "busy", EBUSY);
	if (c->fd_count != (c->head.flags & TERMINAL ? 0 : 3) + !!(c->head.flags & ANOTHER))
		return refuse(c, "descriptors", EBADF);
	if (find(c->texts) >= 0 || !faccessat(directory, name, F_OK, 0))
		return refuse(c, "id", EEXIST); /* what is asked for twice runs once */
	if (c->head.flags & LEADER && leader >= 0)
		return refuse(c, "leader", EEXIST);
	int task = find_place();
	if (task < 0)
		return refuse(c, "busy", EAGAIN);
	if (holds > (c->head.flags & LEADER ? HOLD_TASKS : HOLD_NONE) && pipe2(gate, O_CLOEXEC))
		return refuse(c, "descriptors", errno);
	faults[task].step = NULL;
	pid_t pid = fork();
	int error = errno;
	if (!pid)
		become(c, gate, &faults[task]);
	if (gate[0])
		close(gate[0]);
	tasks[task] = (struct task){ .state = pid < 0 ? FREE : RUNNING, .pid = pid, .gate = gate[1], .flags = c->head.flags };
	if (pid < 0) {
		close_gate(&tasks[task]);
		return refuse(c, "fork", error);
	}
	strcpy(tasks[task].id, c->texts); /* is_id: it fits */
	c->task = task;
	if (c->head.flags & LEADER)
		leader = task;
}

static void join(struct client *c) {
	int task = find(c->texts);
	if (task < 0)
		return refuse(c, "id", ESRCH);
	if (tasks[task].state == OVER)
		return tell_end(c, task);
	for (int i = 0; i < client_count; i++)
		if (clients[i].task == task)
			clients[i].task = -1; /* the newest connection has it */
	c->task = task;
	answer(c, PID, (uint32_t)tasks[task].pid, NULL, NULL);
}

static void pass_on(struct client *c) {
	int task = find(c->texts), which = (int)c->head.number;
	if (task < 0 || tasks[task].state != RUNNING)
		return refuse(c, "id", ESRCH); /* its number may be another's by now */
	pid_t pid = tasks[task].pid;
	if (c->head.flags & LEADER)
		return answer(c, DONE, !kill(pid, which), NULL, NULL);
	answer(c, DONE, tasks[task].flags & SESSION ? signal_session(processes, pid, which) : !kill(-pid, which), NULL, NULL);
}

/* By its pid as well: what root has moved is what goes on. */
static void let_go(struct client *c) {
	int task = find(c->texts);
	if (task < 0 || tasks[task].state != RUNNING || !tasks[task].gate || (uint32_t)tasks[task].pid != c->head.number)
		return refuse(c, "id", ESRCH);
	bool is_told = write(tasks[task].gate, "", 1) == 1;
	close_gate(&tasks[task]);
	answer(c, DONE, is_told, NULL, NULL);
}

/* -- connections -- */
static void handle(struct client *c) {
	if (!is_request(&c->head, c->texts)) {
		refuse(c, "request", EINVAL);
	} else if (c->head.kind == RUN) {
		run(c);
	} else if (c->head.kind == JOIN) {
		join(c);
	} else if (c->head.kind == SIGNAL) {
		pass_on(c);
	} else if (c->is_root && c->head.kind == GO) {
		let_go(c);
	} else if (c->is_root) {
		set_limits(&c->head); /* nothing in here gets more than the job; what cannot be set is lower already */
		holds = c->head.number;
		is_open = true;
		answer(c, DONE, 0, NULL, NULL);
	} else {
		refuse(c, "gate", EPERM);
	}
	if (c->fd >= 0)
		forget_message(c);
	c->deadline = c->task >= 0 ? 0 : now() + PATIENCE_MS;
}

/* For the texts that a head announces; a client that cannot have it is dropped with a word. */
static void make_room(struct client *c) {
	uint32_t length = c->head.length;
	bool has_room = length <= TEXTS && (c->is_root || length <= ALL_TEXTS - all_texts);
	void *made = MAP_FAILED;
	c->have = 0;
	if (has_room)
		made = mmap(NULL, length + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (made != MAP_FAILED) {
		c->texts = made;
		all_texts += c->is_root ? 0 : length;
		return;
	}
	refuse(c, "request", length > TEXTS ? E2BIG : ENOMEM);
	drop(c);
}

/* Takes what has come, but never past a message's end: descriptors belong to the message they came with. */
static void serve(struct client *c) {
	for (int turn = 0; turn < 16 && c->fd >= 0; turn++) {
		union { char space[CMSG_SPACE(MOST_FDS * sizeof(int))]; struct cmsghdr item; } control = { { 0 } };
		struct iovec part = { (char *)&c->head + c->have, sizeof c->head - c->have };
		if (c->texts)
			part = (struct iovec){ c->texts + c->have, c->head.length - c->have };
		struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control };
		m.msg_controllen = CMSG_LEN(MOST_FDS * sizeof(int)); /* not its whole space, which may have room for more */
		ssize_t got = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		int fds[MOST_FDS], count = 0;
		if (got >= 0 && m.msg_controllen && control.item.cmsg_type == SCM_RIGHTS)
			count = (int)((control.item.cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(&control.item), (size_t)count * sizeof(int));
		for (int i = 0; i < count; i++)
			if (c->fd_count < MOST_FDS)
				c->fds[c->fd_count++] = fds[i];
			else
				got = -close(fds[i]); /* more than there can be */
		if (got <= 0 || m.msg_flags & MSG_CTRUNC)
			return drop(c);
		if (!c->texts && !c->have)
			c->deadline = now() + PATIENCE_MS;
		c->have += (uint32_t)got;
		if (!c->texts && c->have == sizeof c->head)
			make_room(c);
		if (c->fd >= 0 && c->texts && c->have == c->head.length)
			handle(c);
	}
}

static void welcome(void) {
	for (int turn = 0; turn < 64; turn++) {
		struct ucred peer = { 0, (uid_t)-1, (gid_t)-1 };
		socklen_t length = sizeof peer;
		struct client new = { .fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), .task = -1 };
		if (new.fd < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				accept_after = now() + 100; /* no descriptor is free */
			return;
		}
		if (getsockopt(new.fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) || (peer.uid && peer.uid != getuid())) {
			drop(&new);
			continue;
		}
		new.is_root = !peer.uid;
		new.deadline = now() + PATIENCE_MS;
		if (client_count < CLIENTS + (new.is_root ? FOR_ROOT : 0)) {
			clients[client_count++] = new;
			continue;
		}
		refuse(&new, "busy", EAGAIN);
		drop(&new);
	}
}

/* -- the process -- */
static _Noreturn void leave(void) {
	int64_t until = now() + 5000; /* what the kernel holds longer, it kills itself when this process is gone */
	do
		kill(-1, SIGKILL);
	while (reap() && now() < until && !poll(NULL, 0, 1));
	int status = tasks[leader].status;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void take_signals(void) {
	struct signalfd_siginfo info;
	while (read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo != SIGTERM || info.ssi_pid)
			continue; /* from in here: somebody's mistake */
		if (leader < 0)
			_exit(128 + SIGTERM); /* the engine's stop */
		signal_session(processes, tasks[leader].pid, SIGTERM);
	}
	reap();
}

static void one_round(void) {
	int64_t next = accept_after && (!over_at || accept_after < over_at) ? accept_after : over_at;
	polled[0] = (struct pollfd){ signals, POLLIN, 0 };
	polled[1] = (struct pollfd){ accept_after ? -1 : listener, POLLIN, 0 };
	for (int i = 0; i < client_count; i++) {
		polled[2 + i] = (struct pollfd){ clients[i].fd, POLLIN, 0 };
		if (clients[i].deadline && (!next || clients[i].deadline < next))
			next = clients[i].deadline;
	}
	int64_t left = next - now();
	if (poll(polled, 2 + (nfds_t)client_count, !next ? -1 : left > 0 ? (int)left : 0) < 0)
		return;
	if (polled[0].revents)
		take_signals();
	int64_t at = now();
	for (int i = 0; i < client_count; i++) {
		if (clients[i].fd >= 0 && polled[2 + i].revents)
			serve(&clients[i]);
		if (clients[i].fd >= 0 && clients[i].deadline && clients[i].deadline <= at)
			drop(&clients[i]);
	}
	for (int i = client_count; i--;)
		if (clients[i].fd < 0)
			clients[i] = clients[--client_count];
	if (accept_after <= at)
		accept_after = 0;
	if (polled[1].revents)
		welcome();
	if (over_at && (over_at <= now() || !reap())) /* nobody left: nothing to wait for */
		leave();
}

static _Noreturn void stop(const char *what, const char *which) {
	fprintf(stderr, "pbsdock-init: %s %s: %s\n", what, which, strerror(errno));
	_exit(125);
}

static void start(const char *where) {
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	sigset_t set;
	for (int fd = 0; fd >= 0 && fd <= 2; fd = open("/dev/null", O_RDWR))
		; /* 0, 1 and 2 exist: none that is received is one of them */
	syscall(SYS_close_range, 3U, ~0U, 0U);
	for (int i = 1; i <= 64; i++)
		syscall(SYS_rt_sigaction, i, (unsigned long[4]){ 0 }, NULL, 8UL); /* libc leaves 32 and 33 as they came */
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL); /* inside nobody can end a process 1 anyway; outside there is SIGKILL */
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	if ((signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
		stop("cannot watch", "signals");
	if (!(processes = opendir("/proc")))
		stop("cannot open", "/proc");
	getrlimit(RLIMIT_NOFILE, &descriptors);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ descriptors.rlim_max, descriptors.rlim_max });
	faults = mmap(NULL, TASKS * sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (faults == MAP_FAILED)
		stop("cannot have memory for", "tasks");
	umask(0177);
	if ((directory = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		stop("cannot open", where);
	errno = ENAMETOOLONG;
	if (snprintf(name.sun_path, sizeof name.sun_path, "%s/socket", where) >= (int)sizeof name.sun_path)
		stop("cannot listen in", where);
	unlinkat(directory, "socket", 0);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&name, sizeof name) || listen(listener, 4096))
		stop("cannot listen in", where);
	if (chdir("/"))
		stop("cannot enter", "/");
}

int main(int argc, char **argv) {
	if (argc < 2 || argc > 3 || getpid() != 1) { /* it kills all processes that it can see */
		fprintf(stderr, "usage, as process 1 of a container: pbsdock-init DIRECTORY [GRACE_MS]\n");
		return 125;
	}
	prctl(PR_SET_DUMPABLE, 0); /* its owner's processes outside look at no file here by /proc/1/root: root has not mounted it nodev yet */
	grace = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
	start(argv[1]);
	for (;;)
		one_round();
}
