/* pbsdsh for the emulated nodes of pbsdock.trial: options, words and exit codes of Torque's src/cmds/pbsdsh.c.
 *
 * One static program, so that it runs in any container. It asks what stands for pbs_mom on 127.0.0.1:$PBS_MOMPORT; the
 * protocol, told in tm.py, is not Torque's. As Torque's does, -o listens on two ports that the task's node connects to.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOT_CONNECTED 17002

extern char **environ;

static char id[64];
static int mom = -1;
static int verbose;
static volatile sig_atomic_t interrupted;

static char **asked; /* NAME=VALUE for the tasks */
static int n_asked;

static struct task {
  int slot;
  long tid; /* 0: not spawned, or over */
} *tasks;

static int n_tasks, waiting;

static void on_signal(int number) { interrupted = number; }

static void ask_for(const char *pair) {
  asked = realloc(asked, (n_asked + 1) * sizeof *asked);
  if (!asked || !(asked[n_asked++] = strdup(pair)))
    exit(1);
}

static void ask_for_list(const char *list, int have_all) {
  char *copy = strdup(list), *name, *value, *pair;
  for (name = strtok(copy, ","); name; name = strtok(NULL, ",")) {
    if (strchr(name, '=')) {
      ask_for(name);
      continue;
    }
    value = getenv(name);
    if (value && have_all)
      continue;
    if (asprintf(&pair, "%s=%s", name, value ? value : "") < 0)
      exit(1);
    ask_for(pair);
    free(pair);
  }
  free(copy);
}

static void send_all(const void *data, size_t length) {
  const char *at = data;
  while (length) {
    ssize_t sent = send(mom, at, length, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent < 0)
      return; /* seen when the answer is awaited */
    at += sent;
    length -= sent;
  }
}

static void send_text(const char *text) {
  char head[32];
  send_all(head, sprintf(head, "%zu:", strlen(text)));
  send_all(text, strlen(text));
}

static void send_number(long number) {
  char text[32];
  sprintf(text, "%ld", number);
  send_text(text);
}

static void begin_message(int count) {
  char head[32];
  send_all(head, sprintf(head, "%d\n", count));
}

/* A line of mom's; 0 at its end, -1 if a signal came first. */
static int read_line(char *line, int size) {
  static char held[4096];
  static int length;
  for (;;) {
    char *end = memchr(held, '\n', length);
    if (end) {
      int used = end - held + 1;
      *end = 0;
      snprintf(line, size, "%s", held);
      memmove(held, held + used, length -= used);
      return 1;
    }
    if (interrupted)
      return -1;
    struct pollfd door = {mom, POLLIN, 0};
    if (poll(&door, 1, 200) <= 0)
      continue;
    ssize_t got = recv(mom, held + length, sizeof held - length, 0);
    if (got <= 0)
      return 0;
    length += got;
  }
}

static void listener_of(int *fd, int *port) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (*fd < 0 || bind(*fd, (void *)&address, size) || listen(*fd, 1024) || getsockname(*fd, (void *)&address, &size)) {
    fprintf(stderr, "%s: build_listener() failed\n", id);
    exit(1);
  }
  *port = ntohs(address.sin_port);
}

/* Pass on what the tasks write to two listeners. Once all tasks are over, which *over* tells, it ends when the expected
 * connections have ended, or nothing has come for a while: not every task connects. */
static pid_t relay(int out, int err, int over, int others_end, int expected) {
  pid_t pid = fork();
  if (pid)
    return pid;
  close(others_end);
  close(mom);
  signal(SIGHUP, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  int count = 3, size = 3, to[4096];
  struct pollfd doors[4096] = {{out, POLLIN, 0}, {err, POLLIN, 0}, {over, POLLIN, 0}};
  char data[65536];
  int last = 0, ended = 0;
  for (;;) {
    if (last && ended >= expected)
      _exit(0);
    int ready = poll(doors, count, last ? 100 : -1);
    if (ready < 0 && errno != EINTR)
      _exit(1);
    if (last && !ready)
      _exit(0);
    if (ready <= 0)
      continue;
    if (doors[2].revents) {
      last = 1;
      doors[2].fd = -1;
    }
    for (int i = 3; i < count; i++) {
      if (!doors[i].revents)
        continue;
      ssize_t got = read(doors[i].fd, data, sizeof data);
      if (got <= 0) {
        close(doors[i].fd);
        doors[i].fd = -1;
        ended++;
      } else
        for (ssize_t done = 0, more; done < got; done += more)
          if ((more = write(to[i], data + done, got - done)) < 0)
            break;
    }
    for (int i = 0; i < 2; i++)
      if (doors[i].revents & POLLIN && size < 4096) {
        doors[size].fd = accept4(doors[i].fd, NULL, NULL, SOCK_CLOEXEC);
        doors[size].events = POLLIN;
        doors[size].revents = 0;
        to[size++] = i + 1;
      }
    count = size;
  }
}

static void kill_tasks(void) {
  for (int i = 0; i < n_tasks; i++)
    if (tasks[i].tid) {
      fprintf(stderr, "%s: killing task %ld signal %d\n", id, tasks[i].tid, (int)interrupted);
      begin_message(3);
      send_text("kill");
      send_number(tasks[i].tid);
      send_number(interrupted);
    }
}

static void wait_for_tasks(void) {
  char line[256];
  while (waiting) {
    int got = read_line(line, sizeof line), index, code;
    long tid;
    if (got < 0) {
      kill_tasks();
      exit(1);
    }
    if (!got) {
      fprintf(stderr, "%s: Event poll failed, error TM_ENOTCONNECTED\n", id);
      exit(2);
    }
    if (sscanf(line, "spawned %d %ld", &index, &tid) == 2 && index < n_tasks) {
      if (verbose)
        fprintf(stderr, "%s: spawn event returned: %d\n", id, index);
      tasks[index].tid = tid;
    } else if (sscanf(line, "failed %d %d", &index, &code) == 2) {
      fprintf(stderr, "%s: error %d on spawn\n", id, code);
      waiting--;
    } else if (sscanf(line, "over %d %d", &index, &code) == 2 && index < n_tasks) {
      if (verbose || code)
        fprintf(stderr, "%s: task %d exit status %d\n", id, tasks[index].slot, code);
      tasks[index].tid = 0;
      waiting--;
    }
  }
}

static void spawn(int index, int argc, char **argv) {
  begin_message(4 + argc + n_asked);
  send_text("spawn");
  send_number(index);
  send_number(tasks[index].slot);
  send_number(argc);
  for (int i = 0; i < argc; i++)
    send_text(argv[i]);
  for (int i = 0; i < n_asked; i++)
    send_text(asked[i]);
  if (verbose)
    fprintf(stderr, "%s: spawned task %d\n", id, tasks[index].slot);
  waiting++;
}

/* The names in the node file, which must be as many as there are slots. */
static char **node_names(int slots) {
  char *path = getenv("PBS_NODEFILE"), line[1024];
  char **names = calloc(slots + 1, sizeof *names);
  int count = 0;
  if (!path) {
    fprintf(stderr, "PBS_NODEFILE environment variable not set\n");
    exit(1);
  }
  FILE *file = fopen(path, "r");
  if (!file) {
    fprintf(stderr, "failed to open %s\n", path);
    exit(1);
  }
  while (count < slots && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    names[count++] = strdup(line);
  }
  fclose(file);
  if (count != slots) {
    fprintf(stderr, "number of hostnames (%d) read from %s does not match number of nodes (%d) in job\n", count, path,
            slots);
    exit(1);
  }
  return names;
}

static int is_host(const char *name, const char *wanted) {
  size_t length = strcspn(name, ".");
  return !strcmp(name, wanted) || (strlen(wanted) == length && !strncmp(name, wanted, length));
}

static int slot_of(char *wanted, char **names, int slots) {
  int nth = 0;
  char *slash = strchr(wanted, '/');
  if (slash) {
    *slash = 0;
    nth = atoi(slash + 1);
  }
  for (int i = 0; i < slots; i++)
    if (is_host(names[i], wanted) && nth-- == 0)
      return i;
  fprintf(stderr, "%s: %s not found\n", id, wanted);
  exit(1);
}

static int connect_to_mom(void) {
  char *port = getenv("PBS_MOMPORT"), *job = getenv("PBS_JOBID"), *cookie = getenv("PBS_JOBCOOKIE");
  char *task = getenv("PBS_TASKNUM"), line[256];
  int slots, code = NOT_CONNECTED;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  address.sin_port = htons(port ? atoi(port) : 0);
  mom = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (mom >= 0 && job && cookie && task && !connect(mom, (void *)&address, sizeof address)) {
    begin_message(4);
    send_text("init");
    send_text(job);
    send_text(cookie);
    send_text(task);
    if (read_line(line, sizeof line) > 0) {
      if (sscanf(line, "nodes %d", &slots) == 1)
        return slots;
      sscanf(line, "error %d", &code);
    }
  }
  fprintf(stderr, "%s: tm_init failed, rc = %s (%d)\n", id, code == NOT_CONNECTED ? "TM_ENOTCONNECTED" : "TM_ESYSTEM", code);
  exit(1);
}

static void usage(const char *name) {
  fprintf(stderr, "Usage: %s [-c copies][-e name[=[value]][,...]][-E][-o][-s][-u][-v] program [args]...]\n", name);
  fprintf(stderr, "       %s [-n nodenumber][-e name[=[value]][,...]][-E][-o][-s][-u][-v] program [args]...\n", name);
  fprintf(stderr, "       %s [-h hostname][-e name[=[value]][,...]][-E][-o][-v] program [args]...\n", name);
  exit(1);
}

int main(int argc, char **argv) {
  int copies = -1, only = -1, grab = 0, sync = 0, unique = 0, all = 0, wrong = 0, option, over[2] = {-1, -1};
  char *host = NULL, **names = NULL, port[64];
  pid_t relayer = 0;
  snprintf(id, sizeof id, "pbsdsh(%.20s)", getenv("PBSDEBUG") && getenv("PBS_TASKNUM") ? getenv("PBS_TASKNUM") : "");
  while ((option = getopt(argc, argv, "+c:e:n:h:osuvE")) != -1)
    switch (option) {
    case 'c': wrong |= (copies = atoi(optarg)) <= 0; break;
    case 'e': ask_for_list(optarg, all); break;
    case 'E':
      for (char **pair = environ; !all && *pair; pair++)
        ask_for(*pair);
      all = 1;
      break;
    case 'h': host = strdup(optarg); break;
    case 'n': wrong |= (only = atoi(optarg)) < 0; break;
    case 'o': grab = 1; break;
    case 's': sync = 1; break;
    case 'u': unique = 1; break;
    case 'v': verbose = 1; break;
    default: wrong = 1;
    }
  if (optind == argc)
    fprintf(stderr, "%s: must specify a program\n", id);
  if (wrong || (only >= 0 && copies >= 1) || optind == argc)
    usage(argv[0]);
  if (!getenv("PBS_ENVIRONMENT")) {
    fprintf(stderr, "%s: not executing under PBS\n", id);
    return 1;
  }
  int slots = connect_to_mom(), count = 0;
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGHUP, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  if (unique || host)
    names = node_names(slots);
  if (host)
    only = slot_of(host, names, slots);
  int *chosen = calloc(slots, sizeof *chosen);
  for (int i = 0; i < slots; i++)
    if (!unique || host || !i || strcmp(names[i], names[i - 1]))
      chosen[count++] = i;
  if (only >= count || copies > count) {
    fprintf(stderr, "%s: only %d nodes available\n", id, count);
    return 1;
  }
  int first = only >= 0 ? only : 0, last = only >= 0 ? only + 1 : copies >= 0 ? copies : count;
  if (grab) {
    int out, err, out_port, err_port;
    listener_of(&out, &out_port);
    listener_of(&err, &err_port);
    if (pipe(over))
      return 1;
    fflush(NULL);
    relayer = relay(out, err, over[0], over[1], 2 * (last - first));
    close(out);
    close(err);
    close(over[0]);
    snprintf(port, sizeof port, "TM_STDOUT_PORT=%d", out_port);
    ask_for(port);
    snprintf(port, sizeof port, "TM_STDERR_PORT=%d", err_port);
    ask_for(port);
  }
  tasks = calloc(slots, sizeof *tasks);
  for (int i = first; i < last; i++) {
    tasks[n_tasks].slot = chosen[i];
    spawn(n_tasks++, argc - optind, argv + optind);
    if (sync)
      wait_for_tasks();
  }
  wait_for_tasks();
  if (relayer) {
    close(over[1]);
    waitpid(relayer, NULL, 0);
  }
  return 0;
}
