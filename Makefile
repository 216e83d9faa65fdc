# `make demo` shows the whole loop, `make test` proves it; both make .venv and fetch the small model first.

PYTHON_IN_VENV := .venv/bin/python
SRTUI := SRTUI_WORKSPACE="$(CURDIR)" $(PYTHON_IN_VENV) -m srtui
MODEL := smollm2-135m
# Processes that share the tests; each takes up to 4 GB.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv from the pinned versions
	@tools/setup.sh

setup-dev:  ## the same, with what the tests need
	@tools/setup.sh --dev

model: setup
	@$(SRTUI) models add $(MODEL)

tune: model
	@$(SRTUI) models tune $(MODEL) --once --slots 1,4,8,16,32

bundle: setup  ## all that installs srtui on a machine without a network, in OUT (ARGS: more options)
	@$(SRTUI) bundle --out "$(or $(OUT),srtui-bundle)" $(ARGS)

bundle-test: setup-dev model  ## a whole bundle: fetched, installed and built where there is no network, and run
	$(PYTHON_IN_VENV) -m pytest -q -m slow tests/bundle

demo: tune  ## reflect, score, select, train and evaluate with a small real model
	@$(SRTUI) run recipes/quickstart.toml
	@printf '%s\n' "" \
	  "This shows that every step works on this machine, and what each costs here." \
	  "It cannot show what the method is worth: a teacher of 135 M parameters mostly talks about the task," \
	  "and 56 samples are too few to tell a gain from chance. srtui show 1 has its words, srtui the dashboard." \
	  "" \
	  "With a GPU, next (put your own models into models/ first: srtui models add PATH):" \
	  "  srtui models fit recipes/workstation-24gb.toml" \
	  "  srtui pilot recipes/workstation-24gb.toml"

test: setup-dev  ## everything that must pass: linters, types, layers, tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target model lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTHON_IN_VENV) -m pytest -n $(WORKERS) --dist worksteal

check: setup-dev lint  ## before each commit, in a minute: linters, types, and the tests that need no model and no screen
	OMP_NUM_THREADS=1 $(PYTHON_IN_VENV) -m pytest -q -n $(WORKERS) -m "pure and not slow"

attack: setup-dev  ## try to make it crash, lie, hang or overwrite: every attack and what came of it
	@$(SRTUI) models add $(MODEL)
	@$(PYTHON_IN_VENV) -m tests.attack

lint: setup-dev  ## ruff, mypy and the import contract
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m mypy
	.venv/bin/lint-imports

check-method: setup-dev model  ## what can be counted of the method: architectures, ends, borders, released losses, AlpacaEval
	$(PYTHON_IN_VENV) benchmarks/check_method.py

evidence: setup model  ## what choosing is worth: real answers replayed as rewrites, days of one core (ARGS=--quick: some hours)
	$(PYTHON_IN_VENV) -m benchmarks.evidence $(ARGS)

offload-test: setup-dev model  ## the teacher's tests with its layers on a GPU, or on Mesa's lavapipe: SRTUI_LLAMA=vulkan make offload-test
	GGML_VK_VISIBLE_DEVICES=$${GGML_VK_VISIBLE_DEVICES:-0} $(PYTHON_IN_VENV) -m pytest -q -rs tests/llama tests/models/test_memory_plans.py

bench-import: setup  ## rows a second and memory of importing a million rows
	$(PYTHON_IN_VENV) benchmarks/bench_import.py
	$(PYTHON_IN_VENV) benchmarks/bench_import.py --rows 100000 --kind each

bench-teacher: setup  ## the teacher beside its alternatives, as ratios
	$(PYTHON_IN_VENV) benchmarks/bench_teacher.py

bench-scoring: setup  ## IFD and r-IFD beside the plain way and the ceiling, as ratios
	$(PYTHON_IN_VENV) benchmarks/bench_scoring.py

bench-train: setup  ## training beside plain TRL: tokens/s, peak memory, overhead
	$(PYTHON_IN_VENV) benchmarks/bench_train.py

bench-drafting: setup model  ## how many guessed tokens hold on real reflections, and what they give at 1, 4 and 16 slots
	$(PYTHON_IN_VENV) benchmarks/bench_drafting.py

gpu:  ## test and measure srtui on this machine's GPU, in parts that are resumed (ARGS: --device cpu without one)
	@test -x $(PYTHON_IN_VENV) || { echo "There is no .venv yet: make setup-dev" >&2; exit 1; }
	$(PYTHON_IN_VENV) -m benchmarks.gpu $(ARGS)

bench: bench-import bench-teacher bench-scoring bench-train bench-tui bench-million  ## all of them, one after the other

bench-scale: setup model  ## the whole loop over 10,000, 100,000 and 1,000,000 samples, with models that answer at once
	$(PYTHON_IN_VENV) benchmarks/bench_scale.py

bench-cluster: setup-dev model  ## many workers through Ray: what is left of their rate, the engine's own ceiling, real models
	$(PYTHON_IN_VENV) benchmarks/bench_cluster.py --real 3

check-workers: setup-dev model  ## a real run on two workers, both kinds killed on the way, beside one process; DATA is a file of Alpaca's layout
	$(PYTHON_IN_VENV) benchmarks/check_workers.py $(DATA)

bench-million: setup  ## status, scores and export of a million finished samples; a backup under a writing engine
	$(PYTHON_IN_VENV) benchmarks/bench_million.py

bench-tui: setup  ## the dashboard on 100,000 samples while an engine writes at full speed
	$(PYTHON_IN_VENV) benchmarks/bench_tui.py

screenshots: setup-dev  ## the pictures of the dashboard in docs/
	$(PYTHON_IN_VENV) tools/screenshots.py

lock:  ## constraints.txt anew, with the sums of every package's files (needs uv and a network)
	@tools/lock.sh

clean:  ## remove .venv and caches (models/ and store/ stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find srtui tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
