# opsd: on-policy self-distillation as a pipeline. `make demo` shows it, `make test` proves its parts.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.opsd-installed
STACK := $(BIN)/python -m infra.stack
# Test files side by side, each process with servers of its own.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
export OPSD_HOME := $(CURDIR)
# Without compiled packages every process start costs seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo study peers test test-slow test-gpu gpu-kit test-engines test-scale test-faults lint docs up down status login venv engine-vllm constraints clean

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: up ## one campaign with a real language model, from nothing to a promoted or refused version
	@$(BIN)/opsd run demo

study: up ## a study: arms times seeds, one report with intervals; RECIPE=tiny or smollm2
	@$(BIN)/opsd study $(or $(RECIPE),tiny)

test: lint ## every check that needs neither a GPU nor a container engine nor many minutes
	$(BIN)/python -m pytest -m "not slow and not gpu and not compose and not vllm" $(PARALLEL)

test-slow: venv ## the checks that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: venv ## the checks that need a CUDA device; their CPU twins are in make test
	$(BIN)/python -m pytest -m gpu

gpu-kit: venv ## a folder for a CUDA machine without a network: sh gpu-kit/run.sh there measures it
	$(BIN)/python -m benchmarks.gpu.kit gpu-kit

peers: venv ## opsd beside TRL, vLLM and transformers on this machine, QUICK=--quick in minutes
	$(BIN)/python -m benchmarks.peers $(QUICK)

test-engines: engine-vllm ## every rollout engine makes the same record; installs vLLM in an environment of its own
	$(BIN)/python -m pytest -m "vllm or not vllm" tests/core/rollout/engines tests/tasks/placement/test_rollout_engines.py tests/flows/engines
	$(BIN)/python -m pytest -m vllm tests/core/models/test_serving.py

test-scale: venv ## runners on PostgreSQL and four workers: killed, stopped, cancelled; what is made stays the same
	$(BIN)/python -m pytest -m "slow or not slow" tests/scale tests/tasks/placement -s

test-faults: venv ## kills, outages, a bad network, damaged and hostile data, restarts, random walks (OPSD_WALK_SEED, OPSD_WALK_EVENTS)
	$(BIN)/python -m pytest tests/faults tests/infra/test_reconcile.py tests/infra/test_restarts.py

lint: venv ## style and import contracts
	$(BIN)/ruff check .
	$(BIN)/lint-imports

docs: venv ## write the generated pages of docs/
	$(BIN)/python -m infra.generated_docs

up: venv ## start Prefect, MLflow, the object store and a worker; register the deployments
	@$(STACK) up --worker

down: venv ## stop all of them
	@$(STACK) down

status: venv ## what runs where
	@$(STACK) status

login: venv ## links that log a browser in to Prefect and MLflow; they hold the passwords
	@$(STACK) login

venv: $(STAMP) ## the virtual environment, renewed when pyproject.toml or constraints.txt change

$(STAMP): pyproject.toml constraints.txt infra/setup.sh
	@sh infra/setup.sh $(VENV)
	@touch $@

engine-vllm: venv ## vLLM for execution.engine=vllm, in an environment of its own (.venv-vllm, or OPSD_VLLM_ENV)
	@$(BIN)/python -m infra.engines

constraints: venv ## resolve constraints.txt again, keeping the versions that still fit
	$(BIN)/uv pip compile pyproject.toml --extra stack --extra dev --universal --no-annotate --quiet \
		--custom-compile-command "make constraints" --output-file constraints.txt

clean: down ## stop everything and delete the environment; data in .opsd stays
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .import_linter_cache
