.PHONY: help demo test test-v2 attack bench lint

PYTHON := .venv/bin/python
SHELL_FILES := install.sh $(filter-out hooks/ask,$(wildcard hooks/*)) tests/*.sh tests/vm/*.sh demo/*.sh .ci/run examples/*.sh

help:
	@echo 'make demo   run a real job through the three hooks and show what happened (root, Debian 12)'
	@echo 'make test   everything CI runs: linters, types, unit tests, tests on the real engine (root)'
	@echo 'make test-v2 all of it that needs cgroup v2 and systemd, in a virtual machine (root)'
	@echo 'make attack what a hostile user and a hostile image can do, alone (root); part of make test'
	@echo 'make bench  the costs as ratios to plain docker (root)'
	@echo 'make lint   ruff, mypy --strict and shellcheck alone'

demo:
	@bash demo/demo.sh

test: setup lint
	$(PYTHON) -m pytest

attack: setup
	$(PYTHON) -m pytest tests/attacks

test-v2: setup
	PBSDOCK_VM=full $(PYTHON) -m pytest tests/vm -o timeout=1800

bench: setup
	@$(PYTHON) bench/bench.py

lint: .venv/stamp
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	shellcheck $(SHELL_FILES)

.PHONY: setup
setup: .venv/stamp
	@sh tests/setup.sh store

.venv/stamp: setup.cfg pyproject.toml
	@sh tests/setup.sh
	/usr/bin/python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
