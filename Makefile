# make help lists the targets. Everything runs in .venv, which uv fills from uv.lock.
.DEFAULT_GOAL := help
.PHONY: help up down status test lint unit oldest-salt states cloud machines long stack image \
	bench chaos chaos-list chaos-clean bench-list bench-visit bench-up bench-driver bench-memory bench-release mutants size audit lock lock-airflow
BIN := .venv/bin
export SALT_LOG_LEVEL ?= warning
# Where Python is told to keep no bytecode, as in many containers, each process would compile all
# that it imports, and the tests start a thousand.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.stack/bytecode
# A shell script is a file that ends in .sh, or whose first line says so.
SHEBANG := \#!(/usr)?/bin/(env )?(ba)?sh

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/stackctl: uv.lock pyproject.toml scripts/bootstrap
	@scripts/bootstrap

up: $(BIN)/stackctl ## bring the whole stack up on this machine (idempotent); MAP=production: all of it
	@$(BIN)/stackctl $(if $(MAP),--map $(MAP) )up

down: $(BIN)/stackctl ## remove the local stack, with everything it left
	@$(BIN)/stackctl down

status: $(BIN)/stackctl ## show machines, minions and services
	@$(BIN)/stackctl status

# Each layer prints what took it longest.
SLOWEST := --durations=25 --durations-min=5
test: lint unit stack machines ## run every check, cheapest first

lint: $(BIN)/stackctl ## check formats, types, SLS, YAML, documents, shell
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mdformat --check $$(git ls-files -co --exclude-standard "*.md")
	$(BIN)/mypy
	$(BIN)/salt-lint $$(git ls-files -co --exclude-standard '*.sls' '*.j2')
	$(BIN)/yamllint --strict .
	$(BIN)/shellcheck $$({ git ls-files -co --exclude-standard '*.sh'; \
		git grep --untracked -lE "^$(SHEBANG)"; } | sort -u)

unit: $(BIN)/stackctl ## test Python, templates, targeting, documents: no root, no Docker
	$(BIN)/pytest $(SLOWEST) --numprocesses=auto --dist=loadfile --no-loadscope-reorder \
		-m "not long" tests/unit packages/saltext-ec2/tests

# The lockfile has the newest Salt. These are an environment and a Salt of their own; the overrides
# are those of pyproject.toml.
OLDEST_SALT := 3008.0
OLDEST := .stack/salt-$(OLDEST_SALT)
oldest-salt: $(BIN)/stackctl ## test the EC2 driver with the oldest Salt that it supports
	@mkdir -p .stack
	printf '%s\n' 'certifi>=2025.1.31' 'timelib; sys_platform == "never"' > $(OLDEST).txt
	$(BIN)/uv venv --quiet --clear $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --overrides $(OLDEST).txt \
		--group packages/saltext-ec2/pyproject.toml:test --editable packages/saltext-ec2 \
		salt==$(OLDEST_SALT)
	cd packages/saltext-ec2 && $(CURDIR)/$(OLDEST)/bin/pytest -p no:cacheprovider tests

image: $(BIN)/stackctl
	@$(BIN)/python -m localcloud image requirements/salt.txt

states: image ## apply every role twice in a container, then test its behaviour
	$(BIN)/pytest tests/states

cloud: image ## test salt-cloud against the local EC2, with real machines and faults
	$(BIN)/pytest tests/cloud

# With two workers, tests that wait for something leave up to a third of two cores idle.
machines: image ## run `states` and `cloud` side by side
	$(BIN)/pytest $(SLOWEST) --numprocesses=3 --dist=loadscope -m "not long" tests/states tests/cloud

long: image ## run the tests that take minutes each: upgrades, a rotation of the CA, a lost master
	@scripts/install-browser
	$(BIN)/pytest $(SLOWEST) --numprocesses=auto --dist=loadfile -m long tests/unit
	$(BIN)/pytest $(SLOWEST) -m long tests/states tests/cloud tests/stack

stack: $(BIN)/stackctl ## test the whole stack as a user meets it
	@scripts/install-browser
	$(BIN)/pytest $(SLOWEST) -m "not long" tests/stack

# ONLY="ui-dags sweep" selects scenarios; RESUME=1 leaves out what this commit has measured.
BENCH := PYTHONPATH=scripts $(BIN)/python -m bench
RUNS ?= 3
bench: $(BIN)/stackctl ## compare stock Airflow with the running stack, against the figures to reach
	@$(BENCH) --runs $(RUNS) $(if $(RESUME),--resume) $(ONLY)

bench-list: $(BIN)/stackctl ## list the scenarios of `bench` and the figures to reach
	@$(BENCH) --list

# ONLY="primary-gone zone-cut" selects rows; RUNS=3 gives medians.
CHAOS := PYTHONPATH=tests/support:scripts $(BIN)/python -m tests.chaos
chaos chaos-list: RUNS = 1
chaos: $(BIN)/stackctl ## lose everything once, on the production map, while people use the site
	@$(CHAOS) --runs $(RUNS) $(if $(RESUME),--resume) $(ONLY)

chaos-list: $(BIN)/stackctl ## list the rows of `chaos`, and what each has to reach
	@$(CHAOS) --list $(ONLY)

chaos-clean: $(BIN)/stackctl ## end the faults that a killed run of `chaos` has left
	@$(CHAOS) --clean

bench-visit: $(BIN)/stackctl ## record what a browser asks for, for `bench`
	@scripts/install-browser
	@$(BENCH) --record

bench-up: $(BIN)/stackctl ## time `up` from nothing, with the image at hand, and with nothing to do
	$(BIN)/python scripts/bench_up.py

bench-driver: $(BIN)/stackctl ## count and time the EC2 driver's requests, against its targets
	$(BIN)/python scripts/bench_driver.py

bench-memory: $(BIN)/stackctl ## open pages, then print what the programs of each machine hold
	@$(BIN)/python scripts/bench_memory.py

bench-release: $(BIN)/stackctl ## time how a new master takes Airflow's release from the bucket
	@$(BIN)/python scripts/bench_release.py

mutants: $(BIN)/stackctl ## plant small faults in the modules that decide, and count what tests notice
	$(BIN)/python scripts/mutants.py

size: $(BIN)/stackctl ## count lines of code and show the longest files and functions
	@$(BIN)/python scripts/code_size.py

audit: $(BIN)/stackctl ## look up known vulnerabilities of both lockfiles, and say their age
	@$(BIN)/python scripts/audit.py

lock: $(BIN)/stackctl lock-airflow ## renew every lockfile: uv.lock, Salt's and Airflow's
	$(BIN)/uv lock --upgrade
	$(BIN)/uv export --quiet --only-group machine --no-emit-workspace --format requirements-txt \
		> requirements/salt.txt

AIRFLOW := salt/airflow/files/requirements
lock-airflow: $(BIN)/stackctl ## renew Airflow's lockfile alone, after a change of its requirements.in
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes \
		--python-version 3.13 --python-platform x86_64-manylinux_2_40 \
		--custom-compile-command 'see requirements.in' $(AIRFLOW).in -o $(AIRFLOW).txt
