/* The parser of requests against what is almost one. LLVMFuzzerTestOneInput is libFuzzer's; where there is none, main changes
 * good requests at random for as long as it is told: init_fuzz SECONDS SEED. Compile it with the sanitizers. */
#define _GNU_SOURCE
#include "../init/message.h"
#include <stdlib.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct head head;
	if (size < sizeof head)
		return 0;
	memcpy(&head, data, sizeof head);
	head.length = (uint32_t)(size - sizeof head); /* as serve() has seen to */
	char *texts = calloc(1, (size_t)head.length + 1); /* of just the size: what reads past it is found */
	memcpy(texts, data + sizeof head, head.length);
	if (is_request(&head, texts) && head.kind == RUN) {
		/* What the child takes for granted, as become() walks it. */
		uint32_t place = 0;
		char **all = calloc(count_texts(texts, head.length) + 2, sizeof *all);
		for (char *at = texts; at < texts + head.length; at += strlen(at) + 1) {
			all[place++] = at;
			place += place == 3 + head.arguments;
		}
		char answer[2 * (PATH + 1)], path[PATH + 1] = "";
		strncpy(path, all[1], PATH);
		if (!all[0] || !all[1] || !all[2] || !all[3] || all[3 + head.arguments] || strlen(all[0]) > ID)
			abort();
		if (compose(answer, FAILED, 1, "descriptors", path) > sizeof answer)
			abort();
		free(all);
	}
	free(texts);
	return 0;
}

#ifndef LIBFUZZER
static const char good[] = "task\0/tmp\0\0sh\0-c\0true\0PATH=/bin\0A=\0"; /* its own NUL is the end of an empty variable */

int main(int argc, char **argv)
{
	static uint8_t data[4096];
	time_t until = time(NULL) + (argc > 1 ? atoi(argv[1]) : 2);
	unsigned long rounds = 0, taken = 0;
	srandom(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
	while (rounds % 1024 || time(NULL) < until) {
		struct head head = { VERSION, (uint32_t)random() % 6, 0, SESSION, 9, 022, (uint32_t)random() % 5, 0, { 0 }, { { 0 } } };
		size_t size = sizeof head + sizeof good - 1 - (size_t)(random() % 3);
		memcpy(data, &head, sizeof head);
		memcpy(data + sizeof head, good, sizeof good);
		for (long changes = random() % 8; changes--;) {
			size_t at = (size_t)random() % size;
			switch (random() % 6) {
			case 0: data[at] = (uint8_t)random(); break;
			case 1: data[at] ^= (uint8_t)(1 << random() % 8); break;
			case 2: data[at] = 0; break;
			case 3: size = at + 1; break;
			case 4: size += (size_t)random() % (sizeof data - size); break;
			default: memset(data + at / 4 * 4 % (sizeof head), random() % 2 ? 0xff : 0, 4);
			}
		}
		const uint8_t *all = data;
		memcpy(&head, data, sizeof head);
		head.length = (uint32_t)(size > sizeof head ? size - sizeof head : 0);
		taken += size >= sizeof head && head.length < 100 && is_request(&head, (const char *)all + sizeof head);
		LLVMFuzzerTestOneInput(data, size);
		rounds++;
	}
	printf("%lu requests, %lu of them good\n", rounds, taken);
	return 0;
}
#endif
