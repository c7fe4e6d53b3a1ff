# Everything a person or CI asks of this repository. The work is done by scripts/ and cargo.

.DEFAULT_GOAL := help
.PHONY: help setup demo build test check unit it ui e2e faults soak fuzz bench docs package

help: ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: ## install what demo and tests need
	@scripts/setup test

demo: ## two real PostgreSQL servers, 800 000 rows, live traffic, a web page, a verified result
	@scripts/setup demo
	@test -x target/demo/tidemark || echo "building, which takes a few minutes the first time ..."
	@cargo build --quiet --locked --profile demo -p tidemark
	@target/demo/tidemark demo $(ARGS)

build: ## the program, optimised: target/release/tidemark
	@cargo build --locked --release -p tidemark

package: build ## what is installed: target/packages (SIGNING_KEY=minisign.key signs it)
	@packaging/deb/build
	@program=$$(packaging/static) && export TIDEMARK=$$program && packaging/oci/build && packaging/tarball/build
	@packaging/sums

test: ## everything we claim, tested against real servers (STRICT=1: a skip is a failure)
	@scripts/setup test
	@scripts/test

check: ## format, lints, scripts, licences, and the rules of the house
	@scripts/test format lints scripts licences web tidy

unit: ## tests beside the code
	@scripts/test unit

it: ## each crate against real servers
	@scripts/setup test
	@scripts/test it

ui: ## the web pages in a real browser, against a real server
	@scripts/setup test
	@scripts/test web ui

e2e: ## the program as a user runs it
	@scripts/setup test
	@scripts/test e2e

faults: ## kill, cut, freeze, fill the disk, and count the rows
	@scripts/setup test
	@scripts/test faults

soak: ## faults at random under load: make soak MINUTES=10 [SEED=7]
	@scripts/setup test
	@SOAK_MINUTES=$(or $(MINUTES),5) SEED=$(SEED) STAND_STILL=120 cargo test --locked -p tidemark --test e2e -- --nocapture \
	  faults_at_random stood_still changes_at_random what_comes_and_goes

fuzz: ## bytes of the outside, whatever they are: make fuzz [SECONDS=60]
	@fuzz/run $(or $(SECONDS),60)

bench: ## speed, beside what a user would take instead
	@bench/run $(ARGS)

docs: ## the API documents of all crates, warnings denied
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --workspace --no-deps --document-private-items
