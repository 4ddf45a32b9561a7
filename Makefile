# A fresh machine in two commands: `make quickstart` and `make test`. Each makes .venv
# with Python 3.11 or later (a certain one: make PYTHON=python3.12 …) and installs the
# packages there whenever the requirements have changed.

recent := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  $$python $(recent) 2>/dev/null && echo $$python && break; done)
python := .venv/bin/python
install := $(python) -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt

# A file's tests share what they train, so they stay in one worker; files go in the order
# of tests/conftest.py.
two_workers := -n 2 --dist=loadfile --no-loadscope-reorder

.PHONY: quickstart solar test test-slow lint torch clean
.NOTPARALLEL:

quickstart: .venv/requirements.stamp  ## data, training, evaluation and report, on a CPU
	$(python) train.py --config=configs/quickstart.py --workdir=runs/quickstart

solar: .venv/solar.stamp  ## real pictures: solar cells, which pip brings
	$(python) train.py --config=configs/solar.py --workdir=runs/solar

test: .venv/requirements-dev.stamp  ## every test but the slow ones
	$(python) -m pytest $(two_workers) -m "not slow"

test-slow: .venv/requirements-dev.stamp
	$(python) -m pytest $(two_workers) -m slow

lint: .venv/requirements-dev.stamp
	$(python) -m ruff format --check
	$(python) -m ruff check

torch: .venv/torch.stamp  ## PyTorch, without which its tests are skipped

clean:  ## leaves runs/, which holds results
	rm -rf .venv .pytest_cache .ruff_cache build dist ast_jax.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/%.stamp: %.txt requirements.txt constraints.txt | .venv/bin/pip
	@$(python) $(recent) || { \
	  echo ".venv holds a Python older than 3.11: remove it with 'make clean'" >&2; exit 1; }
	@echo "Installing $< into .venv (about 1.3 GB, a few minutes)"
	@$(install) -r $<
	@touch $@

.venv/solar.stamp: .venv/requirements.stamp constraints.txt
	@echo "Installing 2,624 pictures of solar cells into .venv (91 MB; CC BY-NC-SA 4.0:" \
	  "not for commercial use)"
	@$(install) "elpv-dataset>=1.0.0.post1,<2"
	@touch $@

# For the tests of what reads or equals PyTorch. On Linux the package index's build is for
# CUDA (3 GB); PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes a CPU's.
.venv/torch.stamp: constraints.txt .venv/requirements-dev.stamp
	@echo "Installing PyTorch into .venv"
	@$(install) torch
	@touch $@

.venv/bin/pip:
	@"$(PYTHON)" $(recent) 2>/dev/null || { \
	  echo "AST-JAX needs Python 3.11 or later, which '$(or $(PYTHON),python3)' is not:" \
	    "install it, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: on Debian and Ubuntu" \
	    "run 'apt install python3-venv', or name another: make PYTHON=…" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
