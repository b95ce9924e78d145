# `make demo` and `make test` are all a fresh machine needs: Python 3.11 to 3.13, and a package index.

PYTHON ?= python3
VENV ?= .venv
PARITY_VENV ?= .venv-parity
BIN = $(VENV)/bin
KILLS = 100
# Half as many again as cores: many tests wait for servers and processes.
TESTERS = $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores + (cores + 1) / 2)))
COPIES = 3
JOBS = $(BIN)/python jobs
CORPUS = --input demo/corpus
SUMMARIZE = $(JOBS)/summarize_corpus.py $(CORPUS) --model demo/checkpoints/led-reports-summary \
	--passthrough kind reference_summary facts
CLASSIFY = $(JOBS)/classify_corpus.py $(CORPUS) --model demo/checkpoints/led-reports-label --passthrough reference_label
ANSWER = $(JOBS)/answer_corpus.py $(CORPUS) --model demo/checkpoints/led-reports-answer --question-column questions \
	--passthrough questions

.PHONY: demo quality test test-parity storm cluster lint check docs clean

# Summaries, labels and answers of the sample corpus, from Parquet to Parquet; and how good labels and answers are, of whole
# reports and of their first 512 tokens.
demo: $(VENV)/.installed
	@rm -rf out/demo out/demo-labels out/demo-answers out/demo-labels-512 out/demo-answers-512
	$(SUMMARIZE) --output out/demo
	@$(BIN)/python -m demo.show --output out/demo
	$(CLASSIFY) --output out/demo-labels
	$(ANSWER) --output out/demo-answers
	$(CLASSIFY) --output out/demo-labels-512 --max-input-tokens 512
	$(ANSWER) --output out/demo-answers-512 --max-input-tokens 512
	@echo; echo "labels and answers of whole reports:"
	@$(JOBS)/evaluate_labels.py --output out/demo-labels --reference-column reference_label
	@$(JOBS)/evaluate_answers.py --output out/demo-answers --reference-column questions
	@echo; echo "labels and answers of their first 512 tokens:"
	@$(JOBS)/evaluate_labels.py --output out/demo-labels-512 --reference-column reference_label
	@$(JOBS)/evaluate_answers.py --output out/demo-answers-512 --reference-column questions

# How good the demo's summaries are, and how much worse when only the first 512 tokens of each report are read.
quality: demo
	@rm -rf out/demo-512
	$(SUMMARIZE) --output out/demo-512 --max-input-tokens 512
	@echo "whole reports:"
	@$(JOBS)/evaluate_summaries.py --output out/demo --facts-column facts
	@echo "first 512 tokens:"
	@$(JOBS)/evaluate_summaries.py --output out/demo-512 --facts-column facts

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTERS) --maxprocesses 6 --dist loadfile --no-loadscope-reorder

# kill -9 at random on a cluster of three raylets, until KILLS processes died; minutes, so not among the tests.
storm: $(VENV)/.installed-test
	$(BIN)/python -m tests.kill_storm --kills $(KILLS)

# The three jobs by `ray job submit` on a cluster of four raylets, while three are lost and others added; minutes.
cluster: $(VENV)/.installed-test
	$(BIN)/python -m tests.cluster_trial --copies $(COPIES)

# What only transformers 4 has (classification, the slow tokenizer, the pipelines), in an environment of its own.
test-parity: $(PARITY_VENV)/.installed
	@$(PARITY_VENV)/bin/python -c 'import transformers as t; assert t.__version__.startswith("4.57"), t.__version__'
	$(PARITY_VENV)/bin/python -m pytest tests/led/v4

# The API reference, from the docstrings: site/led.html.
docs: $(VENV)/.installed-test
	$(BIN)/pdoc --docformat google --output-directory site led

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed; set PYTHON="'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

$(PARITY_VENV)/.installed: requirements-parity.txt
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY_VENV) out site
