/* What the run hook in C takes for granted of the agent's messages and of the first process's answers, against what is almost
 * good. LLVMFuzzerTestOneInput is libFuzzer's; where there is none, main changes good ones at random for as long as it is told:
 * run_fuzz SECONDS SEED. Compile it with the sanitizers. */
#define _GNU_SOURCE
#include "../init/request.h"
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long messages, runs, replies;

/* A message of the agent's, in memory of just its size. */
static void as_message(const uint8_t *data, size_t size)
{
	struct message m = { malloc(size + 1), size };
	struct head head = { .umask = 022, .flags = size ? *data & (LEADER | TERMINAL) : 0 };
	struct bytes request, again;
	char why[256];
	memcpy(m.text, data, size);
	m.text[size] = 0;
	if (!size || !is_message(&m)) {
		free(m.text);
		return;
	}
	messages++;
	number_of(&m, "code", 1);
	if (*compose_run(&m, &head, &request, why, sizeof why)) {
		if (strlen(why) >= sizeof why)
			abort();
	} else { /* what the first process will see */
		memcpy(&head, request.at, sizeof head);
		if (head.length != request.length - sizeof head || !is_request(&head, request.at + sizeof head))
			abort();
		runs++;
	}
	let_go(&request);
	begin(&again, m.text); /* all that was read, written once more */
	for (const char *at = m.text + strlen(m.text) + 1; at <= m.text + size; at += strlen(at) + 1) {
		const char *key = at;
		at += strlen(at) + 1;
		field(&again, key, at);
		if (!next_value(&m, key, NULL))
			abort();
	}
	if (!complete(&again) || again.length != size + WIRE_HEADER || memcmp(again.at + WIRE_HEADER, m.text, size))
		abort();
	if (announced((unsigned char *)again.at) != size)
		abort();
	let_go(&again);
	free(m.text);
}

/* An answer of the first process's, as hear_first() reads it. */
static void as_reply(const uint8_t *data, size_t size)
{
	struct reply reply;
	const char *step, *path;
	if (size < sizeof reply)
		return;
	memcpy(&reply, data, sizeof reply);
	if (reply.length > MOST_REPLY || reply.length > size - sizeof reply)
		return;
	char *texts = malloc((size_t)reply.length + 1);
	memcpy(texts, data + sizeof reply, reply.length);
	texts[reply.length] = 0;
	if (is_reply(&reply, texts, &step, &path)) {
		if (strlen(step) > MOST_REPLY || strlen(path) > MOST_REPLY)
			abort();
		replies++;
	}
	free(texts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_message(data, size);
	as_reply(data, size);
	return 0;
}

#ifndef LIBFUZZER
static const char started[] = "started\0task\0task-1\0name\0task-1\0argv\0sh\0argv\0-c\0env\0A=1\0env\0B=\0directory\0/tmp\0limit\0"
			      "7 1024 4096\0limit\0002 -1 -1\0fds\0001";

int main(int argc, char **argv)
{
	static uint8_t data[2048];
	time_t until = time(NULL) + (argc > 1 ? atoi(argv[1]) : 2);
	unsigned long rounds = 0;
	srandom(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
	while (rounds % 1024 || time(NULL) < until) {
		struct reply reply = { 9, (uint32_t)random() % 6, (uint32_t)random() % 300 };
		size_t size = sizeof started - 1;
		memcpy(data, started, sizeof started);
		if (random() % 3 == 0) {
			memcpy(data, &reply, sizeof reply);
			memcpy(data + sizeof reply, "chdir\0/x\0", 9);
			size = sizeof reply + 9;
		}
		for (long changes = random() % 8; changes--;) {
			size_t at = (size_t)random() % size;
			switch (random() % 6) {
			case 0: data[at] = (uint8_t)random(); break;
			case 1: data[at] ^= (uint8_t)(1 << random() % 8); break;
			case 2: data[at] = 0; break;
			case 3: size = at + 1; break;
			case 4: size += (size_t)random() % (sizeof data - size); break;
			default: memset(data + at / 4 * 4, random() % 2 ? 0xff : 0, 4);
			}
		}
		LLVMFuzzerTestOneInput(data, size);
		rounds++;
	}
	printf("%lu rounds, %lu messages, %lu requests, %lu answers\n", rounds, messages, runs, replies);
	return 0;
}
#endif
