# Two commands do all: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow gpu faults bench bench-all check lint docs clean

demo: .venv/demo  ## train LeNet-5 on MNIST
	$(BIN)/treadle demo

test: .venv/dev  ## every test, on every core
	$(BIN)/python -m pytest -n auto --dist worksteal

gpu: .venv/dev  ## what can only be seen on a CUDA GPU
	$(BIN)/python -m pytest tests/test_gpu.py tests/data/test_data_ahead.py

slow: .venv/dev  ## what takes minutes: a real compiler, long pages, every workload, worker processes of every kind
	$(BIN)/python -m pytest -m slow tests

faults: .venv/dev  ## kill runs hundreds of times, and crash one at every file operation: about ten minutes
	$(BIN)/python tests/campaign.py

bench: .venv/dev  ## what it costs, over the loop by hand: some minutes
	$(BIN)/python benchmarks/all.py
	$(BIN)/python benchmarks/table.py

bench-all: .venv/peers/done  ## the same with the peers, in longer runs: hours
	.venv/peers/bin/python benchmarks/all.py --full
	.venv/peers/bin/python benchmarks/table.py

check: lint docs test  ## what CI runs

lint: .venv/dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/dev  ## the site, in docs/_build/html; a warning or a broken link is an error
	$(BIN)/python -m sphinx -q -W -n --keep-going -b html docs docs/_build/html

# torch is installed first and by its exact version, so that its CPU build is taken where one is at hand.
.venv/torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Treadle needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q $$(grep '^torch==' constraints.txt)
	touch $@

.venv/demo: .venv/torch pyproject.toml packages/treadle-mnist/pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e '.[demo]' ./packages/treadle-mnist
	touch $@

.venv/dev: .venv/torch pyproject.toml packages/treadle-mnist/pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]' ./packages/treadle-mnist
	touch $@

# The peers have an environment of their own: what they bring must not get into that of the tests.
.venv/peers/done: .venv/dev benchmarks/peers.txt
	$(PYTHON) -m venv .venv/peers
	.venv/peers/bin/pip install -q $$(grep '^torch==' constraints.txt)
	.venv/peers/bin/pip install -q -c constraints.txt -e '.[demo]' ./packages/treadle-mnist -r benchmarks/peers.txt
	touch $@

clean:  ## the environment and caches; runs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
