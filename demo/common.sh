# shellcheck shell=bash
# What the demonstrations share: a scratch instance and an ordinary user, and that both are gone afterwards.
# shellcheck disable=SC2034,SC2100,SC2317 # used by whoever reads this; names with hyphens; finish is called by the trap
[ "$(id -u)" = 0 ] || { echo "${0##*/} needs root" >&2; exit 1; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scratch=$(mktemp -d /var/tmp/pbsdock-demo.XXXXXX)
chmod 755 "$scratch"
user=pbsdock-demo
made_user=
id "$user" >/dev/null 2>&1 || { useradd -m -s /bin/bash "$user"; made_user=1; }
home=$(getent passwd "$user" | cut -d: -f6)
image=pbsdock-demo/busybox:1
beside= # the pid of what else was started
bad=0

finish() {
  [ ! -s "$scratch/run/pbsdock/agent.pid" ] || kill "$(cat "$scratch/run/pbsdock/agent.pid")" 2>/dev/null || true
  [ -z "$beside" ] || { kill "$beside" 2>/dev/null || true; wait "$beside" 2>/dev/null || true; }
  docker rmi "$image" >/dev/null 2>&1 || true
  [ -z "$made_user" ] || userdel -r "$user" >/dev/null 2>&1 || true
  rm -rf --one-file-system "$scratch"
}
trap finish EXIT

step() { printf '\n== %s\n' "$*"; }
expect() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "NOT AS IT SHOULD BE: $1: got '$2', expected '$3'"; bad=1; fi; }

# instance: a local image, and an instance of pbsdock below the scratch directory
instance() {
  sh "$here/tests/image.sh" "$image"
  mkdir -p "$scratch/mom_priv"
  "$here/install.sh" --mom-priv "$scratch/mom_priv" --root "$scratch"
  pbsdock="$scratch/opt/pbsdock/bin/pbsdock"
  owner="$(cat "$scratch/etc/pbsdock/instance")@$(hostname)"
}

# try SCRIPT: as pbs_mom would; output in $scratch/out and $scratch/err, exit status in $status
try() {
  status=0
  (cd "$home" && "$pbsdock" try --user "$user" "$1" >"$scratch/out" 2>"$scratch/err") || status=$?
  sed 's/^/  stdout | /' "$scratch/out"
  sed 's/^/  stderr | /' "$scratch/err"
}

# told: the events, once the epilogue's work is done: it does not keep mom waiting while the engine tidies up
told() {
  for _ in $(seq 50); do
    [ "$(find "$scratch/var/lib/pbsdock/jobs" -name '*.json' | wc -l)" != 0 ] || break
    sleep 0.1
  done
  step "what the operator saw"
  "$pbsdock" events
  step "what is left"
}

# over: the verdict
over() {
  echo
  if [ "$bad" = 0 ]; then echo "everything as it should be"; else echo "something is not as it should be"; fi
  exit "$bad"
}
