"""Settings and strategies as people type them, and samples while training goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from jupyter_swarm.peer import api
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.steering import id_of, rule_for, settings_of
from jupyter_swarm.protocol.errors import RecipeError, SessionError, SettingError
from jupyter_swarm.protocol.rules import AdamW, Codec, SessionSettings, SessionSpec, StrategyChange
from jupyter_swarm.strategies import EveryStep, LocalUpdates, SparseLocalUpdates, StreamingLocalUpdates, WarmStart

from .classroom import PLAIN
from .conftest import Server

OPTIMIZER = AdamW(lr=0.01)
SPEC = SessionSpec("toy", "0" * 64, "", EveryStep(12).rule(OPTIMIZER), SessionSettings(seed=3), 30, 10, "")
LOCAL = LocalUpdates(20, 4, up=Codec.FP16).rule(OPTIMIZER)
CHANGING = msgspec.structs.replace(SPEC, changes=(StrategyChange(5, LOCAL),))


def test_short_names_are_the_settings_names() -> None:
    found = settings_of({"lr": 1, "steps": 25, "batch": 8, "minimum_peers": 2}, SPEC.settings, SPEC.samples)
    assert found == {"learning_rate": 1, "inner_steps": 25, "target_batch": 8, "minimum_peers": 2}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rat": 0.1}, "Did you mean learning_rate"),
        ({"xyz": 0.1}, "The settings are: rounds"),
        ({"lr": 0.1, "learning_rate": 0.2}, "set twice"),
        ({"lr": "fast"}, "wrong kind"),
        ({"lr": -1.0}, "from 0.0 to"),
        ({"batch": 31}, "at most 30"),
        ({"seed": 4}, "cannot change"),
    ],
)
def test_what_cannot_be_set_is_said_with_what_can(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings_of(changes, SPEC.settings, SPEC.samples)
    assert says in str(caught.value)


def test_a_strategys_name_means_what_the_session_has_said_of_it() -> None:
    assert rule_for("local", {}, CHANGING, OPTIMIZER, 1) == LOCAL
    assert rule_for("every_step", {}, CHANGING, OPTIMIZER, 1) == SPEC.rule
    shorter = rule_for("local", {"inner_steps": 5, "target_batch": 2}, CHANGING, OPTIMIZER, 1)
    assert (shorter.inner_steps, shorter.inner_batch, shorter.stream(shorter.streams[0].stream).up) == (
        5,
        2,
        Codec.FP16,
    )


def test_a_strategy_that_is_new_to_the_session_has_the_recipes_optimizer() -> None:
    local = rule_for("local", {"inner_steps": 5, "target_batch": 2}, SPEC, OPTIMIZER, 7)
    assert (local.inner_steps, local.inner_batch, local.inner_optimizer, local.predictions) == (5, 2, OPTIMIZER, 7)
    sparse = rule_for("sparse", {"inner_steps": 5, "target_batch": 2}, SPEC, OPTIMIZER, 7)
    assert sparse == SparseLocalUpdates(5, 2).rule(OPTIMIZER, 7)
    streaming = rule_for("streaming", {"inner_steps": 8, "target_batch": 2}, SPEC, OPTIMIZER, 7)
    assert streaming == StreamingLocalUpdates(8, 2).rule(OPTIMIZER, 7)
    known = msgspec.structs.replace(SPEC, changes=(StrategyChange(5, streaming),))
    assert rule_for("streaming", {"inner_steps": 12}, known, OPTIMIZER, 7).inner_steps == 3
    assert rule_for(LocalUpdates(3, 6), {}, SPEC, OPTIMIZER, 1) == LocalUpdates(3, 6).rule(OPTIMIZER)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("locale", "Did you mean local?"),
        (LocalUpdates(0, 4), "no steps"),
        (LocalUpdates(5, 31), "only 30"),
        (WarmStart(EveryStep(4), 3, LocalUpdates(5, 4)), "cannot warm up"),
    ],
)
def test_a_strategy_that_cannot_work_is_refused_before_it_is_sent(strategy: Any, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        rule_for(strategy, {}, SPEC, OPTIMIZER, 1)


def test_a_session_follows_what_is_set_and_samples_without_disturbing_it(server: Server, kernel: None) -> None:
    sampling = PLAIN.replace(
        "recipe = Recipe(",
        "def sample(model, data, prompt):\n"
        "    noise = torch.rand(1)\n"
        "    return f'{prompt} {sum(float(p.sum()) for p in model.parameters()):.6f} of {len(data.train[0])}'\n\n"
        "recipe = Recipe(sample=sample,",
    )
    session = api.host(Recipe.from_source(sampling), "steer", rounds=4, server=server.url, preflight=False)
    assert session.wait(60)
    digest, state = session.digest(), torch.get_rng_state()
    expected = sum(float(parameter.detach().sum()) for parameter in session.model.parameters())
    assert session.sample("sum") == f"sum {expected:.6f} of 30"
    assert session.digest() == digest
    assert torch.equal(torch.get_rng_state(), state)

    mute = api.host(Recipe.from_source(PLAIN), "mute", rounds=1, server=server.url, preflight=False)
    assert mute.wait(60)
    with pytest.raises(RecipeError, match="no samples to show"):
        mute.sample("x")
    hosted = api.host(Recipe.from_source(sampling), "steer", train=False, server=server.url, preflight=False)
    with pytest.raises(SessionError, match="does not train"):
        hosted.sample("x")
    hosted.set(steps=7, batch=6)
    settings = hosted.set(lr=0.5, strategy=LocalUpdates(5, 3))
    assert (settings["learning_rate"], settings["inner_steps"]) == (0.5, 0), "the steps are the strategy's"
    assert hosted._client.spec(hosted.id).rule_of(99).strategy == "LocalUpdates"
    assert hosted.set(strategy=EveryStep(5))["target_batch"] == 0
    assert hosted.set(strategy="local", steps=4)["inner_steps"] == 4


MEMBERS = [
    {"member": f"peer-{number}", "role": "peer", "name": name}
    for number, name in enumerate(("Ann", "Bob", "Bob", "peer-1"), 1)
] + [{"member": "holder-1", "role": "holder", "name": "Hal"}]


def test_a_peer_is_named_by_its_id_or_by_the_name_that_is_its_alone() -> None:
    assert [id_of(peer, MEMBERS) for peer in ("Ann", "peer-2", "peer-1")] == ["peer-1", "peer-2", "peer-1"]
    for peer, says in (("Bob", "peer-2, peer-3"), ("Annn", "Did you mean 'Ann'"), ("Hal", "lists those")):
        with pytest.raises(SessionError, match=says):
            id_of(peer, MEMBERS)


@pytest.mark.usefixtures("kernel")
def test_a_kernel_that_is_steered_knows_why_and_stays_out_once_it_is_removed(server: Server) -> None:
    hosted = api.host(Recipe.from_source(PLAIN), rounds=10**6, train=False, server=server.url)
    link, sha256 = hosted.invite().link, hosted.recipe.sha256
    joined = api.join(link, "Ann", agree=sha256)
    hosted.steer("Ann", "pause")
    assert joined._record.wait_for(lambda status: status.reason == "paused by the instructor", 60)
    joined.resume()
    assert joined._record.wait_for(lambda status: status.reason == "paused by the instructor", 60)
    assert hosted.peers()[0]["paused_by"] == "the instructor"
    hosted.steer("peer-1", "resume")
    version = joined.status().version
    assert joined._record.wait_for(lambda status: status.version > version, 60)
    with pytest.raises(SettingError, match="unmute, remove"):
        hosted.steer("Ann", "praise")
    hosted.steer("Ann", "remove")
    assert joined._record.wait_for(lambda status: status.state == "failed", 60)
    with pytest.raises(SessionError, match="You were removed"):
        joined.wait()
    with pytest.raises(SessionError, match="You were removed"):
        api.join(link, "Ann", agree=sha256)


@pytest.mark.usefixtures("kernel")
def test_who_joins_by_an_instructors_link_trains_and_steers(server: Server) -> None:
    hosted = api.host(Recipe.from_source(PLAIN), rounds=10**6, train=False, server=server.url)
    assistant = api.join(hosted.invite("instructor").link, "Ben", agree=hosted.recipe.sha256)
    assert (assistant.role, assistant.trains) == ("instructor", True)
    assert assistant._record.wait_for(lambda status: status.version > 0, 60)
    assistant.pause_all()
    assert "instructor" in hosted.status().reason
    assistant.resume_all()
    assistant.steer("Ben", "slow", 0.5)
    assert hosted.peers()[0]["slowed"] == 0.5
