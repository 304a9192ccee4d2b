#!/bin/bash
# All tests, in two parts side by side: what uses the host's engine and waits most of the time, and what computes most of the
# time or has an engine, users and a gateway of its own. At the end what each directory took, and the rows of docs/security.md.
# Arguments are pytest's, for both parts; with them the rows are not judged.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=.venv/bin/python
every_event=tests/engine/test_zz_whole.py::test_every_event_of_the_run_is_of_the_schema

tests() { # tests ARGUMENTS…: 5 is "none of this part was asked for"
  "$python" -m pytest --durations=10 --laps-to "$work/laps" --threats-to "$work/threats" "$@" "${given[@]}"
  local status=$?
  [ "$status" = 0 ] || { [ "$status" = 5 ] && [ "${#given[@]}" != 0 ]; }
}

second() {
  local bad=0
  nice timeout 1800 "$python" -m tests.vm.base >/dev/null 2>&1 & # what goes wrong is told by the tests that need it
  tests tests/unit || bad=1
  wait
  tests --tb=short tests/vm || bad=1
  PBSDOCK_TEST_USERS='pbsdock-c pbsdock-d' tests tests/s3 tests/faults "$every_event" || bad=1
  return "$bad"
}

if [ "${1-}" = --second ]; then
  work=$2
  given=("${@:3}")
  second
  exit
fi

given=("$@")
bad=0
work=$(mktemp -d)
setsid "$0" --second "$work" "$@" >"$work/second" 2>&1 & # a process group, to be ended as a whole
part=$!
trap 'kill -- -"$part" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
tests tests/engine tests/attacks tests/fuzz || bad=1
wait "$part" || bad=1
printf '\nThe second part, which ran beside it:\n'
cat "$work/second"
echo
[ "${#given[@]}" != 0 ] || "$python" -m tests.support.threats "$work/threats" || bad=1
echo
"$python" -m tests.support.laps "$work/laps"
exit "$bad"
