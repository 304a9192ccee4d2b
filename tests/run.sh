#!/bin/bash
# All tests, in three parts side by side: what uses the host's engine; what computes all the time; and what has an engine or a
# gateway, and users, of its own. The first and the last wait most of the time. At the end what each directory took, and the
# rows of docs/security.md. Arguments are pytest's, for all parts; with them the rows are not judged.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=.venv/bin/python

run() { # run ARGUMENTS…: 5 is "none of these was asked for"
  "$python" -m pytest --durations=10 --laps-to "$work/laps" --threats-to "$work/threats" "$@" "${given[@]}"
  local status=$?
  [ "$status" = 0 ] || { [ "$status" = 5 ] && [ "${#given[@]}" != 0 ]; }
}

# A host with an engine of its own: these need not be in the longest part.
own_host=tests/engine/test_odd_hosts.py

with_the_hosts_engine() { run tests/engine tests/attacks --ignore="$own_host"; }

computing() {
  local bad=0
  nice timeout 1800 "$python" -m tests.vm.base >/dev/null 2>&1 & # what goes wrong is told by the tests that need it
  run tests/unit || bad=1
  wait
  run --tb=short tests/vm || bad=1
  return "$bad"
}

with_their_own() {
  export PBSDOCK_TEST_USERS='pbsdock-c pbsdock-d'
  run tests/s3 tests/faults tests/fuzz "$own_host" tests/engine/test_zz_whole.py::test_every_event_of_the_run_is_of_the_schema
}

if [ "${1-}" = --part ]; then
  part=$2 work=$3
  given=("${@:4}")
  case $part in
    computing) computing ;;
    with_their_own) with_their_own ;;
  esac
  exit
fi

given=("$@")
bad=0
work=$(mktemp -d)
pids=()
# shellcheck disable=SC2317 # the trap calls it
tidy_up() {
  local pid
  for pid in "${pids[@]}"; do kill -- -"$pid" 2>/dev/null; done
  rm -rf "$work"
}
trap tidy_up EXIT
trap 'exit 130' INT TERM
for part in computing with_their_own; do
  setsid "$0" --part "$part" "$work" "$@" >"$work/$part" 2>&1 & # a process group each, to be ended as a whole
  pids+=($!)
done
with_the_hosts_engine || bad=1
for part in computing with_their_own; do
  wait "${pids[0]}" || bad=1
  pids=("${pids[@]:1}")
  printf '\nBeside it, %s:\n' "${part//_/ }"
  cat "$work/$part"
done
echo
[ "${#given[@]}" != 0 ] || "$python" -m tests.support.threats "$work/threats" || bad=1
echo
"$python" -m tests.support.laps "$work/laps"
exit "$bad"
