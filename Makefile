# `make demo` and `make test` work from a fresh clone; both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= dev,export,sim,viz,video,ros,camera

.PHONY: demo test test-all test-matrix test-lerobot test-metaworld check setup clean

demo: setup
	$(BIN)/spaceclip demo

# Lint, types, and the tests that take less than a second each; then all the others.
test: check
	$(BIN)/python -m pytest -m "not slow" -n auto

test-all: test
	$(BIN)/python -m pytest -m slow -n auto

# The oldest, the newest and some versions in between of every library; see benchmarks/version_matrix.py.
test-matrix:
	$(PYTHON) benchmarks/version_matrix.py $(ROWS)

test-lerobot:
	$(PYTHON) benchmarks/version_matrix.py --rows lerobot-0.4 lerobot-0.6

# Meta-World pins a MuJoCo of its own: an environment of its own too.
test-metaworld:
	$(MAKE) setup VENV=$(VENV)-metaworld EXTRAS=dev,metaworld
	$(VENV)-metaworld/bin/python -m pytest tests/worlds/metaworld tests/data/sources

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.ready

# uv where it is, venv and pip otherwise. uv does not read pip's settings: local wheels are passed on to it.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "spaceclip_plugin needs Python 3.10 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" uv pip install --python $(BIN)/python -e '.[$(EXTRAS)]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-metaworld .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
