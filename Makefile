# Troika: every verb that a person or a machine needs. `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVICES := identity tags scoring orchestrator touchpoints
PYTEST := $(BIN)/python -m pytest -q
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --quiet \
	--generate-hashes --no-emit-index-url --no-header --no-annotate

# Thirty processes start in a test run; compiling every import anew would cost each of them seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo up test check bench proto lock images wheels artefacts clean

help: ## list these verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "make %-10s%s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with everything pinned by hash; quick when nothing changed

$(STAMP): requirements/dev.lock pyproject.toml
	@PYTHON="$(PYTHON)" sh requirements/install.sh $(VENV)
	@touch $@

demo: install ## run the whole loop on a real campaign (DEMO_PERSONS=200000 for more), report, stop
	@$(BIN)/python -m local demo

up: install ## start the suite and keep it running until Ctrl-C
	@$(BIN)/python -m local up

test: check ## every check and every test (what CI runs)
	@# Three for two cores: tests of whole suites wait more than they compute.
	$(PYTEST) -n 3 --no-loadscope-reorder --ignore tests/house tests

check: install ## lint, format, types, import walls, contracts, house rules
	@# Types take one core as long as all the rest takes another.
	@$(MAKE) --no-print-directory -j2 types rules

types:
	$(BIN)/mypy

rules:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py --check
	$(PYTEST) tests/house

bench: install ## measure against peers; NAME=loop for one, all without
	@$(BIN)/python -m bench $(NAME)

proto: install ## regenerate gen/ from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py

lock: ## renew requirements/*.lock from pyproject.toml
	@# Not from what is locked now: no dependency on `install`.
	$(LOCK) --all-extras --output-file requirements/dev.lock
	@# Images get the versions that the tests ran with.
	$(foreach service,$(SERVICES),$(LOCK) --constraints requirements/dev.lock --extra $(service) \
		--output-file requirements/$(service).lock &&) true

images: ## build one image per service with docker, podman or buildah (ENGINE=..., PYTHON=base image)
	@sh deploy/images.sh

wheels: install ## fill deploy/wheels, so that images build without a network
	@$(foreach service,$(SERVICES),$(BIN)/python -m pip download --quiet --disable-pip-version-check --only-binary :all: --no-deps \
		--require-hashes --dest deploy/wheels -r requirements/$(service).lock &&) ls deploy/wheels | wc -l

artefacts: install ## build what callers need into build/artefacts: client wheel, contracts, OpenAPI, AsyncAPI
	@$(BIN)/python client/build.py build/artefacts

clean: ## delete .venv, .troika and caches
	rm -rf $(VENV) .troika build *.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
