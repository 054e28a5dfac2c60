"""`%swarm` in a real shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from jupyter_swarm.notebook import commands
from jupyter_swarm.notebook.commands import COMMANDS
from jupyter_swarm.peer import api
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.invites import Invite

from ..peer.classroom import PLAIN
from ..peer.conftest import Server
from .played import SECRET, Kept

Said = Callable[[str], str]
LINK = Invite("http://127.0.0.1:9", "cs101-1", SECRET).link


def test_an_unknown_subcommand_suggests_the_nearest(said: Said) -> None:
    assert "%swarm resume?" in said("%swarm resme")
    for line in ("%swarm", "%swarm -h"):
        listed = said(line)
        assert all(f"  {name} " in listed for name in COMMANDS)
        assert "Open a session" in listed
    assert "Did you mean" not in said("%swarm xyzzy")
    assert "%%swarm recipe" in said("%%swarm host\nx = 1")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("host", "jupyter swarm serve"),
        ("host --recipe no_such", "no recipe called 'no_such'"),
        ("host bard --recipe digits --rounds 3 HELD_OUTS=30", "HELD_OUT"),
        ("host bard --recipe digits SPEED=3 --rounds 3", "HELD_OUT"),
        ("host --url nonsense", "not the address of a server"),
        ("host train=False", "train is not a setting"),
        ("host cs101 --ruonds 3", "Did you mean --rounds?"),
        ("join https://example.org", "not an invite link"),
        ("join", "Pass it: join LINK"),
        ("join http://a:8888/swarm/watch/x#y", "The invite link is not complete"),
        ("invite", "in no session"),
        ("invite --role king", "invalid choice"),
        ("join http://a/swarm/join/x#y --data nothing", "no variable 'nothing'"),
        ("status", "in no session"),
        ("pause", "in no session"),
        ("watch", "in no session"),
        ("host --rounds many", "invalid int value"),
        ("host 'half", "No closing quotation"),
        ("set", "%swarm set lr=3e-4"),
        ("set lr 3e-4", "NAME=VALUE"),
        ("recipe", "no recipe yet"),
        ("doctor nonsense", "not an invite link"),
        ("plan --peers 0", "--peers is 0"),
        ("plan --strategy locale", "Did you mean local?"),
        ("plan --simulate --rounds 0", "Choose 1 round or more"),
        (f"join {LINK[:50]} {LINK[50:]}", "cannot be reached"),
        (f"join <{LINK}>.", "cannot be reached"),
        (f"join \u201c{LINK[:30]}\u200b{LINK[30:]}\u201d", "cannot be reached"),
        (f"join {LINK[:-5]}", "incomplete or mistyped"),
        (f"join {LINK.replace('/join/', '/watch/')}", "lets you watch the session"),
    ],
)
def test_what_goes_wrong_is_said_in_words(said: Said, line: str, says: str) -> None:
    assert says in said(f"%swarm {line}")


def test_nothing_in_a_link_is_run_as_python(said: Said) -> None:
    shell = InteractiveShell.instance()
    said("ran = []")
    said("%swarm join http://127.0.0.1:9/swarm/join/a#{ran.append(1)}")
    assert shell.user_ns["ran"] == []


def test_variables_stand_for_their_values(said: Said) -> None:
    said("page, n = 'https://example.org', 'many'")
    assert "not an invite link" in said("%swarm join {page}")
    assert "not an invite link" in said("%swarm join $page")
    assert "'{nothing}'" in said("%swarm host --recipe {nothing}")
    assert "'many'" in said("%swarm host --rounds {n}")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_subcommand_explains_itself(said: Said, name: str) -> None:
    text = said(f"%swarm {name} -h")
    assert text.startswith(f"usage: %swarm {name}")
    assert "-h" in text


def test_an_unreachable_server_is_said_with_what_to_do(said: Said) -> None:
    assert "What to do: Check that it runs" in said(f"%swarm join {LINK}")


def test_a_plan_is_said_and_drawn_without_a_session(said: Said, shell: InteractiveShell, tmp_path: Path) -> None:
    shell.user_ns["n"] = 12
    text = said("picture = %swarm plan --peers {n} --params 2M --strategy sparse --simulate --rounds 2")
    assert "12 with 20 / 20 Mbit/s up / down" in text
    assert "What would help:" in text
    assert "Simulated: 2 rounds of the real decisions, 12 peers" in text
    assert shell.user_ns["picture"]._repr_png_()[:4] == b"\x89PNG"
    said(f"picture = %swarm plan --figure {tmp_path / 'plan.svg'}")
    assert shell.user_ns["picture"] is None
    assert "</svg>" in (tmp_path / "plan.svg").read_text("utf-8")


class Recording:
    """In a session's place: remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.trains = True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            return options if name == "set" else name

        return call


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Recording:
    recording = Recording()
    monkeypatch.setattr(api, "current", lambda: recording)
    return recording


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("pause", ("pause", (), {})),
        ("pause --all", ("pause_all", (), {})),
        ("resume --all", ("resume_all", (), {})),
        ("leave", ("leave", (), {})),
        ("sample To be, or", ("sample", ("To be, or",), {})),
        ('sample "  two  "', ("sample", ("  two  ",), {})),
        ("checkpoint best", ("checkpoint", ("best",), {})),
        (
            "set lr=3e-4 steps=25 batch=256 strategy=local",
            ("set", (), {"lr": 3e-4, "steps": 25, "batch": 256, "strategy": "local"}),
        ),
    ],
)
def test_a_line_is_one_call_of_the_api(said: Said, session: Recording, line: str, call: tuple[Any, ...]) -> None:
    said(f"%swarm {line}")
    assert session.calls == [call]


def test_checkpoints_are_chosen_by_place_or_name(said: Said, session: Recording) -> None:
    fetched: list[tuple[str, str]] = []
    found = [Kept(name, 1.0) for name in ("first", "best")]
    for one in found:
        one.download = lambda folder, name=one.name: fetched.append((name, folder))  # type: ignore[assignment, method-assign, misc]
    session.checkpoints = lambda: found  # type: ignore[method-assign]
    said("%swarm checkpoint --download 2 here")
    said("%swarm checkpoint --download first there")
    assert fetched == [("best", "here"), ("first", "there")]
    assert "There are: 1 (first), 2 (best)" in said("%swarm checkpoint --download 3 here")
    assert "best" in said("%swarm checkpoint --list")


def test_arguments_reach_the_api(said: Said, monkeypatch: pytest.MonkeyPatch, shell: InteractiveShell) -> None:
    calls: list[tuple[object, ...]] = []

    def join(*arguments: object, **options: object) -> Recording:
        calls.append((arguments, options))
        return Recording()

    monkeypatch.setattr(api, "join", join)
    said("mine = [1]")
    said("%swarm join 'http://a/swarm/join/x#y' --name 'Ann B' --agree 12345678 --device cpu --data mine --wait")
    assert calls == [(("http://a/swarm/join/x#y", "Ann B"), {"agree": "12345678", "device": "cpu", "data": [1]})]
    assert isinstance(shell.user_ns["session"], Recording)


# --- recipe cells


def test_a_recipe_cell_is_the_recipe_of_its_text_and_a_failing_one_changes_nothing(
    said: Said, shell: InteractiveShell
) -> None:
    assert "There is no recipe yet" in said("%%swarm recipe\nx = 1")
    assert "recipe" not in shell.user_ns
    assert "ready" in said(f"%%swarm recipe\n{PLAIN}")
    first = shell.user_ns["recipe"]
    assert first.source.strip() == PLAIN.strip()
    for broken in (
        "recipe = ",
        PLAIN.replace("cross_entropy(model(x), y)", "no_such_loss(model(x), y)"),
        "import nothing",
    ):
        assert "The recipe toy is kept." in said(f"%%swarm recipe\n{broken}")
        assert shell.user_ns["recipe"] is first
    said(f"%%swarm recipe --name other --untried\n{PLAIN}")
    assert shell.user_ns["recipe"].name == "other"
    assert shell.user_ns["recipe"].sha256 == first.sha256


def test_host_takes_the_cells_recipe_and_the_settings(
    said: Said, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def host(recipe: Any, name: str, **options: Any) -> None:
        calls.append((recipe, {"name": name, **options}))
        raise SettingError("enough")

    monkeypatch.setattr(api, "host", host)
    assert "enough" in said("%swarm host cs101 --rounds 3")
    said(f"%%swarm recipe --untried\n{PLAIN}")
    said("%swarm host lr=0.1 minimum_peers=2 rounds=7 --no-train")
    said("%swarm host cs101 --recipe digits")
    assert [call[0] for call in calls] == ["digits", shell.user_ns["recipe"], "digits"]
    assert calls[0][1]["rounds"] == 3
    said_there = {"name": "", "lr": 0.1, "minimum_peers": 2, "rounds": 7, "train": False}
    assert calls[1][1] | said_there == calls[1][1]


def test_host_rehearses_with_the_settings_and_opens_nothing(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(commands, "rehearse", lambda *given, **settings: calls.append((given, settings)))
    said("%swarm host cs101 --recipe digits --rehearse 30 --rounds 200 lr=0.1 rounds=7")
    assert calls == [(("digits", 30, None), {"lr": 0.1})]
    assert "peers is not a setting" in said("%swarm host --rehearse 30 peers=3")


def test_a_link_is_asked_for_so_that_no_output_has_it(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("the secret would be in the output"))
    monkeypatch.setattr("getpass.getpass", lambda _: "LINK")
    monkeypatch.setattr(api, "join", lambda *given, **_: calls.append(given))
    said("%swarm join --name Ann")
    assert calls == [("LINK", "Ann")]


def test_where_others_come_in_is_said_in_one_way(said: Said) -> None:
    both = said("%swarm host --url http://there --tunnel 'tunnel {port}'")
    assert "--url and --tunnel exclude each other" in both
    assert "Choose one" in both


@pytest.mark.usefixtures("kernel")
def test_a_tunnel_that_cannot_be_opened_is_said_before_a_session_is(said: Said, server: Server) -> None:
    line = f"%swarm host --recipe digits --server {server.url} --tunnel"
    assert "'no-such-tunnel' cannot be started" in said(f"{line} 'no-such-tunnel {{port}}'")
    assert "cannot be read" in said(f"""{line} 'x "'""")


# --- completion


@pytest.mark.parametrize(
    ("line", "expected", "others"),
    [
        ("%swarm", set(), {"host"}),
        ("%swarm ", {"host", "join", "watch", "doctor"}, set()),
        ("%swarm jo", {"join"}, {"host"}),
        ("swarm jo", {"join"}, {"host"}),
        ("%%swarm ", {"recipe"}, {"host"}),
        ("%swarm host --r", {"--recipe", "--rounds"}, {"--wait"}),
        ("%swarm host --recipe ", {"digits"}, {"--wait"}),
        ("%swarm watch --theme ", {"auto", "light", "dark"}, set()),
        ("%swarm set l", {"lr=", "learning_rate="}, {"steps="}),
        ("%swarm set lr=1 st", {"steps=", "strategy="}, {"seed="}),
        ("%swarm set strategy=", {"strategy=local", "strategy=every_step"}, {"lr="}),
        ("%swarm set strategy=lo", {"strategy=local"}, {"strategy=every_step"}),
        ("%swarm plan --strategy ", {"sparse", "streaming"}, {"--peers"}),
        ("%swarm plan --codec ", {"int8", "auto"}, {"--peers"}),
        ("%swarm plan --server-u", {"--server-uplink"}, {"--uplink"}),
        ("x = 1\n%swarm pa", {"pause"}, {"host"}),
    ],
)
def test_completion(shell: InteractiveShell, line: str, expected: set[str], others: set[str]) -> None:
    from IPython.core.completer import provisionalcompleter

    with provisionalcompleter():
        found = {line[: each.start] + each.text for each in shell.Completer.completions(line, len(line))}
    words = {text.replace("\n", " ").split(" ")[-1] for text in found}
    assert expected <= words
    assert not others & words


def test_a_hosted_session_takes_settings_and_refuses_what_is_out_of_range(
    said: Said, server: Server, kernel: None
) -> None:
    said(f"%%swarm recipe --untried\n{PLAIN}")
    said(f"%swarm host cs101 --no-train --server {server.url}")
    assert "learning_rate=0.0003" in said("%swarm set lr=3e-4")
    assert "Did you mean minimum_peers?" in said("%swarm set minimum_peer=3")
    assert "from 1.0 to 86400.0" in said("%swarm set lease_seconds=0")
    assert "wrong kind" in said("%swarm set minimum_peers=many")
    assert "Did you mean local?" in said("%swarm set strategy=locale")
    assert "strategy=local" in said("%swarm set strategy=local steps=3 batch=4")
    assert "cannot warm up" not in said("%swarm status")
