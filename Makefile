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
BATCH ?=
ROUNDS ?= 5
PEERS = .venv-peers

.PHONY: help setup tree demo test test-gpu sanitize gpu bench bench-peers profile lint types clean
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
	$(PY) -m figureground.bench gpu --out build/gpu --only memcheck racecheck initcheck

gpu: tree  ## all that needs a GPU, into build/gpu, with the Python at hand: nothing is installed  [PYTHON=... SHARDS=... ONLY="tests ..."]
	PYTHONPATH=$(CURDIR)/build/typing$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) -m figureground.bench gpu --out build/gpu $(GIVEN) $(if $(ONLY),--only $(ONLY))

RESULTS = build/bench
REPORT = -m figureground.bench report $(RESULTS)/*.json --out bench/report.html
GIVEN = $(if $(SHARDS),--shards "$(SHARDS)") $(if $(BATCH),--batch-size $(BATCH))
bench: setup  ## everything measured, into bench/report.html  [DEVICE=cpu|cuda SHARDS=... BATCH=64 ROUNDS=5]
	$(PY) -m figureground.bench throughput --device $(DEVICE) --rounds $(ROUNDS) $(GIVEN) --json $(RESULTS)/throughput.json
	$(PY) -m figureground.bench scaling --device $(DEVICE) $(GIVEN) --json $(RESULTS)/scaling.json
	$(PY) -m figureground.bench kernels --device $(DEVICE) --json $(RESULTS)/kernels.json
	$(PY) -m figureground.bench python_cost --json $(RESULTS)/python_cost.json
	$(PY) -m figureground.bench timeline --device $(DEVICE) $(GIVEN) --out $(RESULTS)/timeline.svg --json $(RESULTS)/timeline.json
	$(PY) -m figureground.bench peers --device $(DEVICE) --rounds $(ROUNDS) $(GIVEN) --json $(RESULTS)/peers.json
	$(PY) $(REPORT)

bench-peers: $(PEERS)/ready  ## ours and all other loaders, in an environment of its own  [DEVICE=cpu|cuda SHARDS=... BATCH=32 ROUNDS=5]
	$(PEERS)/bin/python -m figureground.bench peers --device $(DEVICE) --rounds $(ROUNDS) $(GIVEN) --json $(RESULTS)/peers.json
	$(PEERS)/bin/python $(REPORT)

# SPDL looks for FFmpeg beside itself: the links name what PyAV's wheel carries.
$(PEERS)/ready: pyproject.toml constraints-cpu.txt bench/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet $(CONSTRAINTS) -r bench/peers-requirements.txt -e '.[$(EXTRA),bench]'
	cd $(PEERS)/lib/python3*/site-packages && for lib in av.libs/libav*-* av.libs/libsw*-*; do ln -sfn ../../../$$lib \
		spdl/io/lib/$$(basename $$lib | sed 's/-[0-9a-f]*\.so\.\([0-9]*\).*/.so.\1/'); done
	@touch $@

profile: setup tree  ## what the kernels' PTX does, counted on the CPU, with an estimate of its time; no GPU
	PYTHONPATH=build/typing:tests $(PY) tests/host_cuda/ptx/profile.py

lint: setup  ## ruff
	$(PY) -m ruff check .

types: setup tree  ## mypy --strict
	$(PY) -m mypy

clean:  ## remove what the other targets made, but not .venv
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find $(PACKAGES) tests -name __pycache__ -prune -exec rm -rf {} +  # Numba caches by file: not by what a function calls
