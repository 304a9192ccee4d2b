#!/bin/bash
# The front door: a scratch instance, one real job through the three hooks, what happened, and that nothing is left.
# shellcheck disable=SC2154 # assigned in common.sh
set -euo pipefail
sh "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"
# shellcheck source=demo/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

step "a local image, and an instance of pbsdock below $scratch"
instance

step "the job script"
cat >"$home/job.sh" <<'JOB'
#!/bin/sh
#PBS -N demo -l nodes=1:ppn=1,mem=64mb,walltime=00:01:00
#DOCKER pbsdock-demo/busybox:1
echo "who:    $(id)"
echo "where:  $(pwd) on $(hostname), job $PBS_JOBID, slots on $(cat "$PBS_NODEFILE")"
echo "image:  FROM_IMAGE=$FROM_IMAGE, $(busybox | head -n 1)"
echo "memory: $(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null) bytes"
echo "right:  $(grep CapEff /proc/self/status), $(grep NoNewPrivs /proc/self/status)"
echo "written by the job" >"$HOME/result.txt"
echo "this goes to stderr" >&2
exit 7
JOB
chown "$user" "$home/job.sh"
cat "$home/job.sh"

step "pbsdock check, then the job through prologue, run and epilogue, as pbs_mom would"
"$pbsdock" check "$home/job.sh"
try "$home/job.sh"
expect "exit status" "$status" 7
expect "stderr, nothing added" "$(cat "$scratch/err")" "this goes to stderr"
expect "ran in the image" "$(grep -c 'FROM_IMAGE=yes' "$scratch/out")" 1
expect "ran as the user" "$(grep -c "uid=$(id -u "$user")($user)" "$scratch/out")" 1
expect "memory limit" "$(grep -c 67108864 "$scratch/out")" 1
expect "file in the home directory, owned by the user" "$(stat -c %U "$home/result.txt" 2>/dev/null)" "$user"

step "a job with a mistake"
printf '#!/bin/sh\n#DOCKER --privileged pbsdock-demo/busybox:1\n' >"$home/bad.sh"
try "$home/bad.sh"
expect "exit status of a refusal" "$status" 125

told
expect "containers" "$(docker ps -aq --filter "label=pbsdock.owner=$owner" | wc -l)" 0
expect "cgroups" "$(find /sys/fs/cgroup -maxdepth 3 -type d -path "*/${owner%@*}/*" 2>/dev/null | wc -l)" 0
expect "records" "$(find "$scratch/var/lib/pbsdock/jobs" -name '*.json' | wc -l)" 0
expect "files" "$(find "$scratch/run/pbsdock/work" "$scratch/run/pbsdock/jobs" -mindepth 1 | wc -l)" 0
over
