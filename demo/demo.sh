#!/bin/bash
# The front door: a scratch instance, one real job through the three hooks, what happened, and that nothing is left.
# shellcheck disable=SC2100,SC2317 # names with hyphens; finish is called by the trap
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ "$(id -u)" = 0 ] || { echo "make demo needs root" >&2; exit 1; }
sh "$here/tests/setup.sh"

scratch=$(mktemp -d /var/tmp/pbsdock-demo.XXXXXX)
chmod 755 "$scratch"
user=pbsdock-demo
made_user=
id "$user" >/dev/null 2>&1 || { useradd -m -s /bin/bash "$user"; made_user=1; }
image=pbsdock-demo/busybox:1

finish() {
  [ ! -s "$scratch/run/pbsdock/agent.pid" ] || kill "$(cat "$scratch/run/pbsdock/agent.pid")" 2>/dev/null || true
  docker rmi "$image" >/dev/null 2>&1 || true
  [ -z "$made_user" ] || userdel -r "$user" >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap finish EXIT

step() { printf '\n== %s\n' "$*"; }
bad=0
expect() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "NOT AS IT SHOULD BE: $1: got '$2', expected '$3'"; bad=1; fi; }

step "a local image, and an instance of pbsdock below $scratch"
sh "$here/tests/image.sh" "$image"
mkdir -p "$scratch/mom_priv"
"$here/install.sh" --mom-priv "$scratch/mom_priv" --root "$scratch"
pbsdock="$scratch/opt/pbsdock/bin/pbsdock"
instance=$(cat "$scratch/etc/pbsdock/instance")

step "the job script"
home=$(getent passwd "$user" | cut -d: -f6)
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
status=0
(cd "$home" && "$pbsdock" try --user "$user" "$home/job.sh" >"$scratch/out" 2>"$scratch/err") || status=$?
sed 's/^/  stdout | /' "$scratch/out"
sed 's/^/  stderr | /' "$scratch/err"
expect "exit status" "$status" 7
expect "stderr, nothing added" "$(cat "$scratch/err")" "this goes to stderr"
expect "ran in the image" "$(grep -c 'FROM_IMAGE=yes' "$scratch/out")" 1
expect "ran as the user" "$(grep -c "uid=$(id -u "$user")($user)" "$scratch/out")" 1
expect "memory limit" "$(grep -c 67108864 "$scratch/out")" 1
expect "file in the home directory, owned by the user" "$(stat -c %U "$home/result.txt" 2>/dev/null)" "$user"

step "a job with a mistake"
printf '#!/bin/sh\n#DOCKER --privileged pbsdock-demo/busybox:1\n' >"$home/bad.sh"
status=0
(cd "$home" && "$pbsdock" try --user "$user" "$home/bad.sh" >"$scratch/out" 2>"$scratch/err") || status=$?
sed 's/^/  stderr | /' "$scratch/err"
expect "exit status of a refusal" "$status" 125

# An epilogue does not keep mom waiting while the engine tidies up behind a container that is over.
for _ in $(seq 50); do [ "$(find "$scratch/var/lib/pbsdock/jobs" -name '*.json' | wc -l)" != 0 ] || break; sleep 0.1; done

step "what the operator saw"
"$pbsdock" events

step "what is left"
expect "containers" "$(docker ps -aq --filter "label=pbsdock.owner=$instance@$(hostname)" | wc -l)" 0
expect "cgroups" "$(find /sys/fs/cgroup -maxdepth 3 -type d -path "*/$instance/*" 2>/dev/null | wc -l)" 0
expect "records" "$(find "$scratch/var/lib/pbsdock/jobs" -name '*.json' | wc -l)" 0
expect "files" "$(find "$scratch/run/pbsdock/work" "$scratch/run/pbsdock/jobs" -mindepth 1 | wc -l)" 0
echo
if [ "$bad" = 0 ]; then echo "everything as it should be"; else echo "something is not as it should be"; fi
exit "$bad"
