#!/bin/bash
# All tests. Those in the virtual machine wait for the machine and the others mostly for an engine, so both run at once,
# the machine with what the others leave of the processors.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
log=$(mktemp)
trap 'rm -f "$log"' EXIT
nice -n 15 .venv/bin/python -m pytest tests/vm >"$log" 2>&1 &
machine=$!
bad=0
.venv/bin/python -m pytest --threats --ignore=tests/vm "$@" || bad=1
wait "$machine" || bad=1
cat "$log"
exit "$bad"
