/* Messages between the run hook and the agent: four bytes of length, the first one the highest, then a word and pairs of key
 * and value, with a NUL between all of them. The other end is lib/pbsdock/protocol/wire.py, with the same bounds. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
	WIRE_HEADER = 4,
	WIRE_MOST = 4 << 20,          /* of what the agent may answer */
	WIRE_PARTS = 1 << 19,
	WIRE_WORD = 32,               /* the operation, a key */
};

/* Bytes that grow. What there was no memory for is lost, and then all of it is. */
struct bytes {
	char *at;
	size_t length, room;
	bool is_lost;
};

static inline void let_go(struct bytes *b) {
	free(b->at);
	*b = (struct bytes){ 0 };
}

static inline void add(struct bytes *b, const void *more, size_t length) {
	if (b->is_lost || length > SIZE_MAX / 4 - b->length) {
		b->is_lost = true;
		return;
	}
	if (b->length + length > b->room) {
		size_t room = b->length + length + b->length / 2 + 1024;
		char *at = realloc(b->at, room);
		if (!at) {
			b->is_lost = true;
			return;
		}
		b->at = at;
		b->room = room;
	}
	if (length)
		memcpy(b->at + b->length, more, length);
	b->length += length;
}

/* With its NUL. */
static inline void add_text(struct bytes *b, const char *text) {
	add(b, text, strlen(text) + 1);
}

static inline void begin(struct bytes *b, const char *op) {
	*b = (struct bytes){ 0 };
	add(b, "\0\0\0", WIRE_HEADER);
	add_text(b, op);
}

static inline void field(struct bytes *b, const char *key, const char *value) {
	add_text(b, key);
	add_text(b, value);
}

/* Puts the length in front; false if it was lost, or is more than a length can say. */
static inline bool complete(struct bytes *b) {
	if (b->is_lost || b->length - WIRE_HEADER > UINT32_MAX)
		return false;
	b->length--; /* the last NUL is between nothing */
	size_t size = b->length - WIRE_HEADER;
	for (int i = WIRE_HEADER; i--; size >>= 8)
		b->at[i] = (char)(size & 0xff);
	return true;
}

/* What a header announces; 0 if that is no message. */
static inline uint32_t announced(const unsigned char *header) {
	uint32_t size = (uint32_t)header[0] << 24 | (uint32_t)header[1] << 16 | (uint32_t)header[2] << 8 | header[3];
	return size <= WIRE_MOST ? size : 0;
}

/* One that has come: *length* bytes and a NUL. */
struct message {
	char *text;
	size_t length;
};

static inline bool is_word(const char *word) {
	size_t length = strlen(word);
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)word[i] > 127)
			return false;
	return length <= WIRE_WORD;
}

static inline bool is_message(const struct message *m) {
	size_t parts = 0;
	for (const char *at = m->text; at <= m->text + m->length; at += strlen(at) + 1)
		if (++parts > WIRE_PARTS || ((parts == 1 || parts % 2 == 0) && !is_word(at)))
			return false;
	return parts % 2 == 1;
}

/* The next value of *key* behind *from*, which is NULL before the first; NULL if there is none. */
static inline const char *next_value(const struct message *m, const char *key, const char *from) {
	const char *at = (from ? from : m->text) + strlen(from ? from : m->text) + 1;
	while (at <= m->text + m->length) {
		const char *value = at + strlen(at) + 1;
		if (!strcmp(at, key))
			return value;
		at = value + strlen(value) + 1;
	}
	return NULL;
}

static inline const char *value_of(const struct message *m, const char *key) {
	const char *value = next_value(m, key, NULL);
	return value ? value : "";
}

/* A number of at most 18 digits; what is missing, or is none, is *otherwise*. */
static inline long long number_of(const struct message *m, const char *key, long long otherwise) {
	const char *value = value_of(m, key), *digits = value + (*value == '-');
	size_t length = strlen(digits);
	if (!length || length > 18 || strspn(digits, "0123456789") != length)
		return otherwise;
	return strtoll(value, NULL, 10);
}
