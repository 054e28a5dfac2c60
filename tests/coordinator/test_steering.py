"""A session that changes its strategy while it runs: numbers, restarts, what people may ask for and are told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
import torch

from jupyter_swarm.coordinator.pages import record_page
from jupyter_swarm.coordinator.session import SessionRuntime
from jupyter_swarm.peer.holding import HolderMember
from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.protocol.layout import Layout, Stream
from jupyter_swarm.protocol.records import RoundRecord
from jupyter_swarm.protocol.rules import SGD, AdamW, Codec, RoundRule, StrategyChange, StreamRule
from jupyter_swarm.store.database import Database
from jupyter_swarm.strategies import EveryStep, LocalUpdates

from .scripted import ScriptedPeer, computed
from .server import LAYOUT, Swarm, layout_of

EVERY = EveryStep(target_batch=8).rule(SGD(0.1, momentum=0.9))
LOCAL = LocalUpdates(steps=3, batch=2).rule(AdamW(0.01))
COARSE = LocalUpdates(steps=3, batch=2, down=Codec.INT8).rule(AdamW(0.01))


async def opened(swarm: Swarm, *changes: StrategyChange, layout: Layout = LAYOUT, **settings: Any) -> str:
    return await swarm.open_session(layout, {"rule": EVERY, "changes": changes}, evaluate_every=0, **settings)


async def change(swarm: Swarm, session: str, rule: RoundRule, status: int = 200, **body: Any) -> dict[str, Any]:
    content = json.dumps({"rule": msgspec.to_builtins(rule), **body})
    response = await swarm.call("POST", f"sessions/{session}/strategy", swarm.owner(), content)
    answer: dict[str, Any] = swarm.json(response, status)
    return answer


async def restarted(swarm: Swarm) -> None:
    await swarm.manager.stop()
    await swarm.manager.start()


def runtime(swarm: Swarm, session: str) -> SessionRuntime:
    return swarm.manager.runtime(session)


async def server_view(swarm: Swarm, session: str) -> torch.Tensor:
    one = runtime(swarm, session)
    view = await one.in_thread(one.numbers.view)
    return view.sections[Stream.PARAMETERS]


async def texts(swarm: Swarm, session: str) -> list[str]:
    await runtime(swarm, session).recorder.flush()
    return [event.text for event in await swarm.manager.in_record(session, Database.events)]


async def records(swarm: Swarm, session: str, after: int = 0, limit: int = 10) -> list[RoundRecord]:
    return (await swarm.manager.in_record(session, record_page, after, limit))[0]


async def expected(swarm: Swarm, session: str, start: int, stop: int, parameter: torch.Tensor, *, lr: float) -> None:
    """Let torch's own SGD take the steps of the rounds [start, stop) from what the records say was computed."""
    local = lr == 0.7
    optimizer = torch.optim.SGD([parameter], lr, momentum=0.9, nesterov=local)
    for record in await records(swarm, session, start - 1, stop - start):
        (contributor,) = record.contributors
        parameter.grad = sum((computed(*lease, len(parameter)) for lease in contributor.leases), torch.zeros(1))
        if not local:
            parameter.grad = parameter.grad / record.samples
        optimizer.step()


async def test_each_round_goes_by_its_rule_and_another_optimizer_begins_anew(swarm: Swarm) -> None:
    session = await opened(swarm, StrategyChange(4, LOCAL))
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await peer.train(6)
    done = await records(swarm, session)
    assert [record.strategy for record in done] == ["EveryStep"] * 3 + ["LocalUpdates"] * 3
    assert [record.contributors[0].steps for record in done] == [0, 0, 0, 3, 3, 3]
    parameter = torch.nn.Parameter(torch.zeros(4))
    await expected(swarm, session, 1, 4, parameter, lr=0.1)
    await expected(swarm, session, 4, 7, parameter, lr=0.7)
    torch.testing.assert_close(peer.view.sections[Stream.PARAMETERS], parameter.detach())
    assert torch.equal(await server_view(swarm, session), peer.view.sections[Stream.PARAMETERS])


@pytest.mark.parametrize("snapshot_rounds", [2, 3, 50])
async def test_a_restart_replays_each_round_with_its_rule(swarm: Swarm, snapshot_rounds: int) -> None:
    """Packets that carry values, then packets that carry steps, and back: with the wrong rule they cannot be read."""
    session = await opened(swarm, StrategyChange(3, COARSE), StrategyChange(6, EVERY), snapshot_rounds=snapshot_rounds)
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await peer.train(5)
    await restarted(swarm)
    assert torch.equal(await server_view(swarm, session), peer.view.sections[Stream.PARAMETERS])
    (said,) = [text for text in await texts(swarm, session) if "goes on from version 5" in text]
    assert "begins anew: the strategy has changed" in said
    again = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await again.train(8)
    assert torch.equal(await server_view(swarm, session), again.view.sections[Stream.PARAMETERS])


async def test_without_a_change_since_the_snapshot_a_restart_keeps_the_optimizers_state(swarm: Swarm) -> None:
    session = await opened(swarm, StrategyChange(2, LOCAL), snapshot_rounds=3)
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await peer.train(3)
    while not (runtime(swarm, session).numbers.folder / "snapshot-3.safetensors").exists():
        await asyncio.sleep(0.01)
    await restarted(swarm)
    again = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await again.train(5)
    parameter = torch.nn.Parameter(torch.zeros(4))
    await expected(swarm, session, 1, 2, parameter, lr=0.1)
    await expected(swarm, session, 2, 6, parameter, lr=0.7)
    torch.testing.assert_close(again.view.sections[Stream.PARAMETERS], parameter.detach())


async def test_a_change_by_hand_holds_from_the_next_round_and_for_those_who_come_later(swarm: Swarm) -> None:
    session = await opened(swarm, StrategyChange(9, EVERY), StrategyChange(12, LOCAL))
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await peer.train(2)
    answer = await change(swarm, session, COARSE)
    assert answer["round"] == runtime(swarm, session).state.round.number + 1 == 4
    assert [(one["round"], one["rule"]["strategy"]) for one in answer["changes"]] == [(4, "LocalUpdates")]
    assert [one["round"] for one in answer["dropped"]] == [9, 12]
    await peer.train(5)
    assert [record.strategy for record in await records(swarm, session, 2)] == ["EveryStep"] + ["LocalUpdates"] * 2
    assert torch.equal(await server_view(swarm, session), peer.view.sections[Stream.PARAMETERS])
    later = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    assert later.spec.changes == peer.spec.changes == (StrategyChange(4, COARSE),)
    said = await texts(swarm, session)
    assert "owner changed the strategy: LocalUpdates from round 4 on." in said
    assert "That replaces what was to come: EveryStep from round 9 on, LocalUpdates from round 12 on." in said


async def test_a_change_outlives_the_server_and_is_described(swarm: Swarm) -> None:
    session = await opened(swarm)
    await change(swarm, session, LOCAL, round=7)
    await change(swarm, session, COARSE, round=9)
    await restarted(swarm)
    view = swarm.json(await swarm.call("GET", f"sessions/{session}", swarm.owner()))
    assert view["status"]["strategy"] == "EveryStep"
    assert view["status"]["next_strategy"] == {"round": 7, "strategy": "LocalUpdates"}
    assert [one["round"] for one in view["spec"]["changes"]] == [7, 9]
    assert runtime(swarm, session).state.changes == (StrategyChange(7, LOCAL), StrategyChange(9, COARSE))


async def test_a_change_that_the_disk_refuses_changes_nothing(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await opened(swarm)

    def refused(*args: Any) -> None:
        raise StoreError("The disk is full.")

    monkeypatch.setattr(Database, "change_spec", refused)
    assert "disk is full" in (await change(swarm, session, LOCAL, status=507))["what"]
    assert runtime(swarm, session).state.changes == runtime(swarm, session).numbers.spec.changes == ()
    answer = await swarm.call("PATCH", f"sessions/{session}/settings", swarm.owner(), b'{"rounds": 7}')
    assert "disk is full" in swarm.json(answer, 507)["what"]
    assert runtime(swarm, session).spec_now().settings.rounds == 0


async def test_changes_that_two_people_make_at_once_both_hold(swarm: Swarm) -> None:
    session = await opened(swarm)
    manager = swarm.manager
    await asyncio.gather(
        manager.change_settings(session, {"rounds": 7}, "ann"),
        manager.change_settings(session, {"learning_rate": 0.5}, "bob"),
        manager.change_strategy(session, LOCAL, "ann", 5),
        manager.change_strategy(session, COARSE, "bob", 8),
    )
    for spec in (runtime(swarm, session).spec_now(), (await manager.stored(session)).spec):
        assert (spec.settings.rounds, spec.settings.learning_rate) == (7, 0.5)
        assert spec.changes == (StrategyChange(5, LOCAL), StrategyChange(8, COARSE))


@pytest.mark.parametrize(
    ("rule", "round", "why"),
    [
        (LOCAL, 1, "Round 1 is under way"),
        (LocalUpdates(steps=0, batch=2).rule(AdamW(0.01)), None, "says no steps"),
        (EveryStep(target_batch=101).rule(SGD(0.1)), None, "only 100 samples"),
        (
            msgspec.structs.replace(EVERY, streams=(StreamRule(Stream.GRADIENT), StreamRule(Stream.COUNTER))),
            None,
            "cannot travel in FP32",
        ),
    ],
)
async def test_a_strategy_that_cannot_be_followed_is_refused(
    swarm: Swarm, rule: RoundRule, round: int | None, why: str
) -> None:
    session = await opened(swarm)
    problem = await change(swarm, session, rule, status=400, round=round)
    assert why in " ".join(problem.values())
    assert (await swarm.manager.stored(session)).spec.changes == ()


async def test_a_session_that_has_ended_changes_no_more(swarm: Swarm) -> None:
    session = await opened(swarm)
    await swarm.manager.act(session, "stop", "owner")
    assert "has ended" in (await change(swarm, session, LOCAL, status=410))["what"]
    answer = await swarm.call("PATCH", f"sessions/{session}/settings", swarm.owner(), b'{"rounds": 7}')
    assert "has ended" in swarm.json(answer, 410)["what"]


async def test_settings_are_checked_against_all_rules_to_come(swarm: Swarm) -> None:
    session = await opened(swarm, StrategyChange(5, LOCAL))
    changed = await swarm.call("PATCH", f"sessions/{session}/settings", swarm.owner(), b'{"inner_steps": 7}')
    assert swarm.json(changed)["inner_steps"] == 7
    refused = await swarm.call("PATCH", f"sessions/{session}/settings", swarm.owner(), b'{"inner_steps": -1}')
    assert "inner_steps is -1" in swarm.json(refused, 400)["what"]


WIDE = layout_of(40, shard_elements=10)


async def test_holders_elsewhere_change_rule_with_the_server(swarm: Swarm) -> None:
    """Two holders, one of which comes after the change: what they compute is what one alone would have computed."""
    session = await opened(swarm, StrategyChange(3, COARSE), StrategyChange(5, LOCAL), layout=WIDE)
    holder = HolderMember(
        f"ws://127.0.0.1:{swarm.port}{swarm.base}swarm/api/sessions/{session}/peer",
        await swarm.member(session, "holder"),
    )
    holder.start()
    while len(runtime(swarm, session).state.holding()) < 2:
        await asyncio.sleep(0.01)
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await peer.train(3)
    later = HolderMember(
        f"ws://127.0.0.1:{swarm.port}{swarm.base}swarm/api/sessions/{session}/peer",
        await swarm.member(session, "holder"),
    )
    later.start()
    while len(runtime(swarm, session).state.holding()) < 3:
        await asyncio.sleep(0.01)
    await peer.train(4)
    await change(swarm, session, EVERY, round=8)
    await peer.train(9)
    alone = await opened(
        swarm, StrategyChange(3, COARSE), StrategyChange(5, LOCAL), StrategyChange(8, EVERY), layout=WIDE
    )
    other = await ScriptedPeer.join(swarm, alone, await swarm.member(alone, "peer"))
    await other.train(9)
    assert torch.equal(peer.view.sections[Stream.PARAMETERS], other.view.sections[Stream.PARAMETERS])
    for one in (holder, later):
        await asyncio.to_thread(one.close)
        assert one.error is None
