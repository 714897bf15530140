# Fresh machine: Python 3.11+, make and git are enough. `make demo` and `make test` each do all set-up themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := outputs/demo
# Three workers, for two cores: tests also wait. One test file to a worker: files share costly fixtures (a trained model,
# a built dataset). The long files come first (tests/conftest.py).
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder
MODEL ?= hub_models/released/derm-x-mobilenetv2-ham7,hub_models/released/isic-skin-lesion-uncertainty

.PHONY: help setup demo test lint docs space clean

help:
	@echo "make demo   set up, then archive -> dataset -> model -> report -> card -> local publish -> prediction, on drawn phantoms"
	@echo "make test   set up, then every test (LESION_DATA_DIR and LESION_WEIGHTS_DIR add the real-data tests)"
	@echo "make setup  the set-up alone (a virtual environment in $(VENV), versions pinned by constraints.txt)"
	@echo "make space  the Space on the released models (MODEL=folder-or-repo,... to show others)"
	@echo "make lint   ruff, mypy"
	@echo "make docs   the docstrings as HTML in build/docs"

setup: $(STAMP)

# The stamp makes a second run free: it is older than neither file unless one of them changed.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 found: install Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11: set PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m trainers.demo --output_dir $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m pdoc --docformat google --output-directory build/docs datasets_scripts hub_models model_cards trainers
	@echo "open build/docs/index.html"

space: $(STAMP)
	LESION_MODELS=$(MODEL) $(BIN)/python spaces/lesion_demo/app.py

clean:
	rm -rf $(DEMO) build dist *.egg-info
