/* The pure parts of the docker of jobs, against what is almost good: paths as Docker reads them, the keys that leave a terminal.
 * LLVMFuzzerTestOneInput is libFuzzer's; where there is none, main makes inputs at random for as long as it is told:
 * docker_fuzz SECONDS SEED. Compile it with the sanitizers. Its messages are the run hook's (run_fuzz.c). */
#define _GNU_SOURCE
#include "../init/copy.h"
#include "../init/terminal.h"
#include <stdlib.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long paths, keys;

/* Two texts: a directory and a path. */
static void as_path(const uint8_t *data, size_t size)
{
	char *base = malloc(size + 2), *path, to[PATH_MAX], again[PATH_MAX];
	memcpy(base, data, size);
	base[size] = base[size + 1] = 0;
	path = base + strlen(base) + 1;
	size_t room = size % 7 ? sizeof to : 2 + size % 50;
	if (clean(base, path, to, room)) {
		if (*to != '/' || strlen(to) >= room || strstr(to, "//"))
			abort();
		for (char *at = to; *at; at += strcspn(at, "/")) {
			at++;
			if (!strncmp(at, "..", 2) && (at[2] == '/' || !at[2]))
				abort();
			if (*at == '.' && (at[1] == '/' || !at[1]))
				abort();
		}
		if (strlen(to) > 1 && to[strlen(to) - 1] == '/')
			abort();
		if (!clean("/other", to, again, sizeof again) || strcmp(to, again))
			abort();
		paths++;
	}
	if (is_of_content(path) && !is_of_directory(path))
		abort();
	free(base);
}

/* Typed in pieces of any size: what goes on is all but the two keys that leave, which are found wherever they are cut. */
static void as_keys(const uint8_t *data, size_t size)
{
	static char whole[FLOW], seen[FLOW], typed[FLOW];
	size_t expected = 0, found = 0;
	bool is_held = false, leaves = false, is_left = false;
	size = size < FLOW / 2 ? size : FLOW / 2;
	for (size_t i = 0; i < size && !leaves; i++) {
		leaves = data[i] == KEY_P && i + 1 < size && data[i + 1] == KEY_Q;
		if (!leaves)
			whole[expected++] = (char)data[i];
	}
	for (size_t at = 0; at < size && !is_left;) {
		size_t length = 1 + data[at] % 5;
		length = length < size - at ? length : size - at;
		memcpy(typed, data + at, length);
		at += length;
		is_left = find_keys(&is_held, typed, &length);
		memcpy(seen + found, typed, length);
		found += length;
	}
	if (is_held)
		seen[found++] = KEY_P;
	if (is_left != leaves || found != expected || memcmp(seen, whole, found))
		abort();
	keys += leaves;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_path(data, size);
	as_keys(data, size);
	return 0;
}

#ifndef LIBFUZZER
int main(int argc, char **argv)
{
	static const char *const pieces[] = { "/", ".", "..", "a", "\x10", "\x11", "", "b/c", "/.", "...", "/./", "\x10\x11" };
	static uint8_t data[9000];
	time_t until = time(NULL) + (argc > 1 ? atoi(argv[1]) : 2);
	unsigned long rounds = 0;
	srandom(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
	while (rounds % 1024 || time(NULL) < until) {
		size_t size = 0;
		for (long count = random() % (rounds % 500 ? 30 : 3000); count--;) {
			const char *piece = pieces[(size_t)random() % (sizeof pieces / sizeof *pieces)];
			size_t length = strlen(piece);
			memcpy(data + size, piece, length);
			size += length;
			if (random() % 40 == 0)
				data[size++] = (uint8_t)(random() % 3 ? 0 : random());
			if (size > sizeof data - 8)
				break;
		}
		LLVMFuzzerTestOneInput(data, size);
		rounds++;
	}
	printf("%lu rounds, %lu paths, %lu keys\n", rounds, paths, keys);
	return 0;
}
#endif
