/* pbsdock-spank: has the tasks of Slurm's job steps run in the container that their job has on this node.
 *
 *   optional pbsdock-spank.so STEP RUN_DIR                       (plugstack.conf)
 *
 * In a task's own process, as its user, just before it becomes its program, that is exchanged for STEP (run.c), which finds in
 * PBSDOCK_STEP what it was. Nothing else is done here: a bare job's task costs a look at a file's name. Whatever is not as it
 * should be leaves the task as it is. */
#define _GNU_SOURCE
#include <slurm/spank.h>
#include <slurm/slurm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

SPANK_PLUGIN(pbsdock, 1)

/* Whether there is one with something in it: of its value the first letter is enough. */
static bool is_set(spank_t task, const char *name) {
	char value[2] = "";
	spank_err_t error = spank_getenv(task, name, value, sizeof value);
	return error == ESPANK_NOSPACE || (error == ESPANK_SUCCESS && *value);
}

/* Whether the job has a container on this node, or its owner asks for one. */
static bool is_ours(spank_t task, uint32_t job, const char *run_dir) {
	char marker[256];
	int length = snprintf(marker, sizeof marker, "%s/jobs/%u", run_dir, job);
	return (length < (int)sizeof marker && !access(marker, F_OK)) || is_set(task, "PBSDOCK") || is_set(task, "PBSDOCK_TICKET");
}

int slurm_spank_task_init(spank_t task, int count, char **words) {
	uint32_t job, step;
	int argc = 0;
	char **argv = NULL, *told = NULL;
	if (count < 2 || spank_get_item(task, S_JOB_ID, &job) || spank_get_item(task, S_JOB_STEPID, &step))
		return 0;
	if (step == SLURM_BATCH_SCRIPT || step == SLURM_EXTERN_CONT || !is_ours(task, job, words[1]) || access(words[0], X_OK))
		return 0;
	if (spank_get_item(task, S_JOB_ARGV, &argc, &argv) || argc < 1 || !argv || !argv[0])
		return 0;
	if (asprintf(&told, "%u %s", job, argv[0]) < 0)
		return 0;
	if (!spank_setenv(task, "PBSDOCK_STEP", told, 1))
		argv[0] = words[0]; /* this process's own copy, soon to be gone */
	free(told);
	return 0;
}
