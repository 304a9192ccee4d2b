/* The task manager's protocol of Torque 4 to 6, as src/lib/Libifl/tm.c has it: a connection to mom at
 * 127.0.0.1:PBS_MOMPORT, requests and answers of integers and strings as src/lib/Libdis has them, readable text.
 * For programs of one file each, with one connection. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	PROTOCOL = 5, VERSION = 2,    /* net_connect.h */
	INIT = 100, SPAWN = 102, SIGNAL = 103, OBIT = 104, FAILED = 999, /* tm_.h */
	NODES = 65536,
	INIT_EVENT = 1,               /* the caller's own have greater numbers */
};

static const char *me;
static int fault;                     /* how fail() exits */
static int mom = -1, node_count, nodes[NODES];
static char out[1 << 20], in[4096];
static size_t out_length, in_at, in_length;

__attribute__((format(printf, 1, 0))) static void say_all(const char *format, va_list rest) {
	fprintf(stderr, "%s: ", me);
	vfprintf(stderr, format, rest);
	fputc('\n', stderr);
}
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
	va_list rest;
	va_start(rest, format);
	say_all(format, rest);
	va_end(rest);
}
__attribute__((format(printf, 1, 2))) _Noreturn static void fail(const char *format, ...) {
	va_list rest;
	va_start(rest, format);
	say_all(format, rest);
	va_end(rest);
	exit(fault);
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
		fail("command and environment are longer than %zu bytes", sizeof(out) - 4096);
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
		fail("pbs_mom speaks another version of the task manager's protocol (%ld.%ld)", protocol, version);
	return kind != FAILED || get_number(failed);
}

/* What was read ahead of an answer may be another one, which poll() tells nothing of. */
static bool is_read_ahead(void) {
	return in_at < in_length;
}

/* -- mom -- */

/* *failed is TM's number of why she refuses, or 0. */
static bool connect_to_mom(long *failed) {
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(variable("PBS_MOMPORT"))),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	long event, count, number;
	*failed = 0;
	if (mom >= 0)
		close(mom);
	in_at = in_length = out_length = 0;
	mom = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (mom < 0 || connect(mom, (struct sockaddr *)&address, sizeof(address)))
		return false;
	put_head(INIT, INIT_EVENT);
	if (!flush_out() || !get_head(&event, failed) || *failed)
		return false;
	if (!get_number(&count) || count < 1 || count > NODES)
		return false;
	for (node_count = 0; node_count < count; node_count++) {
		if (!get_number(&number))
			return false;
		nodes[node_count] = (int)number;
	}
	return skip_text() && get_number(&number) && get_number(&number); /* the parent's job, node, task */
}
static bool ask_for_end(int node, long task, int event) {
	put_head(OBIT, event);
	put_number(node);
	put_number(task);
	return flush_out();
}
static bool signal_task(int node, long task, int number, int event) {
	put_head(SIGNAL, event);
	put_number(node);
	put_number(task);
	put_number(number);
	return flush_out();
}
/* The streams of a task come to ports that it is told. */
static int listen_anywhere(int *port) {
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || listen(fd, 1024) ||
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
