# Commands for a fresh clone: `make demo`, `make test`, and `make docs` for the site. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check docs clean

demo: .venv/installed
	$(BIN)/evolute run quickstart

test: check
	$(BIN)/python -m pytest -q -n auto --dist loadfile --reruns 1 -rR

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[export,dev]"
	touch $@

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
