/* The user's own terminal, and the flow of bytes between it and the terminal of a container. */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum {
	FLOW = 4096,                  /* PIPE_BUF: a pipe that poll(2) finds writable takes as much without waiting */
	KEY_P = 'P' & 31, KEY_Q = 'Q' & 31, /* with Control: one after the other leave what runs */
};

static struct termios as_it_was;
static volatile bool is_changed;      /* read in a signal's handler as well */

static inline void restore_terminal(void) {
	if (is_changed)
		tcsetattr(0, TCSANOW, &as_it_was);
	is_changed = false;
}

/* Whether descriptor 0 is a terminal, whose settings are then *settings* until it is restored. */
static inline bool change_terminal(void change(struct termios *)) {
	struct termios settings;
	if (tcgetattr(0, &as_it_was))
		return false;
	settings = as_it_was;
	change(&settings);
	is_changed = true;
	tcsetattr(0, TCSANOW, &settings);
	return true;
}

static inline void make_silent(struct termios *t) {
	t->c_lflag &= ~(tcflag_t)ECHO;
}

/* The size of the first terminal among standard output, input and error; zeros if there is none. */
static inline struct winsize window(void) {
	static const int from[] = { 1, 0, 2 };
	struct winsize size;
	for (int i = 0; i < 3; i++)
		if (!ioctl(from[i], TIOCGWINSZ, &size))
			return size;
	return (struct winsize){ 0 };
}

/* One direction: bytes that *from* gave and *to* has not taken. */
struct flow {
	int from, to;                 /* -1: nothing comes any more; nobody takes it any more */
	size_t at, have;
	char bytes[FLOW];
};

static inline struct pollfd source_of(const struct flow *f) {
	return (struct pollfd){ f->have ? -1 : f->from, POLLIN, 0 };
}

static inline struct pollfd sink_of(const struct flow *f) {
	return (struct pollfd){ f->have ? f->to : -1, POLLOUT, 0 };
}

static inline void fill(struct flow *f) {
	ssize_t got = read(f->from, f->bytes, sizeof f->bytes - 1); /* a key that was held may come before */
	f->at = 0;
	f->have = got > 0 ? (size_t)got : 0;
	if (f->to < 0)
		f->have = 0; /* nobody takes it */
	if (!got || (got < 0 && errno != EAGAIN && errno != EINTR))
		f->from = -1;
}

static inline void empty(struct flow *f) {
	ssize_t sent = write(f->to, f->bytes + f->at, f->have);
	if (sent > 0) {
		f->at += (size_t)sent;
		f->have -= (size_t)sent;
	} else if (errno != EAGAIN && errno != EINTR) {
		f->to = -1;
	}
	if (f->to < 0)
		f->have = 0;
}

/* Takes the keys that leave out of what was typed; *is_held*: the first of them was the last so far. Returns whether both were
 * there: what comes behind them is nobody's. The array has room for one byte more than there are. Pure. */
static inline bool find_keys(bool *is_held, char *typed, size_t *length) {
	size_t total = *length + *is_held;
	if (*is_held) {
		memmove(typed + 1, typed, *length);
		*typed = KEY_P;
	}
	*is_held = false;
	*length = 0;
	for (size_t i = 0; i < total; i++) {
		if (typed[i] == KEY_P && i + 1 < total && typed[i + 1] == KEY_Q)
			return true;
		if (typed[i] == KEY_P && i + 1 == total)
			*is_held = true;
		else
			typed[(*length)++] = typed[i];
	}
	return false;
}
