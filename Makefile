# Everything a developer does with tesserac. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON  ?= python3
VENV    ?= .venv
EXTRAS  ?= test
WORKERS ?= 2
CASE    ?= gpt
MODE    ?= fast,asan,race
STEPS   ?= 1000
comma   := ,
BIN     := $(VENV)/bin
TESSERAC := $(BIN)/tesserac
CORPUS  := examples/data/moby_dick.txt
# From the JSON lines of a training run to one readable line in fifty.
EVERY_50 := awk -F '[:,}]+' 'NR == 1 || NR % 50 == 0 {printf "step %5d   loss %.3f   %4.0f ms\n", $$2, $$4, $$(NF-1); fflush()}'

# These two variables halve the speed of every OpenBLAS on the machines that export them.
unexport OPENBLAS_CORETYPE OPENBLAS_L2_SIZE NVPL_BLAS_DEBUG_CPU_TYPE
# Where this is set, every start of the compiler translates its modules again: 0.4 s. What Python keeps of them lies in .venv.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache

.PHONY: help setup setup-bench setup-cuda demo examples test test-mesh test-emulation lint fuzz docs bench bench-gpu wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One stamp per set of extras: pip runs again only when pyproject.toml or the set changes.
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

setup: $(STAMP) ## Make .venv and install tesserac with its test tools

setup-bench: ## Also install the peers `make bench` compares with (PyTorch, JAX: 1.5 GB)
	$(MAKE) setup EXTRAS=bench

setup-cuda: ## Also install the CUDA compiler and cuBLAS wheels (0.9 GB)
	$(MAKE) setup EXTRAS=cuda-compile

demo: $(STAMP) ## Compile examples/gpt.py, train it on a novel, print a sample (about three minutes)
	$(TESSERAC) build examples/gpt.py -o build/demo
	build/demo/gpt train --data input=$(CORPUS) --steps $(STEPS) --optimizer adamw --lr 2e-3 --beta2 0.95 --warmup 50 \
	  --schedule cosine --min-lr 2e-4 --clip 1.0 --save build/demo/gpt.safetensors --log build/demo/loss.jsonl | $(EVERY_50)
	build/demo/gpt generate --weights build/demo/gpt.safetensors --prompt 'The whale ' --tokens 400 --temperature 0.7

examples: ## Train and run the examples, compare with what is known, draw them (about ten minutes)
	$(MAKE) -C examples heat biharmonic navier_stokes moe_lm spectral_denoise fno_burgers

test: $(STAMP) lint ## Lint and run every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q

test-mesh: $(STAMP) ## Plans and programs of meshes, on simulated ranks and as processes
	TSR_TEST_MESH=1 $(BIN)/python -m pytest -n $(WORKERS) -q tests/mesh tests/comm

test-emulation: $(STAMP) ## Execute emitted CUDA on this processor: MODE=fast, asan or race (all three)
	env -u MODE -u MAKEFLAGS TSR_EMULATION_MODE=$(MODE) $(BIN)/python -m pytest -n $(WORKERS) -q tests/emulation tests/codegen/test_cuda*.py tests/cli/test_verify.py tests/cli/test_tune.py

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy

fuzz: $(STAMP) ## Thousands of random programs through every pass and back end
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n $(WORKERS) -m property -q

docs: $(STAMP) ## Regenerate docs/errors.md from the catalogue of errors
	$(BIN)/python -m docs.generate

bench: $(STAMP) ## Race the emitted program against PyTorch and JAX: CASE=gpt|block|moe|spectral|pinn SIZE=...
	$(BIN)/python -m bench.run --case $(CASE) $(addprefix --size ,$(SIZE))

bench-gpu: $(STAMP) ## On a machine with a GPU: check and measure everything there, in eight minutes
	$(BIN)/python -m bench.gpu

wheel: $(STAMP) ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .

clean: ## Remove everything that was built, .venv included
	rm -rf $(VENV) build dist out bench/results .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
