"""What the README tells people to type works, typed into real kernels of a real server. Whether the other pages and its
links are right: tests/tutorials/test_pages.py."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jupyter_swarm
from jupyter_swarm.cli.demo.kernels import Kernel
from jupyter_swarm.cli.demo.server import Server
from jupyter_swarm.peer.recipe import load_recipe, read_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"http\S+/swarm/join/\S+#\S+")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def magics() -> list[str]:
    """What the table of magics says can be typed."""
    rows = re.findall(r"^\| (`%.*?`) \|", README, flags=re.MULTILINE)
    return [text if text[0] == "%" else f"%swarm {text}" for row in rows for text in re.findall(r"`(.*?)`", row)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_the_shell_commands_are_targets_of_the_makefile():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert commands == ["make demo", "make test"]
    for command in commands:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`", README))))
def test_the_makefile_has_the_other_targets_too(target):
    subprocess.run(["make", target, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`(?:\.venv/bin/)?python -m ([\w.]+)", README))))
def test_the_modules_can_be_run(module):
    path = ROOT.joinpath(*module.split("."))
    script = path.with_suffix(".py")
    assert (path / "__main__.py").is_file() or '__name__ == "__main__"' in script.read_text(encoding="utf-8")


def test_badges_lead_to_what_is_here():
    badges = re.findall(r"\]\((https://\S+OWNER/REPOSITORY\S+)\)", README)
    assert len(badges) == 2
    for badge in badges:
        path = re.split(r"urlpath=lab/tree/|/blob/HEAD/", badge)[1]
        assert (ROOT / path).is_file(), badge


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`jupyter swarm (\w+)", README))))
def test_the_commands_exist(command):
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_swarm.cli", command, "--help"], capture_output=True, text=True, check=True
    )
    assert f"jupyter swarm {command}" in done.stdout


def test_the_strategies_are_called_as_the_readme_writes_them():
    calls = re.findall(r"`((?:EveryStep|LocalUpdates|WarmStart)\(.*?\))`", README)
    assert len(calls) >= 4
    names = {name: getattr(jupyter_swarm, name) for name in ("Codec", "EveryStep", "LocalUpdates", "WarmStart")}
    for call in calls:
        eval(call.replace("EveryStep(...)", "EveryStep(8)").replace("LocalUpdates(...)", "LocalUpdates(50, 8)"), names)


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


def test_the_magics_of_the_table(server):
    kernel = Kernel(server, "owner")
    try:
        kernel.run("%load_ext jupyter_swarm")
        kernel.run("%swarm host table --recipe language --rounds 0 SIZE=tiny TEXT=python")
        link = LINK.search(kernel.run("print(session.invite().link)"))
        assert link
        kernel.evaluate("[session._record.wait_for(lambda status: status.version > 0, 60)]")
        last = ("%swarm watch", "%swarm leave")
        assert set(last) < set(magics())
        for magic in [*(magic for magic in magics() if magic not in last), *last]:
            name = magic.split()[1]
            if magic == last[0]:
                kernel.run("session.stop()")
            cell = f"\n{read_recipe('digits')[0]}" if magic.startswith("%%") else ""
            said = kernel.run(magic.replace("LINK", link[0]) + cell)
            assert "What to do:" not in said, (magic, said)
            assert "usage:" not in said, (magic, said)
            assert f"%swarm {name}" in kernel.run(f"%swarm {name} -h")
    finally:
        kernel.close()


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
