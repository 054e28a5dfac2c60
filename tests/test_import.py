"""What an import loads: every user of a JupyterHub pays for the extension, every notebook cell for the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jupyter_swarm


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_loads_neither_torch_nor_a_server() -> None:
    heavy = {"torch", "numpy", "jupyter_server", "jupyterlab", "tornado", "IPython", "matplotlib", "xarray"}
    assert not loaded_by("import jupyter_swarm") & heavy


def test_the_server_extension_loads_without_torch() -> None:
    statement = "import jupyter_swarm; print(jupyter_swarm._jupyter_server_extension_points())"
    assert not loaded_by(statement) & {"torch", "jupyterlab", "matplotlib", "xarray", "ipywidgets"}


def test_the_kernel_side_loads_no_server() -> None:
    assert not loaded_by("import jupyter_swarm; jupyter_swarm.Session") & {"jupyter_server", "jupyterlab"}


@pytest.mark.parametrize("name", sorted(jupyter_swarm._EXPORTS))
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(jupyter_swarm)
    assert getattr(jupyter_swarm, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'hosts'"):
        jupyter_swarm.hosts  # noqa: B018
