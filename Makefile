.PHONY: help demo demo-s3 test attack bench lint

PYTHON := .venv/bin/python
SHELL_FILES := install.sh $(filter-out hooks/ask,$(wildcard hooks/*)) tests/*.sh demo/*.sh .ci/run examples/*.sh

help:
	@echo 'make demo   run a real job through the three hooks and show what happened (root, Debian 12)'
	@echo 'make demo-s3  the same with an object store of its own: input from a bucket, result back into one'
	@echo 'make test   everything CI runs: linters, types, unit tests, tests on the real engine (root)'
	@echo 'make attack what a hostile user and a hostile image can do, alone (root); part of make test'
	@echo 'make bench  the costs as ratios to plain docker (root)'
	@echo 'make lint   ruff, mypy --strict and shellcheck alone'

demo:
	@bash demo/demo.sh

demo-s3: setup
	@bash demo/demo-s3.sh

test: setup lint
	$(PYTHON) -m pytest

attack: setup
	$(PYTHON) -m pytest tests/attacks

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
