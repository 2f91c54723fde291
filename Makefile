# Two commands do everything on a fresh machine: `make demo` and `make test`. Neither needs root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# `make setup WHEELHOUSE=<folder>` asks no package registry; `make wheelhouse` makes such a folder.
WHEELS := $(or $(WHEELHOUSE),wheelhouse)
FROM_WHEELS := $(if $(WHEELHOUSE),--no-index --find-links "$(WHEELHOUSE)")
# DeepSpeed calls ninja by name, so the environment's programs must be found first.
WITH_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"

# Caches stay in the checkout; nothing reports usage or asks a hub.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.cache/torch_extensions
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export MPLBACKEND := Agg
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_OFFLINE := 1
export PYTHONUNBUFFERED := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A root folder or another project's modules on PYTHONPATH could shadow the installed packages.
unexport PYTHONPATH PYTHONHOME

.PHONY: help setup wheelhouse demo serve demo-smoke test test-parity test-serving test-chaos test-slurm slurm-packages lint types unit integration clean

help:
	@echo "make demo        the whole system on a synthetic set, 9 to 15 minutes on 2 cores; then open runs/demo/index.html"
	@echo "make test        style, types, tests and a small demo"
	@echo "make test-parity one worker, several, DDP and ZeRO 1 to 3 compute the same; about 8 minutes"
	@echo "make test-serving  the service on Ray Serve: all pages, killed replicas, overload, another model"
	@echo "make test-chaos  workers and drivers killed at 42 random steps, other numbers of workers, drained nodes; an hour"
	@echo "make test-slurm  jobs on a SLURM cluster of namespaces on this machine; as root on Debian it installs the packages for it"
	@echo "make serve       what make demo trained, over HTTP at 127.0.0.1:8000 (docs/serving.md)"
	@echo "make setup       only makes .venv (both commands above do it themselves)"
	@echo "make wheelhouse  the locked packages as files in wheelhouse/, for a site without a network: make setup WHEELHOUSE=<folder> there"
	@echo "make demo-smoke  the demo's path in about 2 minutes, without its quality"
	@echo "make clean       removes .venv and caches; runs/ stays"

setup: $(STAMP)

# Exactly the locked versions; the stamp makes a second run install nothing. librosa's loops are compiled here, into .venv: two
# processes that do it at once (numba 0.68) may leave one's caller beside the other's loop, and every later process crashes on it.
$(STAMP): requirements.lock pyproject.toml $(BIN)/python
	@command -v g++ >/dev/null || { echo "momu: no g++ found; DeepSpeed compiles a small part with it: install a C++ compiler (on Debian or Ubuntu: apt-get install g++)." >&2; exit 2; }
	@$(BIN)/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || \
		echo "momu: note: $$($(BIN)/python -c 'import sys; print(sys._base_executable)') has no C headers (Python.h); DeepSpeed needs them (on Debian or Ubuntu: apt-get install python3-dev), strategies local and ddp do not." >&2
	@echo "Installing the locked packages into $(VENV) (some minutes, once) ..."
	@$(BIN)/python -m pip install -qq $(FROM_WHEELS) -r requirements.lock || { [ -z "$(WHEELHOUSE)" ] || \
		echo "momu: $(WHEELHOUSE) lacks what pip names above; make it with \`make wheelhouse\` from the same requirements.lock, with the Python and on the kind of machine that this is." >&2; exit 2; }
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation $(FROM_WHEELS) -e .
	@$(BIN)/python -c 'import librosa.onset'
	@touch $@

$(BIN)/python:
	@python=""; for name in $${PYTHON:-} python3 python3.11 python3.12 python3.13; do \
		if "$$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then \
			python=$$("$$name" -c 'import sys; print(sys.executable)'); break; fi; done; \
	if [ -z "$$python" ]; then \
		echo "momu: no Python 3.11, 3.12 or 3.13 with venv and pip found; install one (on Debian or Ubuntu: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3." >&2; exit 2; fi; \
	rm -rf $(VENV); "$$python" -m venv $(VENV)

# What a machine without a package registry installs from. `pip wheel` also builds what is published as source only.
wheelhouse: $(BIN)/python
	@echo "Collecting the locked packages in $(WHEELS) (some minutes) ..."
	@$(BIN)/python -m pip wheel -qq -r requirements.lock --wheel-dir "$(WHEELS)"
	@echo "Copy $(WHEELS) to the site; there: make setup WHEELHOUSE=<the copy>. Its Python must be $$($(BIN)/python -c 'import sys; print("{}.{}".format(*sys.version_info))')."

demo: setup
	@$(WITH_PATH) $(BIN)/momu demo

serve: setup
	@$(WITH_PATH) $(BIN)/momu serve

demo-smoke: setup
	@$(WITH_PATH) $(BIN)/momu demo --smoke

# Prints what a part is and how long it took; stops at the first part that fails.
define part
	@start=$$SECONDS; echo "== $(1)"; { $(2); } || exit 1; echo "== $(1): passed in $$((SECONDS - start)) s"
endef

lint: setup
	$(call part,style,$(BIN)/ruff check . && $(BIN)/ruff format --check .)

types: setup
	$(call part,types,$(BIN)/mypy)

# In two processes; a file's tests stay together and in order, as those of a file may share a port or a folder.
unit: setup
	$(call part,unit$(comma) contract$(comma) golden and architecture tests,$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=5 -m "not integration and not slurm and not serving" tests)

integration: setup
	$(call part,integration tests,$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=5 -m "integration and not chaos and not parity" tests)

test-parity: setup
	$(call part,parity of strategies,$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=5 -m parity tests)

test-serving: setup
	$(call part,the service,$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=5 -m serving tests)

test-chaos: setup
	$(call part,faults at random steps,$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rP --show-capture=stdout --durations=5 tests/integration/test_faults.py tests/integration/test_drain.py tests/integration/test_tracking.py)

SLURM_PACKAGES := slurmctld slurmd slurm-client munge iproute2 slurmdbd mariadb-server-core
# Without root the tests skip themselves and say why; so they do without the packages where there is no apt-get.
test-slurm: setup slurm-packages
	$(call part,SLURM tests,$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --durations=5 tests/integration/slurm)

slurm-packages:
	@if [ "$$(id -u)" != 0 ]; then echo "== SLURM tests: left out; they need root, as each node of their cluster lives in namespaces of its own"; \
	elif (for name in slurmctld slurmd sbatch munged ip slurmdbd mariadbd; do command -v $$name || exit 1; done >/dev/null); then :; \
	elif ! command -v apt-get >/dev/null; then echo "== SLURM tests: left out; no apt-get to install $(SLURM_PACKAGES) with"; \
	else echo "Installing $(SLURM_PACKAGES) ..."; export DEBIAN_FRONTEND=noninteractive; apt-get update -qq || true; \
		log=$$(apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES) 2>&1) || \
		{ echo "$$log" | tail -5 >&2; echo "== SLURM tests: left out; apt-get could not install $(SLURM_PACKAGES)"; }; fi

test: setup
	@total=$$SECONDS; for target in lint types unit integration; do $(MAKE) --no-print-directory $$target; done; \
	start=$$SECONDS; echo "== small demo"; $(MAKE) --no-print-directory demo-smoke; \
	echo "== small demo: passed in $$((SECONDS - start)) s"; echo "== all parts passed in $$((SECONDS - total)) s"

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find momu_dist tests -name __pycache__ -type d -prune -exec rm -rf {} +

comma := ,
