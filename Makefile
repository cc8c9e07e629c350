# make demo    watch a model become a chatbot     make setup   install into .venv (the others do it first)
# make test    the whole test suite               make quick   what a developer runs all the time
# make check   lint, types, import direction, docs make chaos   the long forms of kill matrix and fuzzing
# make peers   benchmark beside other tools       make lock, audit, licences   see docs/dependencies.md
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
# Permissive, or copyleft that ends at the package's own files, none of which are changed here.
LICENCES := Apache;BSD;MIT;ISC;MPL-2.0;Mozilla Public License 2.0;PSF;Python Software Foundation;MPICH

.PHONY: setup demo test quick record-support chaos check format clean-demo clean-setup lock audit licences peers

setup: .venv/installed

.venv/installed: pyproject.toml $(wildcard locked/*.txt) scripts/setup_environment.py
	$(PYTHON) scripts/setup_environment.py
	touch $@

clean-setup:
	rm -rf .venv

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
	$(BIN)/deptry src
	$(BIN)/pip-licenses --partial-match --allow-only="$(LICENCES)" --ignore-packages neuralchat --summary

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The newest versions within the ranges of pyproject.toml, with the hashes of their files; torch: locked/torch.txt.
lock: setup
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --all-extras --group dev --no-emit-package torch \
	  --custom-compile-command 'make lock' --output-file locked/requirements.txt pyproject.toml
	printf 'pip\nsetuptools\n' | $(BIN)/uv pip compile --quiet --generate-hashes --constraint locked/requirements.txt \
	  --no-strip-extras --custom-compile-command 'make lock' --output-file locked/installer.txt -
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-package torch --group peers \
	  --custom-compile-command 'make lock' --output-file locked/peers.txt

# Asks a service on the network for known vulnerabilities.
audit: setup
	$(BIN)/pip-audit --disable-pip --require-hashes --requirement locked/requirements.txt

licences: setup
	$(BIN)/pip-licenses --format=markdown --order=license --ignore-packages neuralchat --with-urls \
	  --output-file=docs/licences.md

# Other tools, in an environment of their own; results in benchmarks/results.
peers: setup
	$(PYTHON) scripts/setup_environment.py .venv-peers locked/peers.txt
	$(BIN)/neuralchat fetch smollm2-135m-instruct
	$(BIN)/python benchmarks/throughput.py smollm2-135m-instruct examples/demo/train.json \
	  --peer_python .venv-peers/bin/python
