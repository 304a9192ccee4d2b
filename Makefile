.PHONY: help demo demo-s3 test test-v2 mpi attack fuzz faults load bench lint lock pages deb docs

PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip --quiet --disable-pip-version-check
SHELL_FILES := install.sh $(filter-out hooks/ask,$(filter-out hooks/slurm,$(wildcard hooks/*)) $(filter-out %.lua,$(wildcard hooks/slurm/*))) tests/*.sh tests/vm/*.sh deb/*.sh deb/postinst deb/prerm deb/postrm demo/*.sh .ci/run examples/*.sh
C_FILES := init/init.c init/run.c init/docker.c init/tm-agent.c init/pbsdsh.c tests/init_fuzz.c tests/run_fuzz.c tests/docker_fuzz.c
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
	@echo 'make mpi    jobs on two nodes with Open MPI 4, Open MPI 5 and MPICH; make test has the first (root)'
	@echo 'make bench  the costs as ratios to plain docker (root)'
	@echo 'make lint   ruff, mypy --strict, import-linter, shellcheck and cppcheck alone'
	@echo 'make pages manual pages and shell completion anew, from the command line'"'"'s own parser (needs a package index)'
	@echo 'make deb   a Debian package of this checkout for hosts like this one, with all it needs inside'
	@echo 'make docs   the docs as a site, into build/site: every warning, dead link and missing anchor is an error'
	@echo 'make lock   lock/*.txt anew: the newest packages setup.cfg allows, with their hashes (needs a package index);'
	@echo '            and advisories on them, if api.osv.dev can be reached'

demo:
	@bash demo/demo.sh

demo-s3: setup
	@bash demo/demo-s3.sh

test: setup lint docs
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

mpi: setup
	PBSDOCK_MPI=all $(PYTHON) -m pytest tests/engine/test_mpi_nodes.py

bench: setup
	@$(PYTHON) bench/bench.py
	@$(PYTHON) bench/slurm.py

lint: .venv/stamp
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache --no-logo
	shellcheck -x $(SHELL_FILES)
	for file in $(C_FILES); do cc $(C_CHECKS) -c -o /dev/null $$file || exit; done
	if [ -e /usr/include/slurm/spank.h ]; then cc $(C_CHECKS) -fPIC -c -o /dev/null init/spank.c; else echo 'init/spank.c was not compiled: libslurm-dev is not here'; fi
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --error-exitcode=1 $(C_FILES)

# Not --quiet: it hides warnings, and so takes them from being errors.
docs: .venv/stamp
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build

# The oldest Python that is supported resolves; the newest releases that setup.cfg allows are taken.
lock:
	@sh tests/setup.sh
	/usr/bin/python3 lock/lock.py
	/usr/bin/python3 lock/advisories.py

# From the command's own parser, with tools that nothing else needs.
pages: .venv/stamp
	rm -rf .venv/pages && /usr/bin/python3 -m venv .venv/pages
	.venv/pages/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r lock/build.txt
	PIP_USE_PEP517=1 .venv/pages/bin/python -m pip --quiet --disable-pip-version-check install --no-build-isolation --require-hashes -r lock/pages.txt
	PYTHONPATH=lib:$$(echo .venv/lib/python3*/site-packages) .venv/pages/bin/python deb/pages.py

deb: pages
	sh deb/build.sh

.PHONY: setup
setup: .venv/stamp lib/pbsdock/init/pbsdock-init lib/pbsdock/init/pbsdock-run lib/pbsdock/init/pbsdock-docker lib/pbsdock/init/tm-agent lib/pbsdock/init/pbsdsh
	@sh tests/setup.sh store

# As installing the checkout in place has done it; again when its source has changed.
lib/pbsdock/init/%: $(wildcard init/*.[ch]) lib/pbsdock/admin/setup/first_process.py | .venv/stamp
	$(PYTHON) -c 'from pathlib import Path; from pbsdock.admin.setup import first_process as made; [made.compile_to(Path("$@"), Path("init"), one) for one in made.PROGRAMS if one.name == "init/$*"]'

.venv/stamp: setup.cfg pyproject.toml lock/test.txt
	@sh tests/setup.sh
	/usr/bin/python3 -m venv --clear .venv
	$(PIP) install --require-hashes -r lock/build.txt
	PIP_USE_PEP517=1 $(PIP) install --no-build-isolation --require-hashes -r lock/test.txt
	$(PIP) install --no-index --no-deps --no-build-isolation -e .
	@touch $@
