# make demo    watch a model become a chatbot     make setup   install into .venv (the others do it first)
# make test    the whole test suite               make quick   what a developer runs all the time
# make check   lint, types, import direction, docs make chaos   the long forms of kill matrix and fuzzing
# make peers   benchmark beside other tools       make lock, audit, licences   see docs/dependencies.md
# make harness eval with lm-evaluation-harness     make clients the server's real clients
BIN := .venv/bin
# The first Python that is new enough; where there is none, scripts/setup_environment.py says so.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=python3; \
  done; echo "$$python")
DEMO := runs/demo
# Names of the locked packages: what else is in .venv, such as CUDA packages, is not looked at.
LOCKED = torch $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' locked/requirements.txt)

.PHONY: setup demo test quick clients record-support chaos check format clean-demo clean-setup lock audit licences peers harness

setup: .venv/installed

.venv/installed: pyproject.toml $(wildcard locked/*.txt) scripts/setup_environment.py
	"$(PYTHON)" scripts/setup_environment.py
	@touch $@

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
	$(BIN)/neuralchat eval $(DEMO) --questions examples/demo/heldout.json --general 60 --max_new_tokens 48

clean-demo:
	rm -rf $(DEMO)

test: setup
	$(BIN)/neuralchat fetch smollm2-135m-instruct
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 10

# The unit tests, and of the others those marked quick.
quick: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m quick

# The server as its real clients ask it: openai, LangChain, curl, and what Open WebUI sends.
clients: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 tests/server/test_clients.py tests/server/test_responses.py \
	  tests/server/test_tools.py tests/server/test_joined_messages.py

# What docs/support.md says, shown anew.
record-support: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/contract/test_methods.py \
	  tests/contract/test_families.py tests/distributed/test_ranks.py --record-support docs/support.json
	$(BIN)/python scripts/generate_support_matrix.py

# Hours of a bad day in about half an hour of work; its reports are kept in benchmarks/results.
chaos: setup
	$(BIN)/neuralchat fetch smollm2-135m-instruct
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/support/kill_matrix.py --points 40 \
	  --report benchmarks/results/kill-matrix-$$(date +%Y-%m-%d-%H%M).json
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/support/bad_days/fault_matrix.py --faults 50 \
	  --report benchmarks/results/fault-matrix-$$(date +%Y-%m-%d-%H%M).json
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
	$(BIN)/python scripts/generate_template_table.py --check
	$(BIN)/python -m pip check
	@$(BIN)/python -m pip install --quiet --dry-run --no-index --no-deps -r locked/requirements.txt || \
	  { echo 'what is installed is not what is locked; make setup installs it'; exit 1; }
	$(BIN)/deptry --no-ansi src
	$(BIN)/deptry --no-ansi tests scripts benchmarks --ignore DEP002,DEP004
	$(BIN)/pip-licenses --with-system --packages $(LOCKED) --summary

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is locked stays where it fits pyproject.toml; `make lock UPGRADE=--upgrade` takes the newest. For every platform and
# Python of pyproject.toml. torch is locked by hand, in locked/torch.txt.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-package torch \
  --constraint locked/torch.txt --custom-compile-command 'make lock' $(UPGRADE)

lock: setup
	$(COMPILE) pyproject.toml --extra tensorboard --extra rouge --extra llamacpp --group dev \
	  --output-file locked/requirements.txt
	printf 'pip\nsetuptools\n' | $(COMPILE) - --constraint locked/requirements.txt --output-file locked/installer.txt
	$(COMPILE) --group peers --constraint locked/requirements.txt --output-file locked/peers.txt
	# The same versions where the harness takes them; of some it wants older ones.
	cp locked/requirements.txt locked/harness.txt
	$(COMPILE) pyproject.toml --extra harness --extra rouge --group dev --output-file locked/harness.txt

# Asks a service on the network for known vulnerabilities. --strict: a package that the service does not know is an error.
audit: setup
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r locked/requirements.txt -r locked/torch.txt

licences: setup
	$(BIN)/pip-licenses --format=markdown --order=license --with-system --with-urls --packages $(LOCKED) \
	  --output-file=docs/licences.md

# Other tools, in an environment of their own; results in benchmarks/results.
peers: setup
	"$(PYTHON)" scripts/setup_environment.py .venv-peers locked/peers.txt
	$(BIN)/neuralchat fetch smollm2-135m-instruct
	$(BIN)/python benchmarks/throughput.py smollm2-135m-instruct examples/demo/train.json \
	  --peer_python .venv-peers/bin/python

# eval --harness_tasks with lm-evaluation-harness itself, in an environment of its own.
harness: setup
	"$(PYTHON)" scripts/setup_environment.py .venv-harness locked/harness.txt
	PYTHONPATH=src HF_HUB_OFFLINE=1 .venv-harness/bin/python -m pytest -n 0 tests/unit/evaluation/test_harness.py
