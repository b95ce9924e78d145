# `make demo` and `make test` need a machine with Python 3.11 to 3.13 and a package index, nothing else.

PYTHON ?= python3
VENV ?= .venv
PARITY_VENV ?= .venv-parity
BIN = $(VENV)/bin
KILLS = 100
# Test processes: 1.5 per core, because many tests wait for servers and processes.
TESTERS = $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores + (cores + 1) / 2)))
DOCUMENTS = 720
TASKS = summarize classify answer
VERSIONS = newest
LED = $(BIN)/led-corpus
CORPUS = --input demo/corpus
SUMMARIZE = $(LED) summarize $(CORPUS) --model demo/checkpoints/led-reports-summary \
	--passthrough kind reference_summary facts
CLASSIFY = $(LED) classify $(CORPUS) --model demo/checkpoints/led-reports-label --passthrough reference_label
ANSWER = $(LED) answer $(CORPUS) --model demo/checkpoints/led-reports-answer --question-column questions \
	--passthrough questions

YEARS = $(LED) summarize --input out/years-input --model demo/checkpoints/led-reports-year --shard-documents 10 \
	--passthrough reference_summary facts
BUNDLES = $(LED) summarize --input demo/bundles --model demo/checkpoints/led-reports-bundle
.PHONY: demo quality bundles test test-long test-isa test-parity storm cluster wheel lint check coverage docs clean

# Summarize, label and query the sample corpus, then score labels and answers for whole reports and for their first 512 tokens.
demo: $(VENV)/.installed
	@rm -rf out/demo out/demo-labels out/demo-answers out/demo-labels-512 out/demo-answers-512
	$(SUMMARIZE) --output out/demo
	@$(BIN)/python -m demo.show --output out/demo
	$(CLASSIFY) --output out/demo-labels
	$(ANSWER) --output out/demo-answers
	$(CLASSIFY) --output out/demo-labels-512 --max-input-tokens 512
	$(ANSWER) --output out/demo-answers-512 --max-input-tokens 512
	@echo; echo "labels and answers of whole reports:"
	@$(LED) evaluate labels --output out/demo-labels --reference-column reference_label
	@$(LED) evaluate answers --output out/demo-answers --reference-column questions
	@echo; echo "labels and answers of their first 512 tokens:"
	@$(LED) evaluate labels --output out/demo-labels-512 --reference-column reference_label
	@$(LED) evaluate answers --output out/demo-answers-512 --reference-column questions

# Score the demo's summaries, for whole reports and for their first 512 tokens. Then score those of 60 files of 16,000 to
# 200,000 tokens: truncated, in chunks of 4,096 and 8,192 tokens that are joined, and fused.
quality: demo
	@rm -rf out/demo-512 out/years-input out/years-truncate out/years-4096 out/years-concat out/years-fuse
	$(SUMMARIZE) --output out/demo-512 --max-input-tokens 512
	@echo "whole reports:"
	@$(LED) evaluate summaries --output out/demo --facts-column facts
	@echo "first 512 tokens:"
	@$(LED) evaluate summaries --output out/demo-512 --facts-column facts
	$(BIN)/python -m demo.make_years --out out/years-input
	$(YEARS) --output out/years-truncate
	$(YEARS) --output out/years-4096 --overflow concat --chunk-tokens 4096 --chunk-ends token
	$(YEARS) --output out/years-concat --overflow concat
	$(YEARS) --output out/years-fuse --overflow fuse
	@for way in truncate 4096 concat fuse; do \
		echo "years, $$way:"; $(LED) evaluate summaries --output out/years-$$way --facts-column facts; done

# Summarize bundles of reports with global separators, with a global <s> alone, and report by report.
bundles: $(VENV)/.installed
	@rm -rf out/bundles out/bundles-first out/bundles-single
	$(BUNDLES) --output out/bundles --group-by bundle --passthrough facts outdated \
		--global-attention first separator
	$(BUNDLES) --output out/bundles-first --group-by bundle --passthrough facts outdated
	$(LED) summarize --input demo/bundles --model demo/checkpoints/led-reports-summary --output out/bundles-single \
		--passthrough facts outdated bundle
	@$(BIN)/python -m demo.compare_bundles --names "global separators" "global <s> alone" "one by one" \
		--outputs out/bundles out/bundles-first out/bundles-single

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTERS) --maxprocesses 6 --dist loadfile --no-loadscope-reorder $(PYTEST)

# Also the tests that `make test` skips because they take long.
test-long: export LONG_TESTS = 1
test-long: test

# The short tests of led under each instruction set that this processor can imitate. Takes minutes.
test-isa: $(VENV)/.installed-test
	$(BIN)/python -m tests.isa_matrix

# Kill random processes of a cluster of three raylets with SIGKILL, KILLS times. Takes minutes.
storm: $(VENV)/.installed-test
	$(BIN)/python -m tests.kill_storm --kills $(KILLS)

# Submit the three jobs to a cluster of four raylets, kill three of them, and add two. Takes minutes.
cluster: $(VENV)/.installed-test
	$(BIN)/python -m tests.cluster_trial --documents $(DOCUMENTS) --tasks $(TASKS)

# Build the wheel, install it in a new environment with the VERSIONS (lowest or newest) that pyproject.toml allows, and run it.
wheel: $(VENV)/.installed-test
	$(BIN)/python -m tools.check_wheel --versions $(VERSIONS)

# Compare with transformers 4 what transformers 5 lacks (classification, slow tokenizer, pipelines), in a separate environment.
test-parity: $(PARITY_VENV)/.installed
	@$(PARITY_VENV)/bin/python -c 'import transformers as t; assert t.__version__.startswith("4.57"), t.__version__'
	$(PARITY_VENV)/bin/python -m pytest tests/led/v4

# The documentation site, in site/.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.prose --check --each

check: lint coverage

# The tests with a coverage report. Code that runs in Ray workers is not counted.
coverage: PYTEST = --cov --cov-report=term:skip-covered
coverage: test

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed; set PYTHON="'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): about 1.7 GB, 2 to 10 minutes"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

$(PARITY_VENV)/.installed: requirements-parity.txt
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY_VENV) out site
