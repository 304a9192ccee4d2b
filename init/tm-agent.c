/* tm-agent: what MPI launchers take for a remote shell, in the containers of a job of several nodes.
 *
 *   tm-agent [options of ssh] HOST COMMAND…
 *
 * Has pbs_mom start COMMAND, as a shell reads it, on that node of the job (TM, the task manager's protocol of Torque 4 to 6),
 * hands on its output and exits as it did. Called pbsdsh it is that program of mom's own installation, with the job's ticket
 * added to what travels with the tasks. One static program, so that it runs in every image. Runs as the job's user.
 *
 * The protocol is that of Torque's src/lib/Libifl/tm.c: a connection to mom at 127.0.0.1:PBS_MOMPORT, requests and answers of
 * integers and strings as src/lib/Libdis has them, readable text. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TOOLS "/run/pbsdock/tools"
#define TICKET "PBSDOCK_TICKET"

enum {
	PROTOCOL = 5, VERSION = 2,    /* net_connect.h */
	INIT = 100, SPAWN = 102, SIGNAL = 103, OBIT = 104, FAILED = 999, /* tm_.h */
	FAULT = 255,                  /* as ssh ends where the command could not be run */
	NODES = 65536, LINE = 256,
	SILENCE_MS = 200,             /* of output that others hold open after the command's end */
	PATIENCE_S = 60,              /* for a mom that is restarted */
};
enum { INIT_EVENT = 1, SPAWN_EVENT, OBIT_EVENT, SIGNAL_EVENT };

static const char *me = "tm-agent";
static int mom = -1, node_count, nodes[NODES];
static char out[65536], in[4096];
static size_t out_length, in_at, in_length;
static volatile sig_atomic_t caught;

static void say(const char *format, ...) {
	va_list rest;
	va_start(rest, format);
	fprintf(stderr, "%s: ", me);
	vfprintf(stderr, format, rest);
	fputc('\n', stderr);
	va_end(rest);
}
_Noreturn static void fail(const char *format, ...) {
	va_list rest;
	va_start(rest, format);
	fprintf(stderr, "%s: ", me);
	vfprintf(stderr, format, rest);
	fputc('\n', stderr);
	va_end(rest);
	exit(FAULT);
}
static const char *variable(const char *name) {
	const char *value = getenv(name);
	if (!value || !*value)
		fail("%s is not set: this is no process of a job's first node", name);
	return value;
}

/* -- integers and strings on the wire -- */
static void put(const char *bytes, size_t length) {
	if (length > sizeof(out) - out_length)
		fail("the command is longer than %zu bytes", sizeof(out) - 4096);
	memcpy(out + out_length, bytes, length);
	out_length += length;
}
/* +5, 2+15, 211+12345678901: sign and digits, before them how many digits, before that how many of those, until it is one. */
static void put_number(long value) {
	char text[64];
	int at = sizeof(text), digits = 0;
	unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;
	char sign = value < 0 ? '-' : '+';
	for (;;) {
		digits = 0;
		do {
			text[--at] = (char)('0' + rest % 10);
			digits++;
		} while (rest /= 10);
		if (sign)
			text[--at] = sign;
		sign = 0;
		if (digits == 1)
			break;
		rest = (unsigned long)digits;
	}
	put(text + at, sizeof(text) - (size_t)at);
}
static void put_text(const char *text) {
	put_number((long)strlen(text));
	put(text, strlen(text));
}
static void put_head(int request, int event) {
	put_number(PROTOCOL);
	put_number(VERSION);
	put_text(variable("PBS_JOBID"));
	put_text(variable("PBS_JOBCOOKIE"));
	put_number(request);
	put_number(event);
	put_number(atol(variable("PBS_TASKNUM")));
}
static bool flush_out(void) {
	size_t sent = 0;
	while (sent < out_length) {
		ssize_t n = send(mom, out + sent, out_length - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	bool is_sent = sent == out_length;
	out_length = 0;
	return is_sent;
}
static int next_byte(void) {
	while (in_at == in_length) {
		ssize_t n = recv(mom, in, sizeof(in), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		in_at = 0;
		in_length = (size_t)n;
	}
	return (unsigned char)in[in_at++];
}
static bool get_digits(long count, long first, long *value) {
	for (*value = first; count > 0; count--) {
		int c = next_byte();
		if (c < '0' || c > '9' || *value > 100000000000000000)
			return false;
		*value = *value * 10 + c - '0';
	}
	return true;
}
static bool get_number(long *value) {
	for (long count = 1; count > 0 && count < 19;) {
		int c = next_byte();
		if (c == '+' || c == '-') {
			bool is_read = get_digits(count, 0, value);
			*value = c == '-' ? -*value : *value;
			return is_read;
		}
		if (c < '0' || c > '9' || !get_digits(count - 1, c - '0', &count))
			return false;
	}
	return false;
}
static bool skip_text(void) {
	long length;
	if (!get_number(&length) || length < 0)
		return false;
	while (length-- > 0)
		if (next_byte() < 0)
			return false;
	return true;
}
/* An answer's head; *failed is TM's number of what went wrong, or 0. */
static bool get_head(long *event, long *failed) {
	long protocol, version, kind;
	*failed = 0;
	if (!get_number(&protocol) || !get_number(&version) || !get_number(&kind) || !get_number(event))
		return false;
	if (protocol != PROTOCOL || version != VERSION)
		fail("pbs_mom speaks another version of the task manager's protocol (%ld.%ld); use pbsdsh", protocol, version);
	return kind != FAILED || get_number(failed);
}

/* -- mom -- */
static bool connect_to_mom(void) {
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(variable("PBS_MOMPORT"))),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	long event, failed, count, number;
	if (mom >= 0)
		close(mom);
	in_at = in_length = out_length = 0;
	mom = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (mom < 0 || connect(mom, (struct sockaddr *)&address, sizeof(address)))
		return false;
	put_head(INIT, INIT_EVENT);
	if (!flush_out() || !get_head(&event, &failed))
		return false;
	if (failed)
		fail("pbs_mom refuses to take tasks of this job (TM error %ld)", failed);
	if (!get_number(&count) || count < 1 || count > NODES)
		return false;
	for (node_count = 0; node_count < count; node_count++) {
		if (!get_number(&number))
			return false;
		nodes[node_count] = (int)number;
	}
	return skip_text() && get_number(&number) && get_number(&number); /* the parent's job, node, task */
}
static bool ask_for_end(int node, long task) {
	put_head(OBIT, OBIT_EVENT);
	put_number(node);
	put_number(task);
	return flush_out();
}
static bool connect_again(int node, long task) {
	for (int i = 0; i < PATIENCE_S; i++) {
		sleep(1);
		if (connect_to_mom())
			return ask_for_end(node, task);
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

/* -- output: the task's starter connects back, once for each stream -- */
static int listen_anywhere(int *port) {
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || listen(fd, 8) ||
	    getsockname(fd, (struct sockaddr *)&address, &length))
		fail("cannot listen for the command's output: %s", strerror(errno));
	*port = ntohs(address.sin_port);
	return fd;
}
static void write_all(int fd, const char *bytes, ssize_t length) {
	while (length > 0) {
		ssize_t n = write(fd, bytes, (size_t)length);
		if (n < 0 && errno != EINTR)
			return;
		if (n > 0)
			bytes += n, length -= n;
	}
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

	if (!connect_to_mom() && !connect_again(0, 0))
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
		/* What was read ahead of an answer may be another one. */
		int ready = poll(polled, 5, !is_over && in_at < in_length ? 0 : is_over ? (int)left : -1);
		if (caught && task && !is_over) {
			put_head(SIGNAL, SIGNAL_EVENT);
			put_number(node);
			put_number(task);
			put_number(caught);
			flush_out();
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
		if (is_over || !(polled[0].revents || in_at < in_length))
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
			if (!ask_for_end(node, task) && !connect_again(node, task))
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
	if (!strcmp(name ? name + 1 : argv[0], "pbsdsh")) {
		me = "pbsdsh";
		return pbsdsh(argc, argv);
	}
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
