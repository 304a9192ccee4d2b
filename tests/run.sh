#!/bin/bash
# All tests, in three parts side by side: jobs, which use the host's engine; what computes all the time; and what has an engine or
# a gateway of its own, with the attacks after it. All but the second wait most of the time, and each has users of its own; a
# fourth beside them would make the others late, not the whole shorter. A test that fails there is tried once more by itself,
# when nothing else runs: many are about time, and the parts take it from one another. It is listed in any case, and more than a
# few are none of that. At the end what each directory took, and the rows of docs/security.md. Arguments are pytest's, for all
# parts; with them nothing is tried again, and the rows are not judged.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=.venv/bin/python

most_again=8

# A shell has what it starts beside itself ignore these, and a test of signals would inherit that.
pytest() { env --default-signal=HUP,INT,QUIT "$python" -m pytest "$@"; }

run() { # run ARGUMENTS…: status 1 is "some failed", 5 "none of these was asked for"
  local status cache
  cache=$(mktemp -d "$work/cache.XXXXXX")
  pytest --durations=10 -o cache_dir="$cache" --laps-to "$work/laps" --threats-to "$work/threats" "$@" "${given[@]}"
  status=$?
  if [ "$status" = 1 ] && [ "${#given[@]}" = 0 ]; then
    failed_of "$cache" >>"$work/failed" && return
  fi
  [ "$status" = 0 ] || { [ "$status" = 5 ] && [ "${#given[@]}" != 0 ]; }
}

failed_of() { # failed_of CACHE: the tests that failed, one a line
  "$python" -c 'import json, sys; print(*json.load(open(sys.argv[1] + "/v/cache/lastfailed")), sep="\n")' "$1"
}

again() { # the failed tests by themselves, one after another
  local tests test bad=0
  mapfile -t tests <"$work/failed"
  printf '\nFailed while the others ran, and tried again without them:\n'
  printf '  %s\n' "${tests[@]}"
  [ "${#tests[@]}" -le "$most_again" ] || { printf 'These are more than %s; none is tried again.\n' "$most_again"; return 1; }
  for test in "${tests[@]}"; do
    pytest --threats-to "$work/threats" "$test" || bad=1
  done
  return "$bad"
}

# A host with an engine of its own: these need not be in the longest part.
own_host=tests/engine/test_odd_hosts.py

# Emulated nodes are there once on a host.
with_nodes=(tests/attacks/test_t40_channel.py tests/attacks/test_t40_tickets.py)

with_the_hosts_engine() { run tests/engine "${with_nodes[@]}" --ignore="$own_host"; }

computing() {
  local bad=0
  nice timeout 1800 "$python" -m tests.vm.base >/dev/null 2>&1 & # what goes wrong is told by the tests that need it
  run tests/unit || bad=1
  wait
  run --tb=short tests/vm || bad=1
  return "$bad"
}

stores_and_attacks() {
  local bad=0
  export PBSDOCK_TEST_USERS='pbsdock-c pbsdock-d'
  run tests/s3 tests/faults tests/fuzz "$own_host" tests/engine/test_zz_whole.py::test_every_event_of_the_run_is_of_the_schema \
    || bad=1
  run tests/attacks "${with_nodes[@]/#/--ignore=}" || bad=1
  return "$bad"
}

if [ "${1-}" = --part ]; then
  part=$2 work=$3
  given=("${@:4}")
  case $part in
    computing) computing ;;
    stores_and_attacks) stores_and_attacks ;;
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
for part in computing stores_and_attacks; do
  setsid "$0" --part "$part" "$work" "$@" >"$work/$part" 2>&1 & # a process group each, to be ended as a whole
  pids+=($!)
done
with_the_hosts_engine || bad=1
for part in computing stores_and_attacks; do
  wait "${pids[0]}" || bad=1
  pids=("${pids[@]:1}")
  printf '\nBeside it, %s:\n' "${part//_/ }"
  cat "$work/$part"
done
[ ! -s "$work/failed" ] || again || bad=1
echo
[ "${#given[@]}" != 0 ] || "$python" -m tests.support.threats "$work/threats" || bad=1
echo
"$python" -m tests.support.laps "$work/laps"
exit "$bad"
