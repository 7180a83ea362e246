# Everything from a fresh clone: `make chat`, `make test`, `make lint`, `make bench`, `make docs`, `make train`.
# Plain pip commands for the same are in README.md.
PYTHON ?= python3
VENV   ?= .venv
# The CPU build, pinned: an unpinned torch brings gigabytes of CUDA.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help chat serve test test-core test-slow lint bench docs train clean

help:
	@grep -E '^#: ' $(MAKEFILE_LIST) | sed 's/^#: //'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The core, without torch.
$(VENV)/core: pyproject.toml | $(BIN)/python
	$(PIP) install -e .
	@touch $@

# The page and the API.
$(VENV)/web: pyproject.toml | $(BIN)/python
	$(PIP) install -e ".[web]"
	@touch $@ $(VENV)/core

# What tests, linters and benchmarks need on top.
$(VENV)/dev: pyproject.toml | $(BIN)/python
	$(PIP) install "$(TORCH)"
	$(PIP) install -e ".[dev]"
	@touch $@ $(VENV)/core $(VENV)/web

#: make chat      talk about a sample picture in the terminal (PICTURE=photo.jpg for another)
chat: $(VENV)/core
	@$(BIN)/blip2-chat chat $(PICTURE)

#: make serve     the page and the API at http://127.0.0.1:8000 (ARGS="--port 9000" for more)
serve: $(VENV)/web
	@$(BIN)/blip2-chat serve $(ARGS)

#: make test      the tests, in a few minutes (ARGS="--cov=blip2_chat" for their coverage)
test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

#: make test-core the tests of the core in an environment of its own, without torch or any other extra
test-core: $(VENV)-core/ready
	$(VENV)-core/$(notdir $(BIN))/python -m pytest -n 2 --dist loadfile -m "not slow" -r s $(ARGS)

$(VENV)-core/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-core
	$(VENV)-core/$(notdir $(BIN))/python -m pip --disable-pip-version-check --quiet install -e ".[test]"
	@touch $@

#: make test-slow the slow ones: kills by the dozen, notebooks, the README in an empty environment, Ray, a server under load
test-slow: $(VENV)/dev
	$(BIN)/python -m pytest -m slow $(ARGS)

#: make lint      ruff and mypy
lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

#: make bench     blip2-opt-2.7b's true shape in every runtime, whole collections, the server (at most 20 minutes, 22 GB)
bench: $(VENV)/dev
	$(BIN)/python -m benchmarks

#: make docs      the documentation as a site in site/ (open site/index.html)
docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

#: make train     trains the embedded models again (training/README.md)
train: $(VENV)/dev
	$(PIP) install -r training/requirements.txt
	for step in fetch_sets run export heldout samples evaluate_hf retrieval evaluate_retrieval; do $(BIN)/python -m training.$$step || exit 1; done

#: make clean     removes the environment and what tools left behind
clean:
	rm -rf $(VENV) $(VENV)-core dist build site bench-work .pytest_cache .mypy_cache .ruff_cache .hypothesis
