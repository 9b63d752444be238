# Everyday commands. `just` lists them; each is one line that can be typed without just as well.

export UV_FROZEN := "1"

# list the recipes
default:
    @just --list --unsorted

# install everything: prediction, training, the tools
setup:
    uv sync

# everything a change must pass
ci:
    .ci/run

# format the code and mend what ruff can mend
fmt:
    uv run ruff format .
    uv run ruff check --fix .

# style, and the boundaries between the packages
lint:
    uv run ruff check .
    uv run ruff format --check .
    uv run lint-imports

# static types
types:
    uv run mypy

# the tests; arguments go to pytest, such as `just test tests/laws`
test *ARGS:
    uv run pytest {{ARGS}}

# the demo, with what prediction needs and no torch
demo *ARGS:
    uv run --no-dev coronary demo {{ARGS}}

# our speed and memory, the reference's, and the ratio
bench *ARGS:
    uv run python benchmarks/coronary_predict.py {{ARGS}}

# write docs/reference/command-line.md from --help
docs:
    uv run python docs/generate.py
