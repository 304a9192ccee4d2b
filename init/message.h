/* What goes over pbsdock-init's socket. Its clients are run.c and lib/pbsdock/protocol/init.py.
 *
 * A stream, since a packet cannot exceed net.core.wmem_max (208 KiB) and an environment can. Both ends are on one host:
 * numbers are the machine's own.
 *
 * Request: struct head, then head.length bytes of texts, each with a NUL behind it.
 *   OPEN    root's alone; no text; head.limits are for process 1 itself;
 *           head.number: what of RUN is held from now on, see below     -> DONE 0
 *   RUN     id, directory, program or "", head.arguments arguments,
 *           then the environment. Descriptors 0, 1, 2 come with its
 *           first byte (SCM_RIGHTS); none with flag TERMINAL. With
 *           flag ANOTHER one more comes behind them, and becomes 3      -> PID, then ENDED or FAILED; or FAILED at once
 *   JOIN    id: as if this connection had run it                       -> PID, or if it is over ENDED or FAILED
 *   SIGNAL  id; head.number to all of its session (0: only count),
 *           with flag LEADER to the process itself alone               -> DONE processes, or FAILED
 *   GO      root's alone; id; head.number is its pid in here: what is
 *           held becomes its program                                   -> DONE 1, or FAILED
 * Held is what has told its PID and waits for root, who moves it to where it belongs before it runs anything.
 * Answer: struct reply, then reply.length bytes of texts.
 *   PID     number is the pid; whoever has set SO_PASSCRED gets the same pid as its own namespace has it (not after JOIN);
 *           with flag TERMINAL the terminal's master comes with it
 *   ENDED   number is the wait status        FAILED  number is an errno; texts: step, path or ""        DONE  number */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { VERSION = 1, LIMITS = 16 };
enum { OPEN = 1, RUN, JOIN, SIGNAL, GO };
enum { HOLD_NONE, HOLD_TASKS, HOLD_ALL }; /* of OPEN: nothing, all but the leader, all */
enum { PID = 1, ENDED, FAILED, DONE };
/* Of RUN. ANOTHER: a descriptor that becomes 3 comes along. SEARCH: look the program up in the environment's PATH. CONTROL: descriptor 0 becomes the controlling terminal. */
enum { LEADER = 1, SESSION = 2, TERMINAL = 4, CONTROL = 8, SEARCH = 16, ANOTHER = 32, ALL_FLAGS = 63 };

struct head {
	uint32_t version, kind, length, flags, number, umask, arguments;
	uint32_t limited;             /* bit N: limits[N] (soft, hard) is to be set; N as in setrlimit(2) */
	uint16_t window[4];           /* rows, columns, width and height in pixels */
	uint64_t limits[LIMITS][2];
};
struct reply { uint32_t length, kind, number; };

enum {
	TEXTS = 8 << 20,              /* execve takes 6 MiB at most */
	STRINGS = 1 << 18,            /* of a request: a pointer each */
	ID = 64, PATH = 255,
};

static inline bool is_id(const char *id) {
	size_t length = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
	return length && length <= ID && !id[length] && *id != '.';
}

/* How many, of *length* bytes; the last one has no end: more than any request may have. */
static inline uint32_t count_texts(const char *texts, uint32_t length) {
	uint32_t count = 0;
	if (length && texts[length - 1])
		return UINT32_MAX;
	for (const char *at = texts; at < texts + length; at += strlen(at) + 1)
		count++;
	return count;
}

static inline bool is_request(const struct head *h, const char *texts) {
	uint32_t count = count_texts(texts, h->length);
	if (h->version != VERSION || count > STRINGS || h->limited >= 1U << LIMITS)
		return false;
	if (h->kind == OPEN)
		return !count && h->number <= HOLD_ALL;
	if (h->kind == GO)
		return count == 1 && is_id(texts);
	if (h->kind == JOIN || h->kind == SIGNAL)
		return count == 1 && is_id(texts) && h->number <= 64;
	return h->kind == RUN && h->arguments && h->arguments <= STRINGS && count >= 3 + h->arguments && is_id(texts) &&
	       h->umask <= 0777 && h->flags <= ALL_FLAGS &&
	       (h->flags & SESSION || !(h->flags & (TERMINAL | CONTROL)));
}

/* Of 2 * (PATH + 1) bytes at most: it goes whole or not at all. */
static inline size_t compose(char *to, uint32_t kind, uint32_t number, const char *step, const char *path) {
	struct reply reply = { 0, kind, number };
	if (step)
		reply.length = (uint32_t)(stpcpy(stpcpy(to + sizeof reply, step) + 1, path) + 1 - to - (long)sizeof reply);
	memcpy(to, &reply, sizeof reply);
	return sizeof reply + reply.length;
}

enum { MOST_REPLY = 512 };

/* Of the reply.length bytes behind a reply, with a NUL after them: whether they are a step and a path, or none at all. */
static inline bool is_reply(const struct reply *reply, const char *texts, const char **step, const char **path) {
	*step = *path = "";
	if (reply->length > MOST_REPLY || reply->kind < PID || reply->kind > DONE)
		return false;
	if (!reply->length)
		return true;
	if (texts[reply->length - 1] || count_texts(texts, reply->length) != 2)
		return false;
	*step = texts;
	*path = texts + strlen(texts) + 1;
	return true;
}
