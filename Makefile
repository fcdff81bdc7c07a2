# make demo    set up, then train and test configs/seg/upernet_van_b2.py on generated data
# make test    set up, then run the test suite
# make lint    set up, then check style, format and the direction of imports
#
# uv does the set-up, with the newest versions that pyproject.toml allows. It completes an unfinished .venv and installs
# nothing twice. Only van_mm's own CPU kernels are compiled; without a compiler PyTorch's operators run instead.

PYTHON ?= python3
UV := $(or $(shell command -v uv),.uv/bin/uv)
CONFIG := configs/seg/upernet_van_b2.py
WORK := work_dirs/demo/upernet_van_b2
export PYTHONUNBUFFERED := 1
export UV_PROJECT_ENVIRONMENT := .venv
# Without bytecode, as with PYTHONDONTWRITEBYTECODE in a container, every start would compile thousands of files.
export UV_COMPILE_BYTECODE := 1

.PHONY: demo test lint setup clean

demo: setup
	@echo "== training UperNet with VAN-B2 on the demo data: 4 to 8 minutes on two cores"
	.venv/bin/python tools/train.py $(CONFIG) --demo
	@echo "== testing the checkpoint, with pictures: about 1 minute"
	.venv/bin/python tools/test.py $(CONFIG) "$$(cat $(WORK)/last_checkpoint)" --demo \
	    --out $(WORK)/metrics.json --show-dir $(WORK)/pictures
	@.venv/bin/python -c 'import json; print("mIoU on the demo data: %.1f" % json.load(open("$(WORK)/metrics.json"))["mIoU"])'
	@echo "pictures (image, ground truth, prediction): $(WORK)/pictures"

test: setup
	.venv/bin/python -m pytest -n 2 --dist loadgroup

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

# .complete is written last: a .venv without it, or whose Python does not start, is rebuilt from uv's cache.
setup: $(UV)
	@if [ -e .venv ] && ! { [ -e .venv/.complete ] && .venv/bin/python -c ''; } 2>/dev/null; then \
	    echo "== .venv is unfinished or broken; rebuilding it"; rm -rf .venv; fi
	@if [ ! -e .venv ]; then echo "== installing PyTorch and the MMLab packages: 1 to 3 minutes the first time on a" \
	    "machine (3 GB), seconds after that"; fi
	@if [ -e .venv ]; then mv .venv/.complete .venv/.syncing; fi
	$(UV) sync
	@if [ ! -e .venv/.syncing ] || [ uv.lock -nt .venv/.syncing ]; then \
	    .venv/bin/python -m van_mm.ops || true; .venv/bin/python -m van_mm.utils.check_env; fi
	@rm -f .venv/.syncing && touch .venv/.complete

.uv/bin/uv:
	@echo "== installing uv into .uv: seconds"
	@rm -rf .uv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv 'uv>=0.9.8,<0.14'

clean:
	rm -rf .venv .uv uv.lock
