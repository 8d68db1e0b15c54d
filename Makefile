# Two commands for a fresh clone: `make demo` and `make test`. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/installed
	$(BIN)/evolute run quickstart

test: check
	$(BIN)/python -m pytest -q -n auto --dist loadfile

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[export,dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
