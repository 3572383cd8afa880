# Everything a newcomer needs: `make demo` and `make test`. Both do the whole set-up first.
PYTHON ?= python3
UV := .local/uv/bin/uv
RUN := .venv/bin/

.PHONY: setup demo test e2e torture lint bench clean

setup: .venv/.installed

# uv itself comes from the package index into a virtual environment of its own, so that only Python is needed beforehand.
$(UV):
	$(PYTHON) -m venv .local/uv
	.local/uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"

# Compiled here: the dozen processes of the first `dev` or `e2e` would each do it meanwhile.
.venv/.installed: pyproject.toml uv.lock | $(UV)
	UV_PYTHON_DOWNLOADS=never $(UV) sync --quiet --frozen --compile-bytecode --python $(PYTHON)
	touch $@

demo: setup
	$(RUN)usage-pipeline demo

# Three processes for two cores: tests wait for servers and daemons as much as they compute. Each has servers of its own, and
# the tests of a file in their order: some share a server.
PYTEST := $(RUN)pytest --dist loadfile --numprocesses 3

# The files in their order: those with few tests take longest, and would come last, when only one process has work left.
test: setup lint
	$(PYTEST) --no-loadscope-reorder --ignore usage_pipeline_tests/end_to_end

# Through the whole of it: the launcher, the web server and its GraphQL, the daemon, HTTP clients that are killed. Files with
# many tests first: here they take longest.
e2e: setup
	$(PYTEST) usage_pipeline_tests/end_to_end

torture: setup
	$(RUN)python -m usage_pipeline_tests.torture

lint: setup
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

bench: setup
	$(RUN)python -m benchmarks.drain
	$(RUN)python -m benchmarks.merchants
	$(RUN)python -m benchmarks.recorder
	$(RUN)python -m benchmarks.ingest
	$(RUN)python -m benchmarks.api
	$(RUN)python -m benchmarks.rollups
	$(RUN)python -m benchmarks.orchestration

clean:
	rm -rf .venv .local
