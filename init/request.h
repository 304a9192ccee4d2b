/* The request to the first process that comes of the agent's answer. Pure but for memory. */
#include "message.h"
#include "wire.h"

/* "NUMBER SOFT HARD", -1 for none. Returns "" or why it cannot be set, in *why*. */
static inline const char *set_limit(struct head *h, const char *line, char *why, size_t room) {
	uint64_t found[3];
	const char *at = line;
	for (int i = 0; i < 3; i++) {
		char *end;
		at += strspn(at, " ");
		errno = 0;
		found[i] = strtoull(at, &end, 10);
		if (errno || end == at || !strchr("-0123456789", *at) || (*end && *end != ' ')) {
			snprintf(why, room, "'%.100s' is not a limit", line);
			return why;
		}
		at = end;
	}
	if (*at || found[0] >= LIMITS) {
		snprintf(why, room, "%lld is not the number of a limit", (long long)found[0]);
		return why;
	}
	h->limited |= 1U << found[0];
	h->limits[found[0]][0] = found[1];
	h->limits[found[0]][1] = found[2];
	return "";
}

/* Head and texts of a RUN into *to*; umask, window and flags (LEADER, TERMINAL; ANOTHER: a socket of PMI's) are the caller's.
 * Returns "" or why there is none, in *why*. */
static inline const char *compose_run(const struct message *answer, const struct head *callers, struct bytes *to, char *why,
				      size_t room) {
	struct head head = *callers;
	const char *name = value_of(answer, "name"), *directory = next_value(answer, "directory", NULL), *at;
	*to = (struct bytes){ 0 };
	head.version = VERSION;
	head.kind = RUN;
	head.flags |= SESSION | (strchr(value_of(answer, "argv"), '/') ? 0 : SEARCH);
	for (at = NULL; (at = next_value(answer, "limit", at));)
		if (*set_limit(&head, at, why, room))
			return why;
	if (!is_id(name)) {
		snprintf(why, room, "'%.100s' is not an id: 1 to 64 letters, digits, '.', '_', '-', the first of them no '.'", name);
		return why;
	}
	add(to, &head, sizeof head);
	add_text(to, name);
	add_text(to, directory ? directory : "/");
	add_text(to, "");
	for (at = NULL; (at = next_value(answer, "argv", at)); head.arguments++)
		add_text(to, at);
	for (at = NULL; (at = next_value(answer, "env", at));)
		add_text(to, head.flags & ANOTHER && !strncmp(at, "PMI_FD=", 7) ? "PMI_FD=3" : at);
	if (to->is_lost)
		return "there is no memory for its arguments and environment";
	head.length = (uint32_t)(to->length - sizeof head); /* of a message: less than WIRE_MOST and a little */
	memcpy(to->at, &head, sizeof head);
	if (!is_request(&head, to->at + sizeof head)) {
		snprintf(why, room, "its arguments and environment are %u bytes; at most %d in %d texts are taken", head.length, TEXTS, STRINGS);
		return why;
	}
	return "";
}
