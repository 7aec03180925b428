# Each target makes what it needs, and makes it once: `.venv` is rebuilt only when the list of
# requirements changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo digits test proofs bench lint clean

demo: $(INSTALLED)
	$(BIN)/anima live CartPole-v1 --agent living

digits: $(INSTALLED)
	$(BIN)/anima learn digits

test: $(INSTALLED)
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

proofs: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m slow

bench: $(INSTALLED)
	$(BIN)/python benchmarks/speed/driver.py --out benchmarks/results/speed.json
	$(BIN)/python -m benchmarks.tables

lint: $(INSTALLED)
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else "anima needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs
