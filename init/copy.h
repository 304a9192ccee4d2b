/* `docker cp` by the user's own rights, between the local file system and a container's, whose root comes as a descriptor.
 *
 * The rules are Docker's (docs.docker.com, "docker container cp"); but nothing is owned by anybody but this user, no set-user-id
 * comes along, and devices, fifos and sockets are left out. Both ends may be changed by others meanwhile:
 * - A path that was named is looked up once, the container's with its root for "/" and for every link (openat2(2)).
 * - From there on every step is one name in a directory that is held open, and no link is followed: what was looked at is what
 *   is read, and what is written to is what this process has made or opened as a directory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437 /* on every processor; older C libraries do not know it */
#endif

enum { DEEPEST = 1000, BLOCK = 1 << 18 };

struct copy {
	int root;                     /* of the container */
	bool is_inward;
	void (*say)(const char *before, const char *text, const char *behind);
	long long bytes;              /* of files */
	int error;                    /* an errno */
	char why[2 * PATH_MAX];       /* not "": a sentence, and no more is copied */
	char where[PATH_MAX];         /* what is being copied: for sentences */
	unsigned depth, left_out;
	struct stat into;             /* the directory whose content all this becomes */
};

static inline bool is_same(const struct stat *a, const struct stat *b) {
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Keeps the first reason. Returns -1. */
__attribute__((format(printf, 3, 4))) static inline int give_up(struct copy *c, int error, const char *format, ...) {
	va_list rest;
	va_start(rest, format);
	if (!*c->why) {
		c->error = error;
		vsnprintf(c->why, sizeof c->why, format, rest);
	}
	va_end(rest);
	return -1;
}

/* What cannot be read, or is nothing that can be copied, does not keep the rest from being copied. */
static inline void leave_out(struct copy *c, const char *why) {
	c->left_out++;
	char line[sizeof c->where + 64];
	snprintf(line, sizeof line, "%s: %s", c->where, why);
	c->say("docker: not copied: ", line, "");
}

/* -- paths: pure -- */
/* *path*, seen from the directory *base*, without ".", ".." and doubled slashes; false if there is no room. As Docker does it: by
 * the words, whatever is a link. */
static inline bool clean(const char *base, const char *path, char *to, size_t room) {
	size_t length = 0;
	const char *from[2] = { *path == '/' ? "" : base, path };
	for (int i = 0; i < 2; i++)
		for (const char *at = from[i]; *at;) {
			size_t word = strcspn(at, "/");
			if (word == 2 && !strncmp(at, "..", 2)) {
				while (length && to[--length] != '/')
					;
			} else if (word && !(word == 1 && *at == '.')) {
				if (length + word + 2 > room)
					return false;
				to[length] = '/';
				memcpy(to + length + 1, at, word);
				length += word + 1;
			}
			at += word;
			at += strspn(at, "/");
		}
	if (!length)
		to[length++] = '/';
	to[length] = 0;
	return true;
}

/* Whether it ends with "/." or is ".": what is in the directory is meant. */
static inline bool is_of_content(const char *path) {
	size_t length = strlen(path);
	while (length && path[length - 1] == '/')
		length--;
	return length && path[length - 1] == '.' && (length == 1 || path[length - 2] == '/');
}

/* Whether it can be nothing but a directory. */
static inline bool is_of_directory(const char *path) {
	size_t length = strlen(path);
	return is_of_content(path) || (length && path[length - 1] == '/');
}

/* -- looking -- */
/* A path of the container's, or of this process's own. */
static inline int look_up(const struct copy *c, bool is_containers, const char *path, int flags) {
	struct { uint64_t flags, mode, resolve; } how = { (uint64_t)(flags | O_CLOEXEC), 0, 0x10 | 0x02 }; /* RESOLVE_IN_ROOT, NO_MAGICLINKS */
	if (!is_containers)
		return open(path, flags | O_CLOEXEC);
	int fd, turns = 100;
	do
		fd = (int)syscall(SYS_openat2, c->root, path, &how, sizeof how);
	while (fd < 0 && (errno == EAGAIN || errno == EINTR) && --turns); /* something was renamed just then */
	return fd;
}

/* What an O_PATH descriptor stands for: just that, whatever its name is by now. */
static inline int open_again(int object, int flags) {
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", object);
	return open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* -- copying -- */
/* Of what is new or this user's; nobody's rights grow by it. */
static inline void set_attributes(int fd, const struct stat *from) {
	struct stat now_is;
	mode_t inherited = fstat(fd, &now_is) ? 0 : now_is.st_mode & S_ISGID;
	bool is_directory = S_ISDIR(from->st_mode);
	fchmod(fd, (from->st_mode & (is_directory ? 01777 : 0777)) | (is_directory ? inherited : 0));
	futimens(fd, (const struct timespec[]){ from->st_atim, from->st_mtim });
}

static inline int copy_bytes(struct copy *c, int from, int to) {
	static char block[BLOCK];
	for (ssize_t got; (got = read(from, block, sizeof block));) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return give_up(c, errno, "read %s: %s", c->where, strerror(errno));
		for (ssize_t done = 0, sent; done < got; done += sent)
			if ((sent = write(to, block + done, (size_t)(got - done))) < 0) {
				if (errno != EINTR)
					return give_up(c, errno, "write the copy of %s: %s", c->where, strerror(errno));
				sent = 0;
			}
		c->bytes += got;
	}
	return 0;
}

/* Takes away what has the name and is no directory; 1 if that is the source itself. */
static inline int make_way(struct copy *c, const struct stat *source, int directory, const char *name) {
	struct stat about_it;
	if (fstatat(directory, name, &about_it, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (S_ISDIR(about_it.st_mode))
		return give_up(c, EISDIR, "cannot overwrite directory \"%s\" with non-directory \"%s\"", name, c->where);
	if (is_same(source, &about_it))
		return 1;
	if (unlinkat(directory, name, 0) && errno != ENOENT)
		return give_up(c, errno, "replace %s: %s", name, strerror(errno));
	return 0;
}

static inline void copy_link(struct copy *c, int object, const struct stat *about_it, int directory, const char *name) {
	static char text[PATH_MAX];
	ssize_t length = readlinkat(object, "", text, sizeof text - 1);
	if (length < 0)
		return leave_out(c, strerror(errno));
	text[length] = 0;
	if (make_way(c, about_it, directory, name))
		return;
	if (symlinkat(text, directory, name))
		give_up(c, errno, "make the link %s: %s", name, strerror(errno));
	utimensat(directory, name, (const struct timespec[]){ about_it->st_atim, about_it->st_mtim }, AT_SYMLINK_NOFOLLOW);
}

static inline void copy_file(struct copy *c, int object, const struct stat *about_it, int directory, const char *name) {
	int from = open_again(object, O_RDONLY), to;
	if (from < 0)
		return leave_out(c, strerror(errno));
	if (!make_way(c, about_it, directory, name)) {
		to = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (to < 0)
			give_up(c, errno, "create %s: %s", name, strerror(errno));
		else if (copy_bytes(c, from, to))
			unlinkat(directory, name, 0);
		else
			set_attributes(to, about_it);
		if (to >= 0 && close(to))
			give_up(c, errno, "write the copy of %s: %s", c->where, strerror(errno));
	}
	close(from);
}

static const char into_itself[] = "a directory cannot be copied into itself";

static inline void copy_object(struct copy *c, int object, int directory, const char *name);

/* All that is in a directory into another. Both remain open. */
static inline void copy_content(struct copy *c, int object, int directory) {
	size_t length = strlen(c->where);
	struct stat source, target;
	int fd = open_again(object, O_RDONLY | O_DIRECTORY);
	DIR *entries = fd < 0 ? NULL : fdopendir(fd);
	if (!entries) {
		leave_out(c, strerror(errno));
		if (fd >= 0)
			close(fd);
		return;
	}
	if (!c->depth++)
		fstat(directory, &c->into);
	if (!fstat(fd, &source) && !fstat(directory, &target) && is_same(&source, &target))
		leave_out(c, into_itself);
	else if (c->depth > DEEPEST)
		give_up(c, ELOOP, "%.200s... is deeper than %d directories", c->where, DEEPEST);
	else
		for (struct dirent *entry; !*c->why && (entry = readdir(entries));) {
			if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
				continue;
			snprintf(c->where + length, sizeof c->where - length, "%s%s", length > 1 ? "/" : "", entry->d_name);
			int inner = openat(fd, entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
			if (inner >= 0)
				copy_object(c, inner, directory, entry->d_name);
			else if (errno != ENOENT)
				leave_out(c, strerror(errno));
			c->where[length] = 0;
		}
	c->depth--;
	closedir(entries);
}

static inline void copy_directory(struct copy *c, int object, const struct stat *about_it, int directory, const char *name) {
	if (c->depth && is_same(about_it, &c->into))
		return leave_out(c, into_itself); /* mounted in the container, or it would never end */
	bool is_new = !mkdirat(directory, name, 0700);
	if (!is_new && errno != EEXIST) {
		give_up(c, errno, "create the directory %s: %s", name, strerror(errno));
		return;
	}
	int made = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (made < 0 && !is_new && (errno == ENOTDIR || errno == ELOOP)) {
		give_up(c, ENOTDIR, "cannot overwrite non-directory \"%s\" with directory \"%s\"", name, c->where);
	} else if (made < 0) {
		give_up(c, errno, "open the directory %s: %s", name, strerror(errno));
	} else {
		copy_content(c, object, made);
		set_attributes(made, about_it); /* of another's it cannot */
		close(made);
	}
}

/* What *object*, an O_PATH descriptor that is closed, stands for, by a name in a directory. */
static inline void copy_object(struct copy *c, int object, int directory, const char *name) {
	struct stat about_it;
	if (fstat(object, &about_it))
		leave_out(c, strerror(errno));
	else if (S_ISLNK(about_it.st_mode))
		copy_link(c, object, &about_it, directory, name);
	else if (S_ISREG(about_it.st_mode))
		copy_file(c, object, &about_it, directory, name);
	else if (S_ISDIR(about_it.st_mode))
		copy_directory(c, object, &about_it, directory, name);
	else
		c->say("docker: not copied: ", c->where, S_ISFIFO(about_it.st_mode)   ? " is a fifo"
							 : S_ISSOCK(about_it.st_mode) ? " is a socket"
										      : " is a device");
	close(object);
}

/* A file into one that is there, by whatever way its name leads to it. */
static inline void overwrite(struct copy *c, int object, const struct stat *source, int target, const char *name) {
	struct stat about_it;
	int from = open_again(object, O_RDONLY), to = open_again(target, O_WRONLY);
	if (from < 0)
		give_up(c, errno, "open %s: %s", c->where, strerror(errno));
	else if (to < 0 || fstat(to, &about_it))
		give_up(c, errno, "open %s: %s", name, strerror(errno));
	else if (!is_same(source, &about_it)) {
		if (ftruncate(to, 0))
			give_up(c, errno, "write %s: %s", name, strerror(errno));
		else if (!copy_bytes(c, from, to))
			set_attributes(to, source);
	}
	if (from >= 0)
		close(from);
	if (to >= 0 && close(to))
		give_up(c, errno, "write %s: %s", name, strerror(errno));
}

/* The directory that the last name of a cleaned path is in. */
static inline int open_parent(struct copy *c, char *path, const char **name) {
	char *slash = strrchr(path, '/');
	*name = slash + 1;
	int parent;
	if (slash == path) {
		parent = look_up(c, c->is_inward, "/", O_PATH | O_DIRECTORY);
	} else {
		*slash = 0;
		parent = look_up(c, c->is_inward, path, O_PATH | O_DIRECTORY);
		*slash = '/';
	}
	if (parent < 0 && errno == ENOENT)
		return give_up(c, ENOENT, "there is no directory for %s%s", path, c->is_inward ? " in the container" : "");
	if (parent < 0)
		return give_up(c, errno, "open the directory of %s: %s", path, strerror(errno));
	return parent;
}

/* Docker's table: what the source is, what the target is. Closes *object*. */
static inline void place(struct copy *c, int object, bool is_content, char *to, bool is_to_directory) {
	struct stat source, target = { 0 };
	const char *name, *base = strrchr(c->where, '/') + 1;
	int there = look_up(c, c->is_inward, to, O_PATH), parent = -1;
	bool is_there = there >= 0 && !fstat(there, &target);
	fstat(object, &source);
	bool is_directory = S_ISDIR(source.st_mode);
	if (!is_there && errno != ENOENT) {
		give_up(c, errno, "open %s: %s", to, strerror(errno));
	} else if (is_there && S_ISDIR(target.st_mode)) {
		if (is_directory && (is_content || !*base)) {
			copy_content(c, object, there);
		} else {
			copy_object(c, object, there, base);
			object = -1;
		}
	} else if (is_there && is_directory) {
		give_up(c, ENOTDIR, "cannot copy a directory to a file: %s", to);
	} else if (is_there && is_to_directory) {
		give_up(c, ENOTDIR, "%s is not a directory", to);
	} else if (!is_there && is_to_directory && !is_directory) {
		give_up(c, ENOENT, "no such directory: %s", to);
	} else if (is_there && !S_ISREG(target.st_mode)) {
		give_up(c, EINVAL, "%s is a device, a fifo or a socket", to);
	} else if (is_there && S_ISREG(source.st_mode)) {
		overwrite(c, object, &source, there, to);
	} else if ((parent = open_parent(c, to, &name)) >= 0) {
		if (!is_there && !fstatat(parent, name, &target, AT_SYMLINK_NOFOLLOW)) {
			give_up(c, ENOENT, "%s is a symbolic link to what is not there", to);
		} else {
			copy_object(c, object, parent, name);
			object = -1;
		}
	}
	if (object >= 0)
		close(object);
	if (there >= 0)
		close(there);
	if (parent >= 0)
		close(parent);
}

/* Returns "" or why not all was copied; *c* has an errno then, if there is one. */
static inline const char *copy_tree(struct copy *c, const char *source, const char *target, bool follows) {
	char cwd[PATH_MAX] = "/", from[PATH_MAX], to[PATH_MAX];
	struct rlimit files;
	if (!getcwd(cwd, sizeof cwd) && *(c->is_inward ? source : target) != '/')
		give_up(c, errno, "the working directory: %s", strerror(errno));
	else if (!*source || !*target)
		give_up(c, EINVAL, "a path is empty");
	else if (!clean(c->is_inward ? cwd : "/", source, from, sizeof from - 1) || !clean(c->is_inward ? "/" : cwd, target, to, sizeof to))
		give_up(c, ENAMETOOLONG, "a path is longer than %d bytes", PATH_MAX);
	if (*c->why)
		return c->why;
	if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < 4 * DEEPEST) {
		files.rlim_cur = files.rlim_max < 4 * DEEPEST ? files.rlim_max : 4 * DEEPEST;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	strcpy(c->where, from);
	if (is_of_directory(source))
		strcat(from, "/");
	int object = look_up(c, !c->is_inward, from, O_PATH | (follows || is_of_directory(source) ? 0 : O_NOFOLLOW));
	if (object < 0 && errno == ENOENT)
		give_up(c, ENOENT, "there is no %s%s", c->where, c->is_inward ? "" : " in the container");
	else if (object < 0)
		give_up(c, errno, "open %s: %s", c->where, strerror(errno));
	else
		place(c, object, is_of_content(source), to, is_of_directory(target));
	if (!*c->why && c->left_out)
		give_up(c, 0, "not all was copied: %u left out", c->left_out);
	return c->why;
}
