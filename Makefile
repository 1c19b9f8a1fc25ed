# Needs GNU make 4, bash and Python 3.11 or newer; everything else is installed into .venv.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
PIN := $(shell grep '^pb1-detectron2==' requirements.txt)
# Which detectron2: the one named on the command line, else the one chosen before, else the pinned one.
ifeq ($(origin DETECTRON2),undefined)
DETECTRON2 := $(or $(shell cat $(VENV)/detectron2.txt 2>/dev/null),$(PIN))
endif
# The stamp's name depends on everything that defines the environment, so a change there sets it up again.
READY := $(VENV)/.ready-$(shell { cat requirements.txt pyproject.toml; echo '$(DETECTRON2)'; } | cksum | cut -d' ' -f1)
# Exists while .venv is being made: the next run throws away what an interrupted one left behind.
UNFINISHED := $(VENV)/.unfinished

# The overrides on make's command line: variables whose names have a dot or are in lower case, in the order they were
# typed (make lists the last one first). $(origin) drops words that are only part of another variable's value, and
# $(value) does not expand `$`.
reverse = $(if $1,$(call reverse,$(filter-out $(firstword $1),$(wordlist 2,$(words $1),$1))) $(firstword $1))
quote = '$(subst ','\'',$(value $1))'
lower := $(addsuffix %,a b c d e f g h i j k l m n o p q r s t u v w x y z)
typed := $(foreach w,$(MAKEOVERRIDES),$(firstword $(subst =, ,$w)))
typed := $(call reverse,$(foreach n,$(typed),$(if $(filter command,$(firstword $(origin $n))),$n)))
keys := $(foreach n,$(typed),$(if $(findstring .,$n)$(filter $(lower),$n),$n))
OVERRIDES = $(foreach k,$(keys),'$k='$(call quote,$k)) $(value OPTS)
flag = $(if $(value $2),$1 $(call quote,$2))
LAUNCH = $(PY) $(if $(filter-out 0 1,$(GPUS)),-m ivtuning.engine.launch --standalone --nproc_per_node=$(GPUS))

# Values that must be there before make installs or starts anything; the tools check what they are.
CONFIG_OK = $(if $(CONFIG),,$(error name a config: make $(@:.%-ok=%) CONFIG=configs/<data set>/<experiment>.py))
WEIGHTS_OK = $(if $(WEIGHTS),,$(error name the weights: make $(@:.%-ok=%) CONFIG=$(CONFIG) WEIGHTS=output/model_final.pth))
TRAIN_OK = $(if $(value ADAPTER),$(error train takes no ADAPTER: give the weights to start from as WEIGHTS))
TRAIN_OK += $(if $(value ARGS),$(error train takes no ARGS: give flags and overrides as OPTS))

.PHONY: help setup demo compare bench test lint convert train eval predict visualize report export pins clean

help: ## Show this help | make
	@echo "Targets. All but help and clean first set up .venv if it is missing or out of date."
	pattern='^([a-z]+):.* ## (.*) \| (.*)'
	while IFS= read -r line; do
	    if [[ $$line =~ $$pattern ]]; then printf '\n  %-11s%s\n%13s%s\n' "$${BASH_REMATCH[@]:1:2}" '' "$${BASH_REMATCH[3]}"; fi
	done < Makefile
	echo
	cat <<'END'
	Write changes to a config on the command line: train.max_iter=100 model.pixel_mean=[1,2]
	Quote a value that the shell would change: 'train.init_checkpoint=https://host/f?x=True'
	OPTS passes more flags and overrides, quoted as in a shell: OPTS="--resume 'train.output_dir=my output'"
	ARGS passes flags to demo, compare, bench, test, convert, predict, visualize, report and export: make test ARGS="-m 'not slow'"
	GPUS=n starts n processes on this machine (train, eval).
	END

setup: $(READY) ## Create .venv, with another detectron2 if you name one | make setup DETECTRON2=git+https://github.com/facebookresearch/detectron2
	@echo "ready: $(PY), detectron2 from $$(cat $(VENV)/detectron2.txt)"

demo: $(READY) ## Generate scenes, train, evaluate and draw the results, in minutes on a CPU | make demo
	@$(PY) tools/demo.py $(value ARGS)

compare: $(READY) ## Train every tuning method with three seeds, each at its best rate if asked; print a table | make compare ARGS="--seeds 1 --only IVTuning,Mona"
	@$(PY) tools/compare.py $(call flag,--config-file,CONFIG) $(value ARGS) $(OVERRIDES)

bench: $(READY) ## Measure speed and memory, and compare them with their targets | make bench ARGS="step --depth 3 --no-1024"
	@$(PY) tools/benchmark.py $(or $(value ARGS),all)

# One process a core, each with a thread of its own; ARGS="-n 0" runs all in one.
test: $(READY) ## Run the tests, in as many processes as there are cores | make test ARGS="tests/config -x"
	@$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal $(value ARGS)

lint: $(READY) ## Check style, formatting, the direction of imports, and types | make lint
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m mypy

convert: .convert-ok $(READY) ## Convert a detector of another project into starting weights for a config | make convert CONFIG=configs/M3FD/dino_ivtuning_swin_l.py FROM=dino WEIGHTS=downloaded.pth OUTPUT=weights/dino_swin_l.safetensors
	@$(PY) tools/convert_checkpoint.py $(call flag,--config-file,CONFIG) $(call flag,--from,FROM) \
		$(call flag,,WEIGHTS) $(call flag,,OUTPUT) $(value ARGS) $(OVERRIDES)

train: .train-ok $(READY) ## Train a config | make train CONFIG=configs/synthetic/ivtuning.py GPUS=2 model.backbone.net.tuner.hidden_dim=4
	@$(LAUNCH) tools/train_net.py $(call flag,--config-file,CONFIG) $(call flag,--weights,WEIGHTS) $(OVERRIDES)

eval: .eval-ok $(READY) ## Evaluate weights, with an adapter on top if you name one, or an exported file, ONNX=model.onnx | make eval CONFIG=configs/synthetic/ivtuning.py WEIGHTS=base.pth ADAPTER=m3fd.safetensors
	@$(LAUNCH) tools/train_net.py $(call flag,--config-file,CONFIG) --eval-only $(call flag,--weights,WEIGHTS) \
		$(call flag,--adapter,ADAPTER) $(call flag,--onnx,ONNX) $(OVERRIDES)

predict: .predict-ok $(READY) ## Predict pairs of images or videos, as JSON, CSV, PNG and MP4 files | make predict CONFIG=configs/synthetic/ivtuning.py WEIGHTS=output/model_final.pth OUTPUT=found ARGS="--vis my/visible --ir my/infrared"
	@$(PY) tools/predict.py $(call flag,--config-file,CONFIG) $(call flag,--weights,WEIGHTS) \
		$(call flag,--adapter,ADAPTER) $(call flag,--onnx,ONNX) $(call flag,--output,OUTPUT) $(value ARGS) $(OVERRIDES)

visualize: .visualize-ok $(READY) ## Draw boxes or label maps on both images of every pair | make visualize CONFIG=configs/synthetic/ivtuning.py WEIGHTS=output/model_final.pth OUTPUT=pictures
	@$(PY) tools/visualize.py $(call flag,--config-file,CONFIG) $(call flag,--weights,WEIGHTS) \
		$(call flag,--adapter,ADAPTER) $(call flag,--onnx,ONNX) $(call flag,--output,OUTPUT) $(value ARGS) $(OVERRIDES)

report: .report-ok $(READY) ## Write a page about a run: curves, figures, confusion, worst and best pairs | make report RUN=output/synthetic/ivtuning
	@$(PY) tools/report.py $(call flag,,RUN) $(value ARGS) $(OVERRIDES)

export: .export-ok $(READY) ## Write a model as one ONNX file that runs without this project | make export CONFIG=configs/synthetic/ivtuning.py WEIGHTS=output/model_final.pth OUTPUT=model.onnx ARGS="--size 160x128"
	@$(PY) tools/export_model.py $(call flag,--config-file,CONFIG) $(call flag,--weights,WEIGHTS) \
		$(call flag,--adapter,ADAPTER) $(call flag,--output,OUTPUT) $(value ARGS) $(OVERRIDES)

.PHONY: .convert-ok .train-ok .eval-ok .predict-ok .visualize-ok .report-ok .export-ok
.convert-ok: ; @: $(CONFIG_OK)$(WEIGHTS_OK)
.train-ok: ; @: $(CONFIG_OK)$(TRAIN_OK)
.eval-ok: ; @: $(if $(ONNX),,$(CONFIG_OK)$(WEIGHTS_OK))
.predict-ok: ; @: $(if $(ONNX),,$(CONFIG_OK))
.export-ok: ; @: $(CONFIG_OK)
.visualize-ok: ; @: $(if $(ONNX)$(value ARGS),,$(CONFIG_OK))
.report-ok: ; @: $(if $(RUN),,$(error name a run: make report RUN=output/<its folder>))

pins: ## Update every version pinned in requirements.txt | make pins
	@$(NEW_VENV)
	{ $(UV) pip compile -q --upgrade --universal --python-version 3.11 --all-extras \
		--custom-compile-command 'make pins' pyproject.toml
	  sed -n '/^# detectron2/,$$p' requirements.txt; } > $(VENV)/requirements.new
	mv $(VENV)/requirements.new requirements.txt

clean: ## Remove .venv and caches; datasets/ and output/ stay | make clean
	@rm -rf $(VENV) build projects/*.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find configs datasets projects tests tools -name __pycache__ -prune -exec rm -rf {} +

# The first Python that is new enough and has venv. Shims that start no Python are skipped.
BASE_PYTHON = $(or $(shell for p in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done),$(error \
	no Python 3.11 or newer with its venv module ($(or $(PYTHON),python3) is \
	$(or $(shell $(or $(PYTHON),python3) --version 2>/dev/null),missing)): install python3.11 and python3.11-venv, \
	or name one: make setup PYTHON=/path/to/python3.11))

define NEW_VENV
python=$(BASE_PYTHON)
if [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
if [ ! -x $(UV) ]; then
    echo "making $(VENV) with $$("$$python" --version)"
    mkdir -p $(VENV) && touch $(UNFINISHED)
    "$$python" -m venv $(VENV)
    $(PY) -m pip install -q "$$(grep '^uv==' requirements.txt)"
    rm $(UNFINISHED)
fi
endef

# What Python runs when it starts: any order of imports may then bring in detectron2's 0.6 sources.
define START
import contextlib

with contextlib.suppress(ImportError):
    from ivtuning import compat

    compat.prepare_on_import()
endef
export START

# --skip-build leaves out detectron2's C++ operators. Nothing here calls them, and they need minutes and a compiler.
$(READY):
	@$(NEW_VENV)
	touch $(UNFINISHED)
	rm -f $(VENV)/.ready-*
	export VIRTUAL_ENV=$(abspath $(VENV))
	grep -v '^pb1-detectron2==' requirements.txt > $(VENV)/requirements.txt
	$(UV) pip install -r $(VENV)/requirements.txt
	printf '%s\n' '$(DETECTRON2)' > $(VENV)/detectron2.txt
	$(UV) pip uninstall -q pb1-detectron2 detectron2
	$(UV) pip install --no-build-isolation --no-deps \
		-C=--global-option=build_py -C=--build-option=--skip-build '$(or $(realpath $(DETECTRON2)),$(DETECTRON2))' || {
	    echo "error: cannot install detectron2 from '$(DETECTRON2)'; make setup DETECTRON2=$(PIN) goes back to the default" >&2
	    rm $(UNFINISHED)
	    exit 1
	}
	$(UV) pip install --no-deps --no-build-isolation -e .
	for folder in $(VENV)/lib/python*/site-packages; do
	    if [ -d "$$folder" ]; then printf '%s\n' "$$START" > "$$folder/sitecustomize.py"; fi
	done
	rm $(UNFINISHED)
	touch $@
