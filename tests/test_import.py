"""What an import loads: every user of a JupyterHub pays for the extension, every notebook cell for the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jupyter_swarm


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
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


def test_an_inner_step_loads_no_compiler() -> None:
    """It would be half of the seconds in which a restarted kernel is back."""
    code = """
import sys, torch
from jupyter_swarm import AdamW
from jupyter_swarm.optim.torch_optimizer import RuleOptimizer
parameter = torch.nn.Parameter(torch.ones(3))
optimizer = RuleOptimizer([parameter], AdamW(lr=0.1))
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.2})
parameter.square().sum().backward()
optimizer.step()
print(float(parameter[0]) < 1, len(optimizer.param_groups), "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "2", "False"]


@pytest.mark.parametrize("name", sorted(jupyter_swarm._EXPORTS))
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(jupyter_swarm)
    assert getattr(jupyter_swarm, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'hosts'"):
        jupyter_swarm.hosts  # noqa: B018
