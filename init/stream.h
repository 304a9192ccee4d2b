/* Streams over unix sockets, with the descriptors and the sender's pid that come along: to the agent, whose messages are
 * wire.h's, and to a container's first process, whose are message.h's. What the clients of both share. */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "request.h"

enum { KEPT = 16 }; /* descriptors that came and were not asked for yet */

/* A stream, and the descriptors and the sender's pid that came with it. */
struct stream {
	int fd, kept[KEPT], kept_count;
	pid_t sender;
};

/* Milliseconds that only grow. */
static inline int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline void keep_descriptors(struct stream *s, struct msghdr *m) {
	for (struct cmsghdr *item = CMSG_FIRSTHDR(m); item; item = CMSG_NXTHDR(m, item)) {
		if (item->cmsg_level != SOL_SOCKET)
			continue;
		if (item->cmsg_type == SCM_RIGHTS)
			for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= item->cmsg_len; i++) {
				int fd;
				memcpy(&fd, CMSG_DATA(item) + i * sizeof fd, sizeof fd);
				if (s->kept_count < KEPT)
					s->kept[s->kept_count++] = fd;
				else
					close(fd);
			}
		if (item->cmsg_type == SCM_CREDENTIALS && item->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
			struct ucred sender;
			memcpy(&sender, CMSG_DATA(item), sizeof sender);
			s->sender = sender.pid;
		}
	}
}

/* Just so many bytes; false at the end of the stream or of its time. */
static inline bool take(struct stream *s, void *to, size_t length) {
	for (size_t have = 0; have < length;) {
		union { char space[256]; struct cmsghdr item; } control;
		struct iovec part = { (char *)to + have, length - have };
		struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
		ssize_t got = recvmsg(s->fd, &m, MSG_CMSG_CLOEXEC);
		if (got < 0 && errno == EINTR)
			continue; /* stopped and continued */
		if (got >= 0)
			keep_descriptors(s, &m);
		if (got <= 0)
			return false;
		have += (size_t)got;
	}
	return true;
}

/* All of it, with *count* descriptors, at most four, on its first byte; false if it could not be. */
static inline bool put(struct stream *s, const struct bytes *b, const int *fds, size_t count) {
	union { char space[CMSG_SPACE(4 * sizeof *fds)]; struct cmsghdr item; } control = { { 0 } };
	size_t size = count * sizeof *fds;
	control.item = (struct cmsghdr){ .cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	if (count)
		memcpy(CMSG_DATA(&control.item), fds, size);
	for (size_t done = 0; done < b->length;) {
		struct iovec part = { b->at + done, b->length - done };
		struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };
		if (count && !done) {
			m.msg_control = &control;
			m.msg_controllen = CMSG_SPACE(size);
		}
		ssize_t sent = sendmsg(s->fd, &m, MSG_NOSIGNAL);
		if (sent < 0 && errno != EINTR)
			return false;
		done += sent > 0 ? (size_t)sent : 0;
	}
	return true;
}

static inline void hang_up(struct stream *s) {
	if (s->fd >= 0)
		close(s->fd);
	while (s->kept_count)
		close(s->kept[--s->kept_count]);
	*s = (struct stream){ .fd = -1 };
}

static inline void be_patient(const struct stream *s, int64_t milliseconds) {
	struct timeval most = { milliseconds / 1000, milliseconds % 1000 * 1000 };
	setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
	setsockopt(s->fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
}

/* Whether somebody listens there, who takes the connection within the time; else errno says why not. */
static inline bool connect_to(struct stream *s, const char *path, int64_t milliseconds, bool with_sender) {
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int yes = 1, error;
	*s = (struct stream){ .fd = -1 };
	if (strlen(path) >= sizeof at.sun_path) {
		errno = ENAMETOOLONG;
		return false;
	}
	strcpy(at.sun_path, path);
	if ((s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
		return false;
	be_patient(s, milliseconds);
	if (with_sender)
		setsockopt(s->fd, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
	do
		error = connect(s->fd, (struct sockaddr *)&at, sizeof at) ? errno : 0;
	while (error == EINTR);
	if (error && error != EISCONN) {
		hang_up(s);
		errno = error;
		return false;
	}
	return true;
}

/* -- the agent's messages -- */
static inline void forget(struct message *m) {
	free(m->text);
	*m = (struct message){ 0 };
}

/* The next message, and the first *most* of the descriptors that belong to it, -1 in the places of those that are not there.
 * False at the end of the stream or of its time, and for what is no message. */
static inline bool hear(struct stream *s, struct message *m, int *fds, int most) {
	unsigned char header[WIRE_HEADER];
	*m = (struct message){ 0 };
	for (int place = 0; place < most; place++)
		fds[place] = -1;
	if (!take(s, header, sizeof header) || !(m->length = announced(header)))
		return false;
	if (!(m->text = malloc(m->length + 1)))
		return false;
	m->text[m->length] = 0;
	if (!take(s, m->text, m->length) || !is_message(m)) {
		forget(m);
		return false;
	}
	long long count = number_of(m, "fds", 0);
	for (int place = 0; place < count && s->kept_count; place++) {
		if (place < most)
			fds[place] = s->kept[0];
		else
			close(s->kept[0]);
		memmove(s->kept, s->kept + 1, (size_t)--s->kept_count * sizeof *s->kept);
	}
	return true;
}

static inline void add_number(struct bytes *b, const char *key, long long number) {
	char digits[24];
	snprintf(digits, sizeof digits, "%lld", number);
	field(b, key, digits);
}

/* -- the first process's -- */
/* Asks for something about *name* that needs no more than a number and flags; false if it could not be sent. */
static inline bool ask_about(struct stream *s, const char *name, uint32_t kind, uint32_t number, uint32_t flags) {
	struct head head = { .version = VERSION, .kind = kind, .number = number, .flags = flags, .length = (uint32_t)strlen(name) + 1 };
	struct bytes b = { 0 };
	add(&b, &head, sizeof head);
	add_text(&b, name);
	bool is_sent = !b.is_lost && put(s, &b, NULL, 0);
	let_go(&b);
	return is_sent;
}

struct answer {
	struct reply reply;
	char texts[MOST_REPLY + 1];
	const char *step, *path;      /* in texts, or "" */
};

/* One answer; false if the connection broke, or what came is none. */
static inline bool hear_answer(struct stream *s, struct answer *a) {
	memset(a->texts, 0, sizeof a->texts);
	return take(s, &a->reply, sizeof a->reply) && a->reply.length <= MOST_REPLY && take(s, a->texts, a->reply.length) &&
	       is_reply(&a->reply, a->texts, &a->step, &a->path);
}
