.PHONY: help deb demo demo-s3 test test-v2 attack fuzz faults load bench lint lock

PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip --quiet --disable-pip-version-check
SHELL_FILES := install.sh $(filter-out hooks/ask,$(wildcard hooks/*)) deb/build.sh deb/postinst deb/prerm deb/postrm tests/*.sh tests/vm/*.sh demo/*.sh .ci/run examples/*.sh
C_FILES := init/init.c tests/init_fuzz.c
C_CHECKS := -std=c11 -O2 -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wpointer-arith -Werror

help:
	@echo 'make demo   run a real job through the three hooks and show what happened (root, Debian 12)'
	@echo 'make demo-s3  the same with an object store of its own: input from a bucket, result back into one'
	@echo 'make test   everything CI runs: linters, types, unit tests, tests on the real engine (root)'
	@echo 'make attack the attacks of docs/security.md with a table of its rows (root); part of make test; LONG=1: longer races'
	@echo 'make fuzz   four users against the agent for ten minutes, with a table of what must hold (root); FUZZ_S=seconds'
	@echo 'make faults every fault at every step, the engine hung for five minutes (root, about an hour and a half)'
	@echo 'make load   2,000 jobs in a row, 64 at once, 10,000 dead records, 500 foreign containers (root)'
	@echo 'make test-v2 all of it that needs cgroup v2 and systemd, in a virtual machine (root)'
	@echo 'make bench  the costs as ratios to plain docker (root)'
	@echo 'make deb    dist/pbsdock_VERSION_ARCHITECTURE.deb, which installs without a network (needs a package index)'
	@echo 'make lint   ruff, mypy --strict, import-linter, shellcheck and cppcheck alone'
	@echo 'make lock   lock/*.txt anew: the newest packages setup.cfg allows, with their hashes (needs a package index);'
	@echo '            and advisories on them, if api.osv.dev can be reached'

demo:
	@bash demo/demo.sh

demo-s3: setup
	@bash demo/demo-s3.sh

test: setup lint
	@tests/run.sh

attack: setup
	PBSDOCK_ATTACK_LONG=$(LONG) $(PYTHON) -m pytest -m threat --threats -o timeout=$(if $(LONG),900,180)

fuzz: setup
	PBSDOCK_FUZZ_S=$(or $(FUZZ_S),600) $(PYTHON) -m pytest tests/fuzz

faults: setup
	PBSDOCK_FAULTS=full $(PYTHON) -m pytest -s tests/faults

load: setup
	@$(PYTHON) bench/load.py full

test-v2: setup
	PBSDOCK_VM=full $(PYTHON) -m pytest --tb=short tests/vm

bench: setup
	@$(PYTHON) bench/bench.py

deb: .venv/stamp
	@bash deb/build.sh

lint: .venv/stamp
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache --no-logo
	shellcheck -x $(SHELL_FILES)
	for file in $(C_FILES); do cc $(C_CHECKS) -c -o /dev/null $$file || exit; done
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --error-exitcode=1 $(C_FILES)

# The oldest Python that is supported resolves; the newest releases that setup.cfg allows are taken.
lock:
	@sh tests/setup.sh
	/usr/bin/python3 lock/lock.py
	/usr/bin/python3 lock/advisories.py

.PHONY: setup
setup: .venv/stamp lib/pbsdock/init/pbsdock-init lib/pbsdock/init/tm-agent
	@sh tests/setup.sh store

# As installing the checkout in place has done it; again when its source has changed.
lib/pbsdock/init/pbsdock-init: $(wildcard init/*.[ch]) lib/pbsdock/admin/setup/first_process.py | .venv/stamp
	$(PYTHON) -c 'from pathlib import Path; from pbsdock.admin.setup import first_process; first_process.compile_to(Path("$@"), Path("init"))'

lib/pbsdock/init/tm-agent: init/tm-agent.c lib/pbsdock/admin/setup/first_process.py | .venv/stamp
	$(PYTHON) -c 'from pathlib import Path; from pbsdock.admin.setup import first_process; first_process.compile_to(Path("$@"), Path("init"), first_process.TM_AGENT)'

.venv/stamp: setup.cfg pyproject.toml lock/test.txt
	@sh tests/setup.sh
	/usr/bin/python3 -m venv --clear .venv
	$(PIP) install --require-hashes -r lock/build.txt
	PIP_USE_PEP517=1 $(PIP) install --no-build-isolation --require-hashes -r lock/test.txt
	$(PIP) install --no-index --no-deps --no-build-isolation -e .
	@touch $@
