#!/bin/bash
# The use case pbsdock came from: input from a bucket, computed in a container, the result back in a bucket, and no key
# anywhere in the script. On a Ceph RADOS gateway of its own.
# shellcheck disable=SC2034,SC2154 # read in, and assigned in, common.sh and what the gateway prints
set -euo pipefail
# shellcheck source=demo/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

step "a RADOS gateway: monitor, OSD and radosgw below $scratch"
(cd "$here" && exec .venv/bin/python -m tests.support.rgw "$scratch/gateway") >"$scratch/said" 2>"$scratch/gateway.err" &
beside=$!
for _ in $(seq 900); do
  ! grep -q '^ready=yes$' "$scratch/said" || break
  kill -0 "$beside" 2>/dev/null || { cat "$scratch/gateway.err" >&2; exit 1; }
  sleep 0.1
done
# shellcheck source=/dev/null
. "$scratch/said"
echo "answers at $endpoint"

# What a user does with s3cmd on a login node; the keys are alice's own and stay there.
s3() { # s3 USER COMMAND…
  local access="$1_access" secret="$1_secret"
  shift
  s3cmd -c /dev/null --no-ssl --no-progress --host="${endpoint#http://}" --host-bucket="${endpoint#http://}" \
    --access_key="${!access}" --secret_key="${!secret}" "$@"
}

step "alice has input, bob has data that is nobody else's business"
seq 100000 >"$scratch/numbers"
for bucket in alice-in alice-out; do s3 alice mb "s3://$bucket"; done
s3 bob mb s3://bob-data
s3 alice put "$scratch/numbers" s3://alice-in/numbers
s3 bob put "$scratch/numbers" s3://bob-data/numbers

step "an instance of pbsdock that knows the store"
instance >/dev/null
cat >>"$scratch/etc/pbsdock/pbsdock.toml" <<EOF

[s3.ceph]
endpoint = "$endpoint"
identity = "$identity"
allow = ["alice-in:ro", "alice-out:rw"]
probe = ["alice-in", "bob-data"]
EOF
"$pbsdock" doctor s3

step "the job script"
cat >"$home/sum.sh" <<'JOB'
#!/bin/sh
#PBS -N sum -l nodes=1:ppn=1,mem=64mb,walltime=00:05:00
#DOCKER pbsdock-demo/busybox:1 --s3 alice-in
#DOCKER --stage-in s3://alice-in/numbers $HOME/numbers
#DOCKER --stage-out $HOME/sum s3://alice-out/$PBS_JOBID/sum
awk '{ total += $1 } END { print total }' "$HOME/numbers" >"$HOME/sum"
echo "credentials are files: $(ls /run/pbsdock/s3 | tr '\n' ' ')"
echo "keys in the environment: $(env | grep -ciE 'SECRET|ACCESS_KEY')"
JOB
chown "$user" "$home/sum.sh"
cat "$home/sum.sh"

step "the job"
try "$home/sum.sh"
expect "exit status" "$status" 0
key=$(s3 alice ls --recursive s3://alice-out | awk '{ print $4 }')
s3 alice get "$key" "$scratch/sum" >/dev/null
expect "the sum, read back from $key" "$(cat "$scratch/sum")" 5000050000
expect "no key in the environment" "$(grep -c 'environment: 0' "$scratch/out")" 1

step "a job that asks for what is bob's"
printf '#!/bin/sh\n#DOCKER pbsdock-demo/busybox:1 --s3 bob-data\n' >"$home/bad.sh"
try "$home/bad.sh"
expect "exit status of a refusal" "$status" 125

told
expect "roles at the gateway" \
  "$(radosgw-admin -c "$scratch/gateway/ceph.conf" role list 2>/dev/null | grep -c '"RoleName": "pbsdock' || true)" 0
expect "containers" "$(docker ps -aq --filter "label=pbsdock.owner=$owner" | wc -l)" 0
expect "mounts" "$(grep -c "$scratch/run" /proc/mounts || true)" 0
expect "records" "$(find "$scratch/var/lib/pbsdock/jobs" -name '*.json' | wc -l)" 0
for secret in "$alice_secret" "$bob_secret" "$(sed -n 's/^secret_key = "\(.*\)"/\1/p' "$identity")"; do
  expect "no key in what pbsdock wrote" \
    "$(grep -rlF -- "$secret" "$scratch/var" "$scratch/run" "$scratch/out" "$scratch/err" "$home" 2>/dev/null | wc -l)" 0
done
over
