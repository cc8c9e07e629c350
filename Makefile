# make setup   install into .venv          make demo    watch a model become a chatbot
# make test    run the whole test suite    make quick   its quick part, while you work
# make chaos   the long forms of kill matrix and fuzzing
# make check   lint, format, types, import direction, docs up to date
PYTHON ?= python3
BIN := .venv/bin
PIP = $(BIN)/python -m pip install --quiet
DEMO := runs/demo

.PHONY: setup demo test quick record-support chaos check format clean-demo

setup: .venv/installed

# The locked versions, see docs/dependencies.md. Torch by itself: where a CPU build is at hand it is taken, and nothing
# else pulls another one in. Where a locked version has no wheel for this platform, the last line takes what fits.
.venv/installed: pyproject.toml $(wildcard locked/*.txt)
	$(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes -r locked/installer.txt
	$(PIP) --no-deps --require-hashes --no-build-isolation -r locked/hashed.txt
	$(PIP) --no-warn-conflicts "$$(sed -n 's/^ *"\(torch==[^"]*\)",/\1/p' pyproject.toml)"
	$(PIP) --no-deps -r locked/pinned.txt || echo 'note: not every locked version is to be had here; pip chooses'
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

# A finished demo is shown again; `make clean-demo demo` trains it anew.
demo: setup
	$(BIN)/neuralchat fetch smollm2-135m-instruct
	@if [ -f $(DEMO)/neuralchat.json ]; then \
	  echo "$(DEMO) is there already ('make clean-demo demo' trains it anew)"; \
	  $(BIN)/neuralchat show $(DEMO); \
	else \
	  $(BIN)/neuralchat finetune examples/demo/finetune.yaml output_dir=$(DEMO) overwrite_output_dir=true; \
	fi
	$(BIN)/neuralchat eval $(DEMO) --questions examples/demo/heldout.json --max_new_tokens 48

clean-demo:
	rm -rf $(DEMO)

test: setup
	$(BIN)/neuralchat fetch smollm2-135m-instruct
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 10

# The unit tests, and of the others those marked quick.
quick: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m quick

# What docs/support.md says, shown anew.
record-support: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/contract/test_methods.py \
	  tests/distributed/test_ranks.py --record-support docs/support.json
	$(BIN)/python scripts/generate_support_matrix.py

# Hours of a bad day in about half an hour of work; its reports are kept in benchmarks/results.
chaos: setup
	$(BIN)/neuralchat fetch smollm2-135m-instruct
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/support/kill_matrix.py --points 40 \
	  --report benchmarks/results/kill-matrix-$$(date +%Y-%m-%d-%H%M).json
	NEURALCHAT_LONG=1 NEURALCHAT_RANK_KILLS=10 NEURALCHAT_FUZZ_FILES=10000 NEURALCHAT_FUZZ_CHECKPOINTS=1000 \
	  HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -rA --durations 10 tests/chaos/test_lost_ranks.py \
	  tests/distributed/test_ranks.py tests/fuzz

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_cli_reference.py --check
	$(BIN)/python scripts/generate_support_matrix.py --check
	$(BIN)/python -m pip check
	$(BIN)/python scripts/audit_dependencies.py
	$(BIN)/python scripts/list_licences.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
