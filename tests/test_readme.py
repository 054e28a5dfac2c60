"""What the README tells people to type works, typed into real kernels of a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_swarm.cli.demo.kernels import Kernel
from jupyter_swarm.cli.demo.server import Server
from jupyter_swarm.peer.recipe import load_recipe, read_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"http\S+/swarm/join/\S+#\S+")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_the_shell_commands_are_targets_of_the_makefile():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert commands == ["make demo", "make test"]
    for command in commands:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`jupyter swarm (\w+)", README))))
def test_the_commands_exist(command):
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_swarm.cli", command, "--help"], capture_output=True, text=True, check=True
    )
    assert f"jupyter swarm {command}" in done.stdout


def test_files_that_the_readme_points_to_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_host_and_join_with_two_lines_each(server):
    hosting, joining, _ = blocks("python")
    host, student = Kernel(server, "host"), Kernel(server, "student")
    try:
        host.run(hosting)
        link = LINK.search(host.run("print(session.invite().link)"))
        assert link
        student.run(LINK.sub(f"{link[0]} --agree {load_recipe('digits').sha256}", joining))
        assert " in cs101" in student.run("%swarm status")
        student.run("%swarm leave")
        host.run("from jupyter_swarm.peer.api import current; current().stop(); current().wait(60)")
        assert "finished" in host.run("%swarm status")
    finally:
        host.close()
        student.close()


def test_the_api_with_a_recipe_in_a_file(server):
    (server.folder / "my_recipe.py").write_text(read_recipe("digits")[0])
    code = blocks("python")[2].replace("rounds=300", "rounds=4").replace("rounds=50", "rounds=2")
    kernel = Kernel(server, "owner")
    try:
        kernel.run(f"import os; os.chdir({str(server.folder)!r})")
        assert LINK.search(kernel.run(code))
        assert kernel.evaluate("session.history().loss.dropna('round')['round'].values.tolist()") == [1, 2, 3, 4]
    finally:
        kernel.close()
