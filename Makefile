# `make` lists the targets. All that is needed beforehand is Rust (cargo) and Python 3.10 or newer; the
# other tools are installed into .venv/, as pinned in tools/requirements.txt, and those that cargo compiles into
# target/tools/.

PYTHON ?= python3
# Where `make watch` serves the function and `make invoke` finds it.
PORT ?= 9000
# What `make deploy` and `make verify` are about. ARCHITECTURE=x86_64 or arm64, PACKAGE=dist, CONFIRM=no and PROTECT=no
# are for the former; the latter takes FUNCTION in place of STACK.
STACK ?=
FUNCTION ?=
PARAMETERS ?= $(STACK).json
# Which account is a sandbox, for the checks that run on AWS. Without CONFIRM=no they only tell what they would do;
# THROTTLE=yes is for `make conformance-aws`.
SANDBOX ?=
ON_SANDBOX = --sandbox "$(SANDBOX)" $(if $(filter no,$(CONFIRM)),--yes)
# How long `make fuzz` runs each target.
SECONDS ?= 60
# How long `make soak` runs, unless RUNS says how often. SEED is where it begins: one that found something repeats it.
MINUTES ?= $(if $(RUNS),,10)

VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/installed
CARGO_TOOLS := target/tools
CHECKOV := $(CARGO_TOOLS)/checkov
DENY := $(CARGO_TOOLS)/cargo-deny@0.20.2
FUZZ := $(CARGO_TOOLS)/cargo-fuzz@0.13.2
MUTANTS := $(CARGO_TOOLS)/cargo-mutants@27.1.0
# What `make lint` holds the pages to: Harper's own rules, and those in tools/prose/.
PROSE := LongSentences,FillerWords,Hedging,RepeatedWords,AnA,PassiveWithAgent,WeaselWords,TwoNegations

# `cargo lambda`, `cargo deny` and `cargo fuzz` are found by cargo, and zig by `cargo lambda build`.
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/$(CARGO_TOOLS)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run recording test test-all lint unit e2e soak mutants fuzz audit bench bench-failover \
	conformance conformance-aws conformance-sweep acceptance-aws \
	package reproduce terraform build deploy verify watch invoke clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(TOOLS) ## See it work: a consumer writes to PostgreSQL through failovers, on a local AWS (3 minutes)
	@$(BIN)/python -m local

recording: $(TOOLS) ## Draw docs/run.svg: what `make run` prints
	@$(BIN)/python -m tools.recording docs/run.svg "make run" $(BIN)/python -u -m local

test: lint unit e2e ## What has to pass before each commit, as in CI (12 minutes)

test-all: lint reproduce conformance ## That, and what takes too long for it: CONTRIBUTING.md names it (hours)
	@rm -f $${CARGO_TARGET_DIR:-target}/tmp/aws-actions
	cargo test --locked --workspace -- --include-ignored
	cargo build --locked
	$(BIN)/python -m pytest tests/e2e tests/terraform
	$(MAKE) soak MINUTES=60
	@# Each night a quarter of them.
	$(MAKE) mutants SHARD=$$(( $$(date +%-j) % 4 ))/4

lint: $(TOOLS) $(DENY) $(CHECKOV)/installed ## Formatting and lints, of Rust, of Python, of templates and of pages; licences of crates
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --locked --workspace check licenses bans sources
	$(BIN)/ruff format --config tools/ruff.toml --check benches conformance local tests/docs tests/e2e tests/terraform tools
	$(BIN)/ruff check --config tools/ruff.toml benches conformance local tests/docs tests/e2e tests/terraform tools
	$(BIN)/python -m pytest --quiet tests/docs
	mkdir -p target && $(BIN)/python -m zipfile -c target/prose.weirpack tools/prose/*
	$(BIN)/harper lint --quiet --format compact --dialect gb --weirpacks target/prose.weirpack --only $(PROSE) \
		*.md docs/*.md terraform/README.md
	$(BIN)/cfn-lint --regions ALL_REGIONS --template template.yaml examples/*.yaml conformance/*.yaml
	SAM_CLI_TELEMETRY=0 $(BIN)/sam validate --lint --region eu-west-1
	$(BIN)/actionlint
	$(CHECKOV)/bin/checkov --framework cloudformation --skip-download --quiet --compact \
		--file template.yaml $$(ls examples/*.yaml)

unit: ## The Rust tests, with the fault matrix and a short soak
	@# They list the AWS actions that they saw, for tests/e2e.
	@rm -f $${CARGO_TARGET_DIR:-target}/tmp/aws-actions
	cargo test --locked --workspace

e2e: $(TOOLS) ## The function, the template and the package against a local AWS; the Terraform module
	cargo build --locked
	$(BIN)/python -m pytest -m "not nightly" tests/e2e tests/terraform

soak: ## Random faults, flips, changes by hand and kills for MINUTES=10 or RUNS=…, from SEED=… on
	RUNS=$(RUNS) MINUTES=$(MINUTES) SEED=$(SEED) cargo test --locked --test faults -- soak

mutants: $(MUTANTS) ## Change the core in one place at a time, and list what no test of it finds; SHARD=0/8 is a part of it
	@# It ends with 2 where some were not found: each is to be judged, and what does no harm goes into .cargo/mutants.toml.
	PROPTEST_CASES=150 cargo mutants --package nlb-hostname-targets-core --output target \
		$(if $(SHARD),--sharding round-robin --shard $(SHARD)) || [ $$? -eq 2 ]

fuzz: $(FUZZ) ## Look for inputs that break a promise, SECONDS=60 for each target; the first time it compiles for long
	@# Without a sanitizer, which needs a nightly compiler: there is no unsafe code here. What is new stays out of the
	@# corpus that is kept, in fuzz/target/corpus/; to add what is worth it, see docs/security.md.
	for target in $$(ls fuzz/corpus); do \
		mkdir -p fuzz/target/corpus/$$target && \
		cargo fuzz run --sanitizer none $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-dict=fuzz/words.dict -max_len=4096 -max_total_time=$(SECONDS) -timeout=30 || exit 1; \
	done

audit: $(DENY) ## Crates with known vulnerabilities, by the advisory database, which is fetched from GitHub
	cargo deny --locked --workspace check advisories

bench: build ## The release binary: its size, how fast it starts, and what a run takes (10 minutes, and the builds)
	cargo bench --locked --bench run

bench-failover: $(TOOLS) ## How long a consumer can't write in a failover, in each mode: draws docs/failover.svg (13 minutes)
	@$(BIN)/python -m benches.failover

conformance: $(TOOLS) ## Each fact about AWS that the function relies on, as a check of our emulation, ministack and moto
	@$(BIN)/python -m conformance local

conformance-aws: $(TOOLS) ## The same on AWS, in an account that is a sandbox: SANDBOX=123456789012 (20 minutes, 0.10 USD)
	@$(BIN)/python -m conformance aws $(ON_SANDBOX) $(if $(filter yes,$(THROTTLE)),--throttle)

acceptance-aws: $(TOOLS) ## A stack from dist/ on AWS, in the same account, through its failovers (an hour, 0.30 USD)
	@$(BIN)/python -m conformance acceptance $(ON_SANDBOX) $(if $(PACKAGE),--package "$(PACKAGE)")

conformance-sweep: $(TOOLS) ## Remove what runs of these two left that were killed
	@$(BIN)/python -m conformance sweep $(ON_SANDBOX)

package: $(TOOLS) ## All that deploying takes without a compiler, in dist/, for each processor or ARCHITECTURE=arm64
	@$(BIN)/python -m tools.package $(if $(ARCHITECTURE),--architecture $(ARCHITECTURE))

reproduce: package ## The same from a clone in another folder, which has to give the same bytes
	rm -rf target/reproduce
	git clone --quiet . target/reproduce
	cd target/reproduce && $(CURDIR)/$(BIN)/python -m tools.package $(if $(ARCHITECTURE),--architecture $(ARCHITECTURE))
	diff dist/SHA256SUMS target/reproduce/dist/SHA256SUMS

terraform: ## The Terraform module by Terraform itself, with the AWS provider from its registry; no account
	@command -v terraform > /dev/null || \
		{ echo "terraform is not on the PATH: https://developer.hashicorp.com/terraform/install"; exit 1; }
	terraform fmt -check -diff -recursive terraform
	cd terraform && for command in "init -backend=false -input=false" validate test; do \
		TF_DATA_DIR=$(CURDIR)/target/terraform CHECKPOINT_DISABLE=1 terraform $$command || exit 1; \
	done

build: $(TOOLS) ## The release binary, in target/lambda/bootstrap/
	cargo lambda build --release --locked

deploy: $(TOOLS) ## Build and deploy to your AWS account, by a parameter file: make deploy STACK=orders
	@test -n "$(STACK)" || { echo "STACK must name the stack: make deploy STACK=orders"; exit 2; }
	@SAM_CLI_TELEMETRY=0 STACK="$(STACK)" PARAMETERS="$(PARAMETERS)" ARCHITECTURE="$(ARCHITECTURE)" PACKAGE="$(PACKAGE)" \
		CONFIRM="$(CONFIRM)" PROTECT="$(PROTECT)" $(BIN)/python -m tools.deploy

verify: $(TOOLS) ## Have a function check the set-up, and show what is wrong: make verify STACK=orders, or FUNCTION=…
	@test -n "$(STACK)$(FUNCTION)" || { echo "STACK must name the stack, or FUNCTION the function: make verify STACK=orders"; exit 2; }
	@$(BIN)/python -m tools.verify --stack "$(STACK)" --function "$(FUNCTION)"

watch: $(TOOLS) ## Serve the function with your own environment, rebuilt when the code changes
	cargo lambda watch --invoke-address 127.0.0.1 --invoke-port $(PORT)

invoke: $(TOOLS) ## Invoke what `make watch` serves: make invoke EVENT=events/dry-run.json
	@test -f "$(EVENT)" || { echo "EVENT must name a file: make invoke EVENT=events/dry-run.json"; exit 2; }
	@$(BIN)/python -c 'import socket; socket.create_connection(("127.0.0.1", $(PORT)), 2)' 2>/dev/null || \
		{ echo "Nothing listens on 127.0.0.1:$(PORT): start the function with 'make watch' in another terminal."; exit 1; }
	@cargo lambda invoke bootstrap --invoke-address 127.0.0.1 --invoke-port $(PORT) --data-file "$(EVENT)" --output-format json

clean: ## Remove what the builds and the tools left
	rm -rf target fuzz/target $(VENV) .aws-sam .pytest_cache .ruff_cache

$(TOOLS): tools/requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed; name one with make PYTHON=...")'
	@echo "Installing the tools into $(VENV)/ (once; a minute or two)"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement tools/requirements.txt
	@touch $@

$(CHECKOV)/installed: tools/checkov.txt
	@echo "Installing checkov into $(CHECKOV)/ (once; a minute or two)"
	$(PYTHON) -m venv --clear $(CHECKOV)
	$(CHECKOV)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

# Unoptimised, they compile in half the time.
$(DENY) $(FUZZ) $(MUTANTS):
	@echo "Compiling $(notdir $@) into $(CARGO_TOOLS)/ (once; a minute or two)"
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features --root $(CARGO_TOOLS) $(notdir $@)
	@touch $@
