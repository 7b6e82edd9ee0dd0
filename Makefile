# Everything a newcomer needs; `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check format bench image-base images image-coordinator image-store sbom clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# On Linux, PyPI's torch brings CUDA. PyTorch's own index has a build without, whose version has
# the suffix +cpu and so precedes PyPI's of the same number.
CPU ?=
CPU_ONLY = $(if $(CPU),--extra-index-url https://download.pytorch.org/whl/cpu)

install: $(STAMP) ## Create .venv and install everything, pinned by constraints.txt; CPU=1 without CUDA

# Of what pip says in hundreds of lines: how many packages, the large ones, and the end. Its
# status goes through a file, since that of a pipe is awk's.
define PIP_IN_SHORT
/^Collecting/ { if (++n % 25 == 0) say(n " packages looked up") }
/^ *Downloading .*(GB|[0-9][0-9][0-9](\.[0-9]+)? MB)\)$$/ { say($$0) }
/^Installing collected/ { say("installing " NF - 3 " packages") }
/^Successfully installed/ { say("installed") }
function say(text) { sub(/^ */, "  ", text); print text; fflush() }
endef
export PIP_IN_SHORT

$(STAMP): pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) VENV=$(VENV) CPU=$(CPU) sh release/machine.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@{ $(BIN)/pip install --progress-bar off --constraint constraints.txt $(CPU_ONLY) --editable '.[dev]'; \
	   echo $$? > $(VENV)/.status; } | awk "$$PIP_IN_SHORT"; exit $$(cat $(VENV)/.status)
	@touch $@

demo: $(STAMP) ## A federation of twelve real regions, private, to a table and an HTML report
	$(BIN)/hanse simulate grocery

test: $(STAMP) ## All tests but the slow ones
	$(BIN)/pytest -n 2 -m "not slow"

test-all: test ## The slow tests too: killed runs, Ray, a real browser
	$(BIN)/pytest -n 2 --dist loadfile -m slow

check: $(STAMP) ## Format, lint, types, import directions and doctests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest --doctest-modules common client server simulations

format: $(STAMP) ## Rewrite the sources the way `make check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# PREPARING='--customers 5000000 --visits 50000000' measures 50 million rows; see docs/data.md.
bench: $(STAMP) ## Every benchmark, each beside its reference
	$(BIN)/hanse bench engines
	$(BIN)/hanse bench secagg
	$(BIN)/hanse bench clipping
	$(BIN)/hanse bench preparing $(PREPARING)
	$(BIN)/hanse bench deployment

# Docker's format keeps the health check. Both programs take `--build-arg` and the like in
# IMAGE_ARGS; deploy/README.md has an example for a machine that reaches no image registry.
BUILD = $(if $(shell command -v buildah),buildah bud --isolation chroot --format docker,docker build)
VERSION = $(shell sed -n 's/^NEXT = "\(.*\)"/\1/p' release/version.py)
BASE ?=
IMAGE_ARGS ?=

image-base: ## A base for the images from Debian's packages, where there is no registry
	deploy/docker/make-base.sh localhost/hanse-base:bookworm

images: image-coordinator image-store ## The images of coordinator and store, with buildah or Docker

image-coordinator image-store: image-%:
	$(BUILD) $(if $(BASE),--build-arg PYTHON=$(BASE)) $(IMAGE_ARGS) \
	  --file deploy/docker/$*.Dockerfile --tag hanse-$*:$(VERSION) .

sbom: $(STAMP) ## Licences of all packages, and a bill of materials (CycloneDX) of each extra, in dist/
	@mkdir -p dist
	$(BIN)/python -m release.licences > dist/licences.md
	$(BIN)/python -m release.sbom dist

clean: ## Remove the environment and all caches (runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
