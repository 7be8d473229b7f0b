# Two commands: `make demo` and `make test`. Both set up what they need.
PY := .venv/bin/python
READY := .venv/.ready

.PHONY: demo test test-all test-cluster lint bench lock clean

demo: $(READY)
	$(PY) -m microtome demo --out demo-out

test: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal

test-all: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal -m ""

# A SLURM of two nodes on this machine: installed (as root, on Debian), started, used and stopped again.
test-cluster: $(READY)
	sh scripts/slurm.sh
	$(PY) -m pytest -m "" tests/engine/test_slurm.py tests/face/test_run_slurm.py; ended=$$?; \
		sh scripts/slurm.sh stop; exit $$ended

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Every file of benchmarks/ that compares; the others are what these share.
COMPARISONS := $(shell grep -l "^def main" benchmarks/*.py)

bench: $(READY)
	for script in $(COMPARISONS); do $(PY) $$script || exit 1; done

$(READY): requirements/lock.txt requirements/uv.txt pyproject.toml scripts/setup.sh
	sh scripts/setup.sh
	touch $@

# Pins change only here, on purpose; the files name versions and hashes, never where they came from.
UV_COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header

lock:
	$(UV_COMPILE) requirements/uv.in -o requirements/uv.txt
	$(UV_COMPILE) pyproject.toml --extra dev --override requirements/overrides.txt -o requirements/lock.txt

clean:
	rm -rf .venv demo-out
