# `make help` lists the targets. Python 3.10, 3.11 or 3.12 is all that must be there.

# The environment that everything runs in; made when it is missing, reused while what it is made from is unchanged.
VENV ?= .venv
# The interpreter that makes it; 3.11 first, since most is tested with it. Debian's comes without venv unless asked for.
SUITS := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
# Says what is wrong with the one that was named.
NOT_THIS = found=$$($(PYTHON) -c 'import sys; print("Python %d.%d.%d" % sys.version_info[:3])' 2>/dev/null); \
	echo "$(if $(PYTHON),$(PYTHON) is $${found:-no Python that runs},No Python on PATH suits)" >&2
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	if $$p -c '$(SUITS)' >/dev/null 2>&1; then echo $$p; break; fi; done)
endif

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint requirements/constraints.txt
HASH := $(shell cat setup.py requirements/constraints.txt Makefile | cksum | cut -d ' ' -f 1)
# One stamp for each set of requirements.
CORE := $(VENV)/.core-$(HASH)
TEST := $(VENV)/.test-$(HASH)
MMDET_STAMP := $(VENV)/.mmdet-$(HASH)
TEST_ENV := $(TEST) $(if $(filter-out 0,$(MMDET)),$(MMDET_STAMP))

# The package is this checkout's, whichever checkout the environment was made for.
export PYTHONPATH := $(CURDIR)
# tools/dist_*.sh call `python`.
export PATH := $(abspath $(VENV))/bin:$(PATH)
# More arguments: of tools/train.py for `make demo`, of pytest for `make test`.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow coverage lint env python clean distclean

help:
	@echo 'make demo           trains a captioner on the mini-world and shows its captions'
	@echo 'make test           passes the tests that protect users, in minutes; those that need mmdet are skipped without it'
	@echo 'make test-slow      passes the others: kill tests, every config trained, packaging, the page in a browser, research'
	@echo 'make test MMDET=1   installs mmdet too (compiles mmcv, half an hour on two cores, if there is no wheel of it)'
	@echo 'make coverage       the tests, with the lines and branches they miss'
	@echo 'make lint           ruff'
	@echo 'make env            only sets up the environment of the tests; MMDET=1 as above'
	@echo 'make clean          removes what builds and tests leave behind; make distclean the environment too'
	@echo 'Variables: VENV (.venv), PYTHON (the interpreter that makes it), ARGS (of tools/train.py or pytest)'

demo: $(CORE)
	$(PY) tools/train.py configs/synthcap/synthcap_plus_mini.py $(ARGS)

# One process a core, each with one thread: torch's threads would wait for each other.
test: $(TEST_ENV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m 'not slow' -n auto $(ARGS)

test-slow: $(TEST_ENV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n auto $(ARGS)

coverage: $(TEST_ENV)
	$(PY) -m coverage run -m pytest $(ARGS)
	$(PY) -m coverage report --skip-covered --show-missing

lint: $(TEST)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

env: $(TEST_ENV)

# For .ci/run.
python:
	@echo '$(PYTHON)'

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .coverage
	find synthcap_mm tools configs tests benchmarks research -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv

# setuptools and wheel first, since mmcv is built with those of the environment (--no-build-isolation), and so are we.
# An environment that lies outside of the checkout may serve several checkouts: it gets our requirements only.
define install
	$(PIP) --no-build-isolation --editable '.$(1)'
	$(if $(filter $(CURDIR)/%,$(abspath $(VENV))),,$(PY) -m pip uninstall -y synthcap_mm)
endef

$(CORE):
	@{ $(PYTHON) -c '$(SUITS)'; } 2>/dev/null || { $(NOT_THIS); echo 'Python 3.10, 3.11 or 3.12 with its venv module is needed (on Debian and Ubuntu: apt install python3-venv); name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) setuptools wheel
	$(call install)
	@rm -f $(VENV)/.core-* && touch $@

$(TEST): $(CORE)
	$(call install,[test])
	@rm -f $(VENV)/.test-* && touch $@

# After the core, since mmcv is compiled against torch; ninja before it, to compile on all cores.
$(MMDET_STAMP): $(CORE)
	$(PIP) ninja
	$(call install,[mmdet])
	@rm -f $(VENV)/.mmdet-* && touch $@
