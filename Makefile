# The commands for people and for CI. `make help` lists them.

CARGO ?= cargo
BLENDER ?= blender
DEMO_DATA ?= .pictor
DEMO_OUT ?= out/turntable
SCENES := $(patsubst %,workflows/scenes/built/%.blend,turntable still simulation sweep)
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DELETE_ON_ERROR:
.PHONY: help demo setup scenes build blenders test soak blender-matrix bench gpu-check lint schema clean

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## installs what is missing, builds, and renders workflows/turntable.yaml
	@DEMO_DATA='$(DEMO_DATA)' DEMO_OUT='$(DEMO_OUT)' scripts/demo.sh

setup: ## installs what is missing of Blender, ffmpeg, Bubblewrap, Postgres, RabbitMQ, a C compiler (Debian, Ubuntu)
	@scripts/setup.sh servers

scenes: $(SCENES) ## builds the example scenes into workflows/scenes/built

# Blender writes to a temporary name first: an incomplete scene never has the name of a complete one.
workflows/scenes/built/%.blend: workflows/scenes/%.py workflows/scenes/studio.py
	@mkdir -p $(@D)
	@echo "building $@"
	@$(BLENDER) -b --factory-startup --python-exit-code 1 -P $< -- $@.partial > $@.log 2>&1 \
		|| { cat $@.log; rm -f $@.partial; exit 1; }
	@mv $@.partial $@ && rm -f $@.log

workflows/scenes/built/simulation.blend: workflows/scenes/step_simulation.py

build: ## builds the command, target/debug/pictor
	$(CARGO) build --locked

blenders: setup build ## fetches current Blenders for the tests into target/blenders (PyPI's bpy, 350 MB each)
	@scripts/blenders.sh

# Documentation tests run first, so that the summary of all other tests is the last output. Tests start their own
# servers (tests/servers) when they need them; these stop by themselves a few seconds after the last test, even if a
# test or this make is killed.
test: setup scenes blenders ## runs every test of the workspace
	$(CARGO) test --locked --workspace --doc --quiet
	@if $(CARGO) nextest --version > /dev/null 2>&1; then \
		$(CARGO) nextest run --locked --workspace --no-fail-fast $(if $(PICTOR_SOAK),--run-ignored all); \
	else \
		$(CARGO) test --locked --workspace --lib --bins --tests --no-fail-fast; \
	fi

soak: export PICTOR_SOAK = 1
soak: export PICTOR_SIM_SEEDS ?= 100000
soak: test ## runs the long forms of the tests: many more seeds and fault points

# Takes about half an hour on two cores: each scene is built, rendered by Blender and rendered by pictor, four times.
blender-matrix: export PICTOR_SOAK = 1
blender-matrix: export PICTOR_MATRIX = write
blender-matrix: blenders ## renders every feature with every Blender and writes docs/blender-matrix.md
	$(CARGO) test --locked -p pictor --test blender -- --ignored --nocapture every_feature

bench: setup scenes ## runs the benchmarks in benches/
	$(CARGO) bench --locked -p pictor -p pictor-benches --benches

gpu-check: build scenes ## tests what pictor can do with an NVIDIA GPU, and says what is missing
	$(CARGO) build --locked -p pictor-benches --bin gpu-check
	@$(TARGET)/debug/gpu-check $(TARGET)/debug/pictor

lint: ## checks formatting, clippy and documentation; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items

schema: build ## regenerates workflows/pictor.schema.json
	$(TARGET)/debug/pictor schema > workflows/pictor.schema.json

clean: ## removes what demo and scenes created (not target/)
	rm -rf workflows/scenes/built '$(DEMO_DATA)' '$(DEMO_OUT)'
