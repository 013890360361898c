# make test     lint, types and tests        make demo    a minute of training, and what came of it
# make slow     the tests that take minutes  make clean   remove what make made, but no model
# make gpu      the tests that need a CUDA device
# make browser  the tests of the page, in headless Chromium, which it installs where it may
# make bench    how fast it is here, beside torch.nn and the machine's own limits; about ten minutes
# Each makes its own .venv first, once; constraints.txt says which versions go into it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# a worker for each core, each with one thread
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

.DELETE_ON_ERROR:
.PHONY: test slow gpu browser demo bench clean

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m 'not slow and not browser' --fake-cuda

slow: $(VENV)/installed-dev
	$(PYTEST) -m slow --fake-cuda

gpu: $(VENV)/installed-dev
	$(BIN)/pytest -m gpu

browser: $(VENV)/installed-browser
	.ci/chromium
	$(PYTEST) -m browser

# charrnn takes checkpoints/beijing-2, -3 ... by itself where a demo has been before
demo: $(VENV)/installed
	@printf '\n=== A minute, at most, with data/beijing.txt ===\n\n'
	@model=$$($(BIN)/charrnn train data/beijing.txt --time 60s) \
	&& printf '\n=== What it writes after 我爱北京 ===\n\n' \
	&& $(BIN)/charrnn sample -m "$$model" -p 我爱北京 -n 120 \
	&& printf '\n=== How well it predicts text that it has never seen ===\n\n' \
	&& $(BIN)/charrnn evaluate -m "$$model" \
	&& printf '\nMore of it: %s/charrnn sample -m %s\n' '$(BIN)' "$$model"

bench: $(VENV)/installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/training.py --sizes 2x512 --rounds 3
	$(BIN)/python benchmarks/evaluation.py --cells lstm
	$(BIN)/python benchmarks/reading.py --size 100MB --rounds 3

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $(VENV)/installed $@

$(VENV)/installed-browser: $(VENV)/installed-dev
	$(PIP) install -c constraints.txt -e '.[dev,browser]'
	touch $@
