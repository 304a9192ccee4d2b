#!/bin/bash
# All tests. The virtual machine has its turn after the others: beside them neither would have the time it needs. Only its
# kernel and root are built meanwhile, which is mostly waiting for packages.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
nice timeout 1800 .venv/bin/python -m tests.vm.base >/dev/null 2>&1 & # what goes wrong is told by the tests that need it
bad=0
.venv/bin/python -m pytest --threats --durations=15 --ignore=tests/vm "$@" || bad=1
wait
.venv/bin/python -m pytest --tb=short tests/vm || bad=1
exit "$bad"
