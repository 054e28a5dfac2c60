"""Links as a running server measures them, and the codecs that a session chooses by them, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tornado.websocket import WebSocketClientConnection

from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import FIRST_CODECS, SGD, Codec, RoundRule, StreamRule
from jupyter_swarm.strategies import EveryStep, StreamingLocalUpdates
from tests.waiting import eventually

from .scripted import ScriptedPeer
from .server import Swarm, layout_of
from .slow_link import through
from .test_peers import until_refused

NUMBERS = 65_536
"""Parameters: 256 KiB in fp32, enough to measure a link by."""
AUTO = {"rule": EveryStep(target_batch=8, codec="auto").rule(SGD(0.1)), "held_out": 0}


def seen(swarm: Swarm, session: str, name: str = "ann") -> Any:
    return next(peer for peer in swarm.manager.runtime(session).status().peers if peer.name == name)


async def heard(peer: ScriptedPeer, condition: Callable[[], bool]) -> None:
    """Let the peer answer what it is asked until `condition` holds."""

    async def answer() -> None:
        while True:
            await peer._next()

    answering = asyncio.create_task(answer())
    try:
        await eventually(condition)
    finally:
        answering.cancel()


async def test_a_slow_link_is_measured_at_joining_and_never_taken_for_twice_as_fast(swarm: Swarm) -> None:
    """A peer that answers the round trip late hides as much of a transfer, at most half of it."""
    session = await swarm.open_session(minimum_peers=3)
    invite = await swarm.member(session, "peer")
    near = await ScriptedPeer.join(swarm, session, invite, measurable=True, free_memory=3 << 30)
    await heard(near, lambda: bool(seen(swarm, session).up and seen(swarm, session).down))
    async with through(swarm, up=4e5, down=8e5) as (outside, _):
        far = await ScriptedPeer.join(outside, session, invite, "far", measurable=True)
        await heard(far, lambda: bool(seen(swarm, session, "far").up and seen(swarm, session, "far").down))
    slow, fast = seen(swarm, session, "far"), seen(swarm, session)
    assert 0 < slow.up <= 2 * 4e5
    assert 0 < slow.down <= 2 * 8e5
    assert slow.round_trip > 0
    assert fast.free_memory == 3 << 30


async def test_a_peer_gains_nothing_by_answers_that_nobody_has_asked_for(swarm: Swarm) -> None:
    """Nor by what it says of its speed, its clock or its memory."""
    session = await swarm.open_session()
    async with through(swarm, up=4e5, down=4e5) as (outside, _):
        liar = await ScriptedPeer.join(outside, session, await swarm.member(session, "peer"), measurable=True)
        for number in range(1, 50):
            await liar.say(m.Heartbeat(answer=number, filler="." * 100))
        await liar.socket.write_message('{"type":"heartbeat","sent":9e15,"bandwidth":1e12,"answer":7}')
        await liar.say(m.Progress(1e12, 1e12, 0.0, 1 << 40, 1 << 40))
        await heard(liar, lambda: bool(seen(swarm, session).up and seen(swarm, session).down))
        peer = seen(swarm, session)
    assert peer.up <= 2 * 4e5
    assert peer.down <= 2 * 4e5


async def test_too_short_an_answer_measures_nothing(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await swarm.connect(f"sessions/{session}/peer", await swarm.member(session, "peer"))
    assert isinstance(socket, WebSocketClientConnection)
    await socket.write_message(m.encode(m.Hello(m.PROTOCOL_VERSION, "0.1", "peer", "ann")))
    asked = 0
    while asked < 3:
        data = await socket.read_message()
        message = m.read_to_member(data) if isinstance(data, str) else None
        if isinstance(message, m.Heartbeat) and message.ask:
            asked += 1
            await socket.write_message(m.encode(m.Heartbeat(answer=message.ask, filler="." * min(message.wanted, 10))))
    await eventually(lambda: seen(swarm, session).down > 0)
    assert seen(swarm, session).up == 0.0


async def test_a_session_on_a_slow_link_chooses_smaller_codecs_and_says_why(swarm: Swarm) -> None:
    session = await swarm.open_session(layout_of(NUMBERS), AUTO)
    runtime = swarm.manager.runtime(session)
    invite = await swarm.member(session, "peer")
    async with through(swarm, up=1e6, down=1e6) as (outside, _):
        ann = await ScriptedPeer.join(outside, session, invite, measurable=True)
        bob = await ScriptedPeer.join(swarm, session, invite, "bob", measurable=True)
        assert runtime.status().codecs == "fp32 up, fp32 down"
        await asyncio.gather(ann.train(6), bob.train(6))
        assert ann.view.digest_all() == bob.view.digest_all()
        record = runtime.state.last_record
    assert record is not None
    assert record.up in ("int8", "int4")
    assert "would take" in record.codecs_because
    assert "Mbit/s" in record.codecs_because
    assert runtime.status().codecs != "fp32 up, fp32 down"
    assert runtime.status().codecs_because
    # Who comes now learns what held when: the rounds before were made by other codecs.
    eve = await ScriptedPeer.join(swarm, session, invite, "eve")
    assert eve.rule(1).codecs == {Codec.FP32, Codec.INT64}
    assert eve.rule(record.round).stream(Stream.GRADIENT).up.name.lower() == record.up


INT4 = RoundRule("EveryStep", SGD(0.1), target_batch=8, streams=(StreamRule(Stream.GRADIENT, up=Codec.INT4),))


async def test_an_older_package_is_told_which_codec_it_lacks_and_the_session_goes_on(swarm: Swarm) -> None:
    session = await swarm.open_session(facts={"rule": INT4, "held_out": 0})
    invite = await swarm.member(session, "peer")
    ann = await ScriptedPeer.join(swarm, session, invite)
    older = await swarm.connect(f"sessions/{session}/peer", invite)
    assert isinstance(older, WebSocketClientConnection)
    # As a package says hello that does not know the field.
    hello = msgspec.to_builtins(m.Hello(m.PROTOCOL_VERSION, "0.0.9", "peer", "old"))
    del hello["codecs"]
    await older.write_message(json.dumps({"type": "hello", **hello}))
    refused = await until_refused(older)
    assert "does not know the codec int4" in refused.what
    assert "You have jupyter_swarm 0.0.9" in refused.why
    assert "pip install -U jupyter_swarm" in refused.todo
    assert not refused.retry
    await ann.train(2)


async def test_a_strategy_that_an_older_package_cannot_follow_sends_it_away_and_nobody_else(swarm: Swarm) -> None:
    session = await swarm.open_session(facts={"held_out": 0})
    invite = await swarm.member(session, "peer")
    ann = await ScriptedPeer.join(swarm, session, invite)
    old = await ScriptedPeer.join(swarm, session, invite, "old", codecs=FIRST_CODECS)
    body = msgspec.json.encode({"rule": INT4})
    swarm.json(await swarm.call("POST", f"sessions/{session}/strategy", swarm.owner(), body))
    refused = await until_refused(old.socket)
    assert "does not know the codec int4" in refused.what
    await ann.train(3)
    assert swarm.manager.runtime(session).state.rule.stream(Stream.GRADIENT).up == Codec.INT4


@pytest.mark.parametrize("codec", ["int8", "Auto", 4])
def test_a_codec_that_is_none_is_refused_in_words(codec: Any) -> None:
    with pytest.raises(SettingError, match='Say codec="auto"'):
        EveryStep(target_batch=8, codec=codec).rule(SGD(0.1))


STREAMING = StreamingLocalUpdates(steps=8, batch=2, up=Codec.FP32, down=Codec.FP32).rule(SGD(0.1))


async def test_a_package_from_before_streaming_is_told_so_although_it_knows_the_codecs(swarm: Swarm) -> None:
    session = await swarm.open_session(facts={"rule": STREAMING, "held_out": 0})
    older = await swarm.connect(f"sessions/{session}/peer", await swarm.member(session, "peer"))
    assert isinstance(older, WebSocketClientConnection)
    await older.write_message(m.encode(m.Hello(m.PROTOCOL_VERSION, "0.0.9", "peer", "old", codecs=FIRST_CODECS)))
    assert "does not know streaming updates" in (await until_refused(older)).what
