# Needs GNU make 4, bash and Python 3.11 or newer; everything else is installed into .venv.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
PIN := $(shell grep '^pb1-detectron2==' requirements.txt)
# Which detectron2: named on the command line, or by an earlier set-up, or the pinned one.
ifeq ($(origin DETECTRON2),undefined)
DETECTRON2 := $(or $(shell cat $(VENV)/detectron2.txt 2>/dev/null),$(PIN))
endif
# The stamp's name changes with anything the environment is made of.
READY := $(VENV)/.ready-$(shell { cat requirements.txt pyproject.toml; echo '$(DETECTRON2)'; } | cksum | cut -d' ' -f1)
# Set while .venv is under construction: what an interrupted set-up left behind is thrown away.
UNFINISHED := $(VENV)/.unfinished

# Overrides as typed on make's command line: names with a dot or in lower case, in the order typed (make lists them
# last first). $(origin) drops words that are only part of another variable's value; $(value) leaves `$` alone.
reverse = $(if $1,$(call reverse,$(filter-out $(firstword $1),$(wordlist 2,$(words $1),$1))) $(firstword $1))
quote = '$(subst ','\'',$(value $1))'
lower := $(addsuffix %,a b c d e f g h i j k l m n o p q r s t u v w x y z)
typed := $(foreach w,$(MAKEOVERRIDES),$(firstword $(subst =, ,$w)))
typed := $(call reverse,$(foreach n,$(typed),$(if $(filter command,$(firstword $(origin $n))),$n)))
keys := $(foreach n,$(typed),$(if $(findstring .,$n)$(filter $(lower),$n),$n))
OVERRIDES = $(foreach k,$(keys),'$k='$(call quote,$k)) $(value OPTS)
flag = $(if $(value $2),$1 $(call quote,$2))
LAUNCH = $(PY) $(if $(filter-out 0 1,$(GPUS)),-m torch.distributed.run --standalone --nproc_per_node=$(GPUS))

# Each needs a value that make can check before anything is installed or started.
CONFIG_OK = $(if $(CONFIG),$(if $(wildcard $(CONFIG)),,$(error no config file $(CONFIG); \
	those there are: $(or $(wildcard $(dir $(CONFIG))*.py),$(filter-out configs/common/%,$(wildcard configs/*/*.py))))),$(error \
	name a config: make $(@:.%-ok=%) CONFIG=configs/<data set>/<experiment>.py))
WEIGHTS_OK = $(if $(WEIGHTS),,$(error name the weights: make $(@:.%-ok=%) CONFIG=$(CONFIG) WEIGHTS=output/model_final.pth))

.PHONY: help setup demo compare bench test lint convert train eval visualize pins clean

help: ## Show this help | make
	@echo "Targets; all but help and clean set up .venv first where that is needed."
	pattern='^([a-z]+):.* ## (.*) \| (.*)'
	while IFS= read -r line; do
	    if [[ $$line =~ $$pattern ]]; then printf '\n  %-11s%s\n%13s%s\n' "$${BASH_REMATCH[@]:1:2}" '' "$${BASH_REMATCH[3]}"; fi
	done < Makefile
	echo
	cat <<'END'
	Changes to a config stand on the command line as they are: train.max_iter=100 model.pixel_mean=[1,2]
	Quote what the shell would touch: 'train.init_checkpoint=https://host/f?x=True'. More flags and
	overrides, with a shell's quotes, go in OPTS: OPTS="--resume 'train.output_dir=my output'"
	GPUS=n starts n processes on this machine (train, eval). ARGS=... goes to demo, compare, bench, test, convert and visualize.
	END

setup: $(READY) ## Make .venv, with another detectron2 if named | make setup DETECTRON2=git+https://github.com/facebookresearch/detectron2
	@echo "ready: $(PY), detectron2 from $$(cat $(VENV)/detectron2.txt)"

demo: $(READY) ## Make scenes, train, evaluate and draw in a few minutes | make demo
	@$(PY) tools/demo.py $(value ARGS)

compare: $(READY) ## Train every tuner with three seeds and tabulate mean and spread | make compare ARGS="--seeds 1 --only IVTuning,Mona"
	@$(PY) tools/compare.py $(call flag,--config-file,CONFIG) $(value ARGS) $(OVERRIDES)

bench: $(READY) ## Measure speed and memory as ratios, beside their targets | make bench ARGS="step --depth 3 --no-1024"
	@$(PY) tools/benchmark.py $(or $(value ARGS),all)

test: $(READY) ## Run the tests | make test ARGS="tests/test_config.py -x"
	@$(PY) -m pytest $(value ARGS)

lint: $(READY) ## Check style and formatting | make lint
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .

convert: .convert-ok $(READY) ## Turn a detector of another project into a config's start | make convert CONFIG=configs/M3FD/dino_ivtuning_swin_l.py FROM=dino WEIGHTS=downloaded.pth OUTPUT=weights/dino_swin_l_5scale_coco.safetensors
	@$(PY) tools/convert_checkpoint.py $(call flag,--config-file,CONFIG) $(call flag,--from,FROM) \
		$(call flag,,WEIGHTS) $(call flag,,OUTPUT) $(value ARGS) $(OVERRIDES)

train: .train-ok $(READY) ## Train a config | make train CONFIG=configs/synthetic/ivtuning.py GPUS=2 model.backbone.net.tuner.hidden_dim=4
	@$(LAUNCH) tools/train_net.py $(call flag,--config-file,CONFIG) $(OVERRIDES)

eval: .eval-ok $(READY) ## Evaluate weights, and an adapter on top of them | make eval CONFIG=configs/synthetic/ivtuning.py WEIGHTS=base.pth ADAPTER=m3fd.safetensors
	@$(LAUNCH) tools/train_net.py $(call flag,--config-file,CONFIG) --eval-only $(call flag,--weights,WEIGHTS) \
		$(call flag,--adapter,ADAPTER) $(OVERRIDES)

visualize: .visualize-ok $(READY) ## Draw boxes or label maps on both images of each pair | make visualize CONFIG=configs/synthetic/ivtuning.py WEIGHTS=output/model_final.pth OUTPUT=pictures
	@$(PY) tools/visualize.py $(call flag,--config-file,CONFIG) $(call flag,--weights,WEIGHTS) \
		$(call flag,--adapter,ADAPTER) $(call flag,--output,OUTPUT) $(value ARGS) $(OVERRIDES)

.PHONY: .convert-ok .train-ok .eval-ok .visualize-ok
.convert-ok: ; @: $(CONFIG_OK)$(WEIGHTS_OK)
.train-ok: ; @: $(CONFIG_OK)
.eval-ok: ; @: $(CONFIG_OK)$(WEIGHTS_OK)
.visualize-ok: ; @: $(if $(value ARGS),,$(CONFIG_OK))

pins: ## Bring every pin in requirements.txt up to date | make pins
	@$(NEW_VENV)
	{ $(UV) pip compile -q --upgrade --universal --python-version 3.11 --custom-compile-command 'make pins' pyproject.toml
	  sed -n '/^# detectron2/,$$p' requirements.txt; } > $(VENV)/requirements.new
	mv $(VENV)/requirements.new requirements.txt

clean: ## Remove .venv and caches, never datasets/ or output/ | make clean
	@rm -rf $(VENV) build projects/*.egg-info .pytest_cache .ruff_cache
	find configs datasets projects tests tools -name __pycache__ -prune -exec rm -rf {} +

# The first Python that is new enough and can make environments; shims that lead nowhere are passed over.
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

# --skip-build leaves detectron2's C++ operators out: nothing here calls them, and they take minutes and a compiler.
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
	    echo "error: cannot install detectron2 from '$(DETECTRON2)'; make setup DETECTRON2=$(PIN) goes back to the usual one" >&2
	    rm $(UNFINISHED)
	    exit 1
	}
	$(UV) pip install --no-deps --no-build-isolation -e .
	rm $(UNFINISHED)
	touch $@
