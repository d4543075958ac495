# The two commands of the README, `make demo` and `make test`, set up everything they need in .venv.
# The constraints pin what the tests ran with, on CPUs. On a GPU machine: make CONSTRAINTS= …

PYTHON ?= python3.11
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test slow check format bench clean

demo: $(INSTALLED)
	$(BIN)/anyecg demo --out demo

# two files of tests at a time: half of what they do is wait for Ray's processes
test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/anyecg bench score --json bench.json

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[cpu,warehouse,dev]"
	touch $@

clean:
	rm -rf .venv demo bench.json
