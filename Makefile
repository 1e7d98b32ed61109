# Each target sets up what it needs in .venv first, so that it is the only command on a fresh machine
# with Python 3.11. Settings can be given on the command line (make serve CARID_PORT=8001), and ARGS
# adds to what a command gets: make test ARGS='-k decode'.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help serve test lint train train-within lr-range-test show-augmentations ablation bench bench-train soak evaluate \
	show-explanations archive export-weights image openapi constraints audit sbom clean

# The first Python 3.11 at hand. Expanded only where it is used: `make help` works without one.
is_3_11 := import sys; sys.exit(sys.version_info[:2] != (3, 11))
PYTHON ?= $(or $(shell for python in python3.11 python3 python; do \
	$$python -c '$(is_3_11)' 2>/dev/null && echo $$python && break; done),$(error \
	Python 3.11 is needed and not found: install it, or name one: make PYTHON=/path/to/python3.11 …))

VENV := .venv/bin/python
set_up = @$(PYTHON) deploy/bootstrap.py

DATA ?= $(CARS_DATA)
SPLIT ?= val
configured = --config '$(CONFIG)' $(if $(DATA),--data.root '$(DATA)')
example_train = make $@ CONFIG=lightning_train/configs/efficientnet_lite0_cpu.yaml DATA=/path/to/data
example_ablation = make ablation EXPERIMENTS=lightning_train/experiments/schedules.yaml DATA=/path/to/data
example_evaluate = make evaluate ARCHIVE=model_store/car_identifier.mar DATA=/path/to/data SPLIT=val
example_archive = make archive CHECKPOINT=runs/…/best.ckpt VERSION=2.0 DATA=/path/to/data
example_weights = make $@ CHECKPOINT=runs/…/best.ckpt OUT=model_store/weights
example_explanations = make $@ ARCHIVE=model_store/car_identifier.mar PHOTOS=/path/to/photos
require = $(foreach name,$(1),$(if $($(name)),,$(error $(name) is missing; for example: $(2))))

help: ## what can be done here (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: ## TorchServe and the gateway with the bundled archive, on http://127.0.0.1:8000; Ctrl-C stops both
	$(set_up) serve
	@exec $(VENV) -m deploy.serve $(ARGS)

test: ## all tests; those that need real photos run if CARS_DATA names the data folder
	$(set_up) dev
	@$(VENV) -m pytest $(if $(ARGS),$(ARGS),-n auto --maxprocesses 4 --dist loadfile)

lint: ## style, types and the import rules of ARCHITECTURE.md
	$(set_up) dev
	@$(VENV) -m ruff check
	@$(VENV) -m ruff format --check
	@$(VENV) -m mypy
	@.venv/bin/lint-imports --no-logo

train: ## fit a network: CONFIG=lightning_train/configs/….yaml DATA=folder [RESUME=….ckpt]
	$(call require,CONFIG,$(example_train))
	$(set_up) train
	@$(VENV) -m lightning_train fit $(configured) \
		$(if $(RESUME),--ckpt_path '$(RESUME)') $(ARGS)

train-within: ## fit for so many minutes, whole cycles: MINUTES=18 CONFIG=lightning_train/configs/….yaml DATA=folder
	$(call require,CONFIG MINUTES,$(example_train) MINUTES=60)
	$(set_up) train
	@$(VENV) -m lightning_train fit-within --minutes '$(MINUTES)' $(configured) $(ARGS)

lr-range-test: ## find the bounds of the learning rate: CONFIG=….yaml DATA=folder
	$(call require,CONFIG,$(example_train))
	$(set_up) train
	@$(VENV) -m lightning_train lr-range-test $(configured) $(ARGS)

show-augmentations: ## draw photos as training sees them: CONFIG=….yaml DATA=folder
	$(call require,CONFIG,$(example_train))
	$(set_up) train
	@$(VENV) -m lightning_train show-augmentations $(configured) $(ARGS)

ablation: ## train variants and compare them: EXPERIMENTS=lightning_train/experiments/….yaml DATA=folder
	$(call require,EXPERIMENTS DATA,$(example_ablation))
	$(set_up) train
	@$(VENV) -m lightning_train ablation --experiments '$(EXPERIMENTS)' --data '$(DATA)' $(ARGS)

bench-train: ## photos a second beside the ceiling and the usual loop: CONFIG=….yaml DATA=folder
	$(call require,CONFIG,$(example_train))
	$(set_up) train
	@$(VENV) -m benchmarks.training $(configured) $(ARGS)

soak: ## 10,000 good and bad requests to the real service, every answer checked: [DATA=folder]
	$(set_up) dev
	@$(VENV) -m benchmarks.soak $(if $(DATA),--data '$(DATA)') $(ARGS)

bench: ## photos a second beside the bare engine and other servers, 25 minutes: [ARCHIVE=….mar] [DATA=folder]
	$(set_up) bench
	@$(VENV) -m benchmarks.serving $(if $(ARCHIVE),--archive '$(ARCHIVE)') \
		$(if $(DATA),--photos '$(or $(wildcard $(DATA)/photos),$(DATA))') $(ARGS)

evaluate: ## score an archive: ARCHIVE=model_store/….mar DATA=folder SPLIT=train|val|test
	$(call require,ARCHIVE DATA SPLIT,$(example_evaluate))
	$(set_up) train
	@$(VENV) -m lightning_train evaluate --archive '$(ARCHIVE)' --data '$(DATA)' --split '$(SPLIT)' $(ARGS)

archive: ## package a checkpoint, with its model card: CHECKPOINT=….ckpt VERSION=2.0 DATA=folder [ENGINE=openvino|torch] [CONFIG=….yaml]
	$(call require,CHECKPOINT VERSION DATA,$(example_archive))
	$(set_up) train
	@$(VENV) -m lightning_train archive --checkpoint '$(CHECKPOINT)' --version '$(VERSION)' \
		--data '$(DATA)' $(if $(ENGINE),--engine '$(ENGINE)') $(if $(CONFIG),--recipe '$(CONFIG)') $(ARGS)

export-weights: ## write a checkpoint's weights as safetensors, to start other runs from: CHECKPOINT=….ckpt [OUT=folder]
	$(call require,CHECKPOINT,$(example_weights))
	$(set_up) train
	@$(VENV) -m lightning_train export-weights --checkpoint '$(CHECKPOINT)' $(if $(OUT),--out '$(OUT)') $(ARGS)

show-explanations: ## draw where an archive looks on photos: ARCHIVE=model_store/….mar PHOTOS=folder
	$(call require,ARCHIVE PHOTOS,$(example_explanations))
	$(set_up) train
	@$(VENV) -m lightning_train show-explanations --archive '$(ARCHIVE)' --photos '$(PHOTOS)' $(ARGS)

image: ## the container image car-identifier, with docker or podman: [CARID_BASE=debian@sha256:…] [ARGS='--build-arg TORCH=cuda']
	@CARID_BASE='$(CARID_BASE)' CARID_WHEELS='$(CARID_WHEELS)' deploy/container/build $(ARGS)

openapi: ## write openapi/car-identifier.yaml from the gateway
	$(set_up) dev
	@$(VENV) -m gateway.openapi > openapi/car-identifier.yaml.new
	@mv openapi/car-identifier.yaml.new openapi/car-identifier.yaml

constraints: ## pin in constraints.txt what .venv holds (first upgrade there: .venv/bin/pip install -U …)
	$(set_up) dev
	$(set_up) bench
	@{ sed '/^[^#]/,$$d' constraints.txt; $(VENV) -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; } \
		> constraints.new
	@mv constraints.new constraints.txt

audit: ## ask OSV for known vulnerabilities in constraints.txt: exit status 0 none, 1 found, 3 could not ask
	$(set_up) dev
	@$(VENV) -m deploy.chain.audit $(ARGS)

sbom: ## write .run/sbom.json (CycloneDX): what `serve` installs, and the archive: [ARGS='--debian packages.txt']
	$(set_up) dev
	@$(VENV) -m deploy.chain.sbom $(ARGS)

clean: ## remove .venv, .run but for its keys and swaps, and all caches; training runs stay
	@$(PYTHON) -m deploy.clean .run
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
