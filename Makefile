# Everything a user needs: `make help`. Each target does the set-up that it needs.

# The repository root stays off sys.path: a bare `import kernels` must fail.
export PYTHONSAFEPATH = 1
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PACKAGES = shards kernels pipeline bench
TREE = build/typing/figureground

# The NVIDIA driver decides: 580 and newer run CUDA 13, 525 and newer CUDA 12; without a driver everything runs on the CPU.
EXTRA := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | \
	awk -F. 'NR == 1 {d = $$1 + 0} END {print (d >= 580 ? "cuda13" : (d >= 525 ? "cuda12" : "cpu"))}')
DEVICE ?= $(if $(filter cpu,$(EXTRA)),cpu,cuda)
CONSTRAINTS = $(if $(filter cpu,$(EXTRA)),-c constraints-cpu.txt,)
IMAGES ?=
SHARDS ?=
BATCH ?= 64

.PHONY: help setup tree demo test test-gpu sanitize bench bench-peers lint types clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/ready  ## make .venv with everything pinned (CPU or CUDA, by the driver)

$(VENV)/ready: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet $(CONSTRAINTS) -e '.[$(EXTRA),dev]'
	@echo "set up for: $(EXTRA)"
	@touch $@

tree:
	@mkdir -p $(TREE)
	@for folder in $(PACKAGES); do ln -sfn ../../../$$folder $(TREE)/$$folder; done

demo: setup  ## photographs -> shards -> masks -> views; writes demo/contact_sheet.png  [IMAGES=folder DEVICE=cpu|cuda]
	$(PY) -m figureground.bench demo --device $(DEVICE) --out demo $(if $(IMAGES),--images "$(IMAGES)")

test: setup tree  ## all tests that need no GPU
	$(PY) -m pytest

test-gpu: setup tree  ## the tests on a GPU
	$(PY) -m pytest --device cuda -m gpu

sanitize: setup tree  ## compute-sanitizer (memcheck, racecheck, initcheck) on the kernel tests, on a GPU
	for tool in memcheck racecheck initcheck; do compute-sanitizer --tool $$tool --error-exitcode 9 $(PY) -m pytest \
		--device cuda -m gpu -q tests/kernels || exit; done

RESULTS = build/bench
bench: setup  ## throughput, kernels, and bench/report.html  [DEVICE=cpu|cuda SHARDS=... BATCH=...]
	$(PY) -m figureground.bench throughput --device $(DEVICE) --batch-size $(BATCH) --json $(RESULTS)/throughput.json \
		$(if $(SHARDS),--shards "$(SHARDS)")
	$(PY) -m figureground.bench kernels --device $(DEVICE) --json $(RESULTS)/kernels.json
	$(PY) -m figureground.bench report $(RESULTS)/*.json --out bench/report.html

bench-peers: setup  ## ours and other loaders on the CPU, in one run  [SHARDS=...]
	$(PY) -m figureground.bench peers --json $(RESULTS)/peers.json $(if $(SHARDS),--shards "$(SHARDS)")

lint: setup  ## ruff
	$(PY) -m ruff check .

types: setup tree  ## mypy --strict
	$(PY) -m mypy

clean:  ## remove what the other targets made, but not .venv
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find $(PACKAGES) tests -name __pycache__ -prune -exec rm -rf {} +  # Numba caches by file: not by what a function calls
