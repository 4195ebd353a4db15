# Every target does its own set-up. What they do is in scripts/; here is only what calls what.
.DEFAULT_GOAL := help
.NOTPARALLEL:
INVESTIGATE := investigate-moe investigate-tinyllama investigate-bitnet investigate-qwen2
.PHONY: help build report test test-report demo bench faults faults-hf $(INVESTIGATE) format lint tidy wheel dist docs shell-files clean distclean

PYTHON_IN_VENV := .venv/bin/python

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)$$/  \1|\2/p' Makefile | column -t -s '|'

build: ## set up what is missing, build, install: leaves .venv/bin/paritrace
	@scripts/setup.sh
	@scripts/build.sh package

report: ## the page that --html fills, report/dist/report.html; needs Node.js and npm
	@scripts/report.sh

test-report: report ## the page's tests: logic, and every view in chromium
	@scripts/report.sh test

# The last line is 'N passed, N failed' also where the build is what failed.
test: ## build, then all C++ and Python tests; the last line is 'N passed, N failed'
	@{ scripts/setup.sh test && scripts/build.sh all; } || { echo "0 passed, 1 failed"; exit 1; }
	@$(PYTHON_IN_VENV) scripts/run_tests.py

demo: build ## a wrongly and a rightly converted model, run by llama.cpp and Hugging Face, diagnosed
	@$(PYTHON_IN_VENV) scripts/demo.py

bench: ## the benchmarks, with the machine they ran on; writes bench/RESULTS.md
	@scripts/setup.sh bench
	@scripts/build.sh all
	@scripts/bench.sh

faults: build ## the fault bench: known mistakes in engines that are not ours, and clean runs; writes build/faults.json
	@$(PYTHON_IN_VENV) faults/bench.py --json build/faults.json

faults-hf: build ## the same for the torch oracle: every small architecture of transformers; writes build/faults-hf.json
	@$(PYTHON_IN_VENV) faults/hf_any.py --json build/faults-hf.json

investigate-moe: ## a mixture-of-experts encoder in C++ against Hugging Face: each mistake, then the questions; MODEL=FOLDER for other weights
investigate-tinyllama: ## a Llama from GGUF in Rust against llama.cpp; MODEL=FILE.gguf for other weights
investigate-bitnet: ## BitNet in C++, ternary weights and int8 activations; MODEL=FOLDER
investigate-qwen2: ## Qwen2 in JAX, bf16, with a KV cache; MODEL=FOLDER
$(INVESTIGATE): build
	@$(PYTHON_IN_VENV) investigations/run.py $(@:investigate-%=%) $(if $(MODEL),--model $(MODEL))

format: ## lay out C++ and Python files
	@scripts/setup.sh lint
	@scripts/lint.sh --fix

lint: ## check layout, Python, scripts and compiler flags; changes nothing
	@scripts/setup.sh lint
	@scripts/lint.sh

tidy: ## clang-tidy over the C++ files; slow
	@scripts/setup.sh lint
	@scripts/build.sh all
	@scripts/tidy.sh

wheel: build ## the Python package with the program and the page in it, dist/*.whl
	@scripts/build.sh wheel

dist: report ## the source archive of what is committed, dist/*.tar.gz; builds without a network
	@scripts/dist.sh

docs: ## the documentation site, build/site/index.html
	@scripts/setup.sh docs
	@scripts/docs.sh

shell-files: build ## man page, completions and docs/options.md, from the commands' own tables of options
	@$(PYTHON_IN_VENV) scripts/shell_files.py

clean: ## remove what was built; .venv stays
	rm -rf build dist demo-out report/dist report/test-results

distclean: clean ## remove .venv and report/node_modules too
	rm -rf .venv report/node_modules
