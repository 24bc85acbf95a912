# aectl: `make train` and `make test` are enough; either may be the first command on a fresh machine.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?= model=dae noise=gaussian
PORT   ?= 6006
TESTS  ?= tests
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
HYDRA_NEXT ?= 'hydra-core==1.4.0rc3' 'omegaconf>=2.4.0rc1'

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all test-lowest test-hydra-next test-pythons torture readme lint format figures judges \
	published bench bench-gpu growth board clean distclean

# $(call install,VENV,ARGUMENTS): pip's messages go to VENV/pip.log; if it fails, its reason is printed.
define install
@echo "installing into $(1), which takes some minutes the first time; messages are in $(1)/pip.log"
@$(1)/bin/python -m pip install --disable-pip-version-check $(2) > $(1)/pip.log 2>&1 || { \
	grep -v -E "^ *(Collecting|Downloading|Using cached|Processing|Obtaining|Looking in|━)|: (started|finished .*'done')$$" \
		$(1)/pip.log | tail -n 25 >&2; echo "pip could not install into $(1): its reason is above" >&2; exit 1; }
endef

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## make .venv with the pinned versions

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("aectl needs Python 3.10 or newer: make PYTHON=python3.x") if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV),--constraint constraints.txt --editable '.[dev]')
	@touch $@

train: $(VENV)/.installed ## fetch the data, train and test; ARGS="model=vae" trains another model
	@$(BIN)/aectl train $(ARGS)
	@$(BIN)/aectl eval run=latest
	@echo "curves and pictures: make board"

test: lint ## check the style and the types, and run the quick tests; five minutes
	@$(PYTEST) $(TESTS)

test-all: lint ## run all tests, with faults as often as docs/FAULTS.md says; fails if less than 90 % of the lines run
	@$(PYTEST) --all --cov $(TESTS)

test-lowest: .venv-lowest/.installed ## run all tests with the oldest versions that pyproject.toml allows
	@.venv-lowest/bin/python -m pytest -n 2 --dist worksteal --all -o filterwarnings=default $(TESTS)

test-hydra-next: .venv-hydra-next/.installed ## run all tests with Hydra's next version
	@.venv-hydra-next/bin/python -m pytest -n 2 --dist worksteal --all -o filterwarnings=default $(TESTS)

test-pythons: ## resolve the pinned versions for each Python that aectl supports, without installing them
	@test -x .venv-uv/bin/uv || $(PYTHON) -m venv .venv-uv
	@test -x .venv-uv/bin/uv || .venv-uv/bin/python -m pip install --disable-pip-version-check --quiet uv
	@$(PYTHON) tests/pythons.py .venv-uv/bin/uv

.venv-lowest/.installed: pyproject.toml constraints.txt tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m tests.lowest > .venv-lowest/constraints.txt
	$(call install,.venv-lowest,--constraint .venv-lowest/constraints.txt --editable '.[dev]')
	@touch $@

.venv-hydra-next/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-hydra-next
	grep -v -e '^hydra-core' -e '^omegaconf' constraints.txt > .venv-hydra-next/constraints.txt
	$(call install,.venv-hydra-next,--constraint .venv-hydra-next/constraints.txt --editable '.[dev]' $(HYDRA_NEXT))
	@touch $@

torture: $(VENV)/.installed ## inject faults alone, as often as docs/FAULTS.md says; ten minutes
	@$(PYTEST) --all tests/faults

readme: $(VENV)/.installed ## run README's commands as they are written, on full data; hours
	@$(BIN)/python -m tests.readme

lint: $(VENV)/.installed ## check the style and the types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed ## put the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

figures: $(VENV)/.installed ## train the lecture's runs, draw its figures, write docs/LECTURE.md and docs/AULA.md
	@$(BIN)/python -m lecture

judges: $(VENV)/.installed ## train the classifiers that samples are judged by, and pack them
	@$(BIN)/aectl train experiment=judge dataset=mnist hydra.run.dir=outputs/judges/mnist
	@$(BIN)/aectl train experiment=judge dataset=fashion_mnist noise.p=0.5 noise.shift=1 epochs=25 \
		hydra.run.dir=outputs/judges/fashion_mnist
	@for set in mnist fashion_mnist; do \
		$(BIN)/aectl eval run=outputs/judges/$$set 'only=[classification]' figures=false && \
		$(BIN)/aectl eval run=outputs/judges/$$set export=safetensors && \
		sha256sum outputs/judges/$$set/export/model.safetensors || exit 1; \
	done
	@echo "to ship them: copy to aectl/evaluation/judges/<set>.safetensors, and their sums to aectl/evaluation/judge.py"

published: $(VENV)/.installed ## run the experiments that have published numbers, and write docs/RESULTS.md's table
	@OMP_NUM_THREADS=1 $(BIN)/python -m published $(ONLY)

bench: $(VENV)/.installed ## time the same networks trained by aectl and by others, and write docs/BENCHMARKS.md
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	$(call install,.venv-bench,--constraint constraints.txt torch torchvision pythae lightning)
	@$(BIN)/python -m tests.benchmarks .venv-bench/bin/python

bench-gpu: $(VENV)/.installed ## time training steps on a GPU, and write their table in docs/BENCHMARKS.md
	@$(BIN)/python -m tests.benchmarks.gpu

growth: $(VENV)/.installed ## measure how training grows with data, model and batch, and write docs/growth.json and its figure
	@$(BIN)/python -m tests.benchmarks.growth

board: $(VENV)/.installed ## open TensorBoard on all runs; PORT=6007 takes another port
	@$(BIN)/tensorboard --logdir outputs --port $(PORT)

clean: ## remove caches and builds
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage*
	find aectl tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment too; runs in outputs/ stay
	rm -rf $(VENV) .venv-bench .venv-lowest .venv-hydra-next .venv-uv
