# make help lists the targets. Everything runs in .venv, which uv fills from uv.lock.
.DEFAULT_GOAL := help
.PHONY: help up down status test lint unit states cloud machines stack image bench-up bench-driver lock
BIN := .venv/bin
export SALT_LOG_LEVEL ?= warning

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/stackctl: uv.lock pyproject.toml scripts/bootstrap
	@scripts/bootstrap

up: $(BIN)/stackctl ## bring the whole stack up on this machine (idempotent)
	@$(BIN)/stackctl up

down: $(BIN)/stackctl ## take it away again, with everything it left
	@$(BIN)/stackctl down

status: $(BIN)/stackctl ## show machines, minions and services
	@$(BIN)/stackctl status

test: lint unit machines stack ## everything, cheapest first

lint: $(BIN)/stackctl ## formats, types, SLS, YAML, shell
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mdformat --check $$(git ls-files -co --exclude-standard "*.md")
	$(BIN)/mypy
	$(BIN)/salt-lint $$(git ls-files -co --exclude-standard '*.sls' '*.j2')
	$(BIN)/yamllint --strict .
	$(BIN)/shellcheck $$(git grep --untracked -lE '^#!(/usr)?/bin/(env )?(ba)?sh')

unit: $(BIN)/stackctl ## Python, templates, targeting, docs: no root, no Docker
	$(BIN)/pytest --numprocesses=auto --dist=loadfile tests/unit

image: $(BIN)/stackctl
	@$(BIN)/python -m localcloud image requirements/salt.txt

states: image ## every role converged twice in a container, then its behaviour
	$(BIN)/pytest tests/states

cloud: image ## salt-cloud against the local EC2, with real machines and faults
	$(BIN)/pytest tests/cloud

machines: image ## both of these, side by side
	$(BIN)/pytest --numprocesses=2 --dist=loadscope tests/states tests/cloud

stack: $(BIN)/stackctl ## the whole stack, as a user meets it
	@scripts/install-browser
	$(BIN)/pytest tests/stack

bench-up: $(BIN)/stackctl ## time `up` from nothing, from the image, and when nothing is to do
	$(BIN)/python scripts/bench_up.py

bench-driver: $(BIN)/stackctl ## count and time what the EC2 driver asks for, against its targets
	$(BIN)/python scripts/bench_driver.py

lock: $(BIN)/stackctl ## renew uv.lock and what is exported from it
	$(BIN)/uv lock --upgrade
	$(BIN)/uv export --quiet --only-group machine --no-emit-workspace --format requirements-txt > requirements/salt.txt
