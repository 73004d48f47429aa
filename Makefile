# The whole developer surface. Every target installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export TOKENIZERS_PARALLELISM := false
test test-slow mutants: export HF_HUB_OFFLINE := 1

# Long measurements keep what they have done beside the checkout, and go on from there.
OUT ?= ../trimtab-measured

.PHONY: install demo demo-real test test-slow bench-demo bench-feedback lab learning bench-trl bench-training bench-ppo bench-curves bench-gpu mutants check format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install  ## PPO and DPO on a small model that comes along: about five minutes
	$(BIN)/trimtab demo

demo-real: install  ## the whole path on SmolLM2-135M-Instruct and real preferences: about 20 minutes
	$(BIN)/trimtab models get smollm2-135m-instruct
	$(BIN)/trimtab run configs/demo-real.yaml

test: install  ## at most 8 minutes on two cores
	$(BIN)/pytest -q -m "not slow and not gpu"

test-slow: install  ## at most 40 minutes: the real SmolLM2 path
	$(BIN)/pytest -q -m "slow and not gpu"

bench-demo: install  ## the demo with three seeds, beside what it promises: about 15 quiet minutes, resumable
	$(BIN)/python benchmarks/demo_seeds.py --out $(OUT)/demo

bench-feedback: install  ## the feedback server under load and killed, on SQLite and PostgreSQL: about 20 quiet minutes, resumable
	$(BIN)/python benchmarks/feedback_load.py --out $(OUT)/feedback
	$(BIN)/python benchmarks/feedback_kills.py --out $(OUT)/feedback

lab: install  ## the trainers in worlds with a known optimum: about 90 minutes, resumable
	$(BIN)/python benchmarks/lab.py --out $(OUT)/lab
	$(BIN)/python benchmarks/lab.py --out $(OUT)/lab --pictures docs/results/lab

learning: install  ## PPO on SmolLM2 with a gold scorer, adaptive KL, over-optimisation: quiet hours, resumable
	$(BIN)/trimtab models get smollm2-135m-instruct
	$(BIN)/python benchmarks/learning/learning.py --out $(OUT)/learning
	$(BIN)/python benchmarks/learning/learning.py --out $(OUT)/learning --pictures docs/results/learning

bench-trl: install  ## step by step beside TRL, installed into environments of its own: about 90 minutes, resumable
	$(BIN)/python benchmarks/trl/compare.py --out $(OUT)/trl

bench-training: install  ## speed and memory of training beside TRL's: many quiet hours, resumable
	$(BIN)/trimtab models get smollm2-135m-instruct
	$(BIN)/python benchmarks/training/bench.py --out $(OUT)/training

bench-ppo: install  ## PPO and its sampler beside TRL's and generate: some quiet hours, resumable
	$(BIN)/trimtab models get smollm2-135m-instruct
	$(BIN)/python benchmarks/ppo/bench.py --out $(OUT)/ppo

bench-curves: install  ## a DPO step as lengths, batch and vocabulary grow eightfold: about an hour, resumable
	$(BIN)/python benchmarks/training/curves.py --out $(OUT)/curves
	$(BIN)/python benchmarks/training/curves.py --out $(OUT)/curves --pictures docs/results/training

bench-gpu: install  ## what the benchmarks have for a GPU: at most 8 minutes; nothing where there is none
	$(BIN)/python benchmarks/gpu.py --out $(OUT)/gpu

mutants: export OMP_NUM_THREADS := 1
mutants: install  ## how many small errors in the losses the tests notice: about an hour, resumable
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	$(BIN)/python benchmarks/mutants.py

check: install  ## format, lint, types, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist mutants .pytest_cache .mypy_cache .ruff_cache
