"""The formulas say what codecs, decisions and common sense say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from jupyter_swarm.plan.advice import advice
from jupyter_swarm.plan.formulas import own_steps, round_of, settled, traffic_of
from jupyter_swarm.plan.scenario import Link, Machine, Scenario
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, SHARD_ELEMENTS, Layout, Shard, Stream, TensorSpec
from jupyter_swarm.protocol.rules import AdamW, Codec, RoundRule, SessionSettings
from jupyter_swarm.protocol.sizes import due, framed_bytes
from jupyter_swarm.shards.codecs import encode, new_scratch
from jupyter_swarm.shards.outgoing import contribution_bytes
from jupyter_swarm.strategies import EveryStep, LocalUpdates, SparseLocalUpdates, StreamingLocalUpdates

INNER = AdamW(1e-3)
RULES: dict[str, RoundRule] = {
    "local": LocalUpdates(steps=50, batch=16).rule(INNER),
    "sparse": SparseLocalUpdates(steps=50, batch=16).rule(INNER),
    "streaming": StreamingLocalUpdates(steps=48, batch=16).rule(INNER),
    "every_step": EveryStep(target_batch=256).rule(INNER),
}
MBIT = 125_000.0
GRADIENT_CODECS = [Codec.FP32, Codec.FP16, Codec.BF16, Codec.INT8, Codec.INT4, Codec.TOPK]


def scenario(
    rule: RoundRule = RULES["local"], parameters: int = 1_000_000, peers: int = 8, up: float = 20.0,
    down: float = 20.0, server: float = 100.0, speed: float = 16.0, trip: float = 0.03,
) -> Scenario:  # fmt: skip
    """One with equal peers; links in Mbit/s."""
    machine = Machine(speed, Link(up * MBIT, down * MBIT))
    return Scenario(rule, parameters, (machine,) * peers, Link(server * MBIT, server * MBIT), trip)


scenarios = st.builds(
    scenario,
    rule=st.sampled_from(list(RULES.values())),
    parameters=st.integers(1, 20_000_000),
    peers=st.integers(1, 40),
    up=st.floats(0.1, 1000.0),
    down=st.floats(0.1, 1000.0),
    server=st.floats(0.1, 10_000.0),
    speed=st.floats(0.1, 1000.0),
    trip=st.floats(0.0, 1.0),
)


@given(scenarios, st.floats(1.01, 100.0), st.sampled_from(["up", "down", "server up", "server down"]))
@settings(max_examples=60, deadline=None)
def test_a_faster_link_never_makes_a_round_slower(plan: Scenario, factor: float, which: str) -> None:
    def faster(link: Link) -> Link:
        way = which.split()[-1]
        return replace(link, **{way: factor * getattr(link, way)})

    if which.startswith("server"):
        better = replace(plan, server=faster(plan.server))
    else:
        better = replace(plan, peers=tuple(replace(one, link=faster(one.link)) for one in plan.peers))
    before, after = round_of(plan), round_of(better)
    assert after.seconds <= before.seconds * (1 + 1e-9)
    assert after.share >= before.share * (1 - 1e-9)
    assert 0 < before.share <= 1 + 1e-9
    assert before.seconds >= max(before.computing, 1e-9)


@given(scenarios, st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_more_inner_steps_let_peers_compute_more_of_the_time(plan: Scenario, times: int) -> None:
    chosen = SessionSettings(
        inner_steps=times * plan.rule.inner_steps * plan.rule.fragments, target_batch=times * plan.rule.target_batch
    )  # fmt: skip
    before, after = round_of(plan), round_of(replace(plan, settings=chosen))
    assert after.samples == times * before.samples
    if plan.rule.work == "steps":
        assert after.share >= before.share * (1 - 1e-9)


@pytest.mark.parametrize("codec", GRADIENT_CODECS)
@given(count=st.one_of(st.integers(1, 9000), st.sampled_from([CHUNK_ELEMENTS, SHARD_ELEMENTS + 77])))
@settings(max_examples=15, deadline=None)
def test_bytes_are_those_that_the_codecs_make(codec: Codec, count: int) -> None:
    frames = Shard(0, Stream.PARAMETERS, 0, count).chunks()
    made = 0
    for start, size in frames:
        values = torch.linspace(-1.0 - start, 1.0, size)
        made += 64 + encode(codec, values, bytearray(8 * size + 4096), new_scratch())
    assert framed_bytes(codec, count) == made


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("parameters", [1, 4097, SHARD_ELEMENTS, 2 * SHARD_ELEMENTS + 12_345])
def test_bytes_up_are_those_that_a_peer_announces(name: str, parameters: int) -> None:
    rule = RULES[name]
    layout = Layout((TensorSpec("weight", (parameters,), "float32", Stream.PARAMETERS, 0, parameters),))
    rounds = [contribution_bytes(layout, rule, number) for number in range(1, rule.fragments + 1)]
    assert traffic_of(rule, parameters).up == sum(rounds) // rule.fragments
    covered = sorted(part for shard in layout.shards for r in range(rule.fragments) for part in due(shard, rule, r + 1))
    assert sum(count for _, count in covered) == parameters


def test_sparse_sends_over_140_times_less_up() -> None:
    traffic = traffic_of(RULES["sparse"], 124_000_000)
    assert 140 < 4 * 124e6 / traffic.up < 144
    assert 7.4 < 4 * 124e6 / traffic.down < 7.6


def test_the_star_carries_all_peers_over_one_link() -> None:
    slow_server = round_of(scenario(peers=30, up=1000.0, down=1000.0, server=100.0))
    assert slow_server.phases["packets"] == pytest.approx(30 * slow_server.traffic.down / (100 * MBIT))
    assert "server" in slow_server.limits
    slow_peers = round_of(scenario(peers=2, up=1.0, down=1000.0, server=10_000.0, speed=1600.0))
    assert slow_peers.limits == "the peers' uplinks"
    assert slow_peers.phases["uploads"] == pytest.approx(slow_peers.traffic.up / MBIT)


def test_slower_peers_make_fewer_steps_as_the_decisions_say() -> None:
    assert own_steps((32.0, 16.0, 1.6, 0.01), RULES["local"], SessionSettings()) == [50, 25, 2, 1]
    machines = tuple(Machine(speed, Link(1e9, 1e9)) for speed in (32.0, 16.0, 1.6, 0.01))
    plan = round_of(replace(scenario(), peers=machines, server=Link(1e9, 1e9)))
    assert plan.samples == 78 * 16
    assert plan.phases["computing"] == pytest.approx(26.0), "nobody waits for a step of 1,600 s"


def test_a_shared_batch_is_shared_by_speed() -> None:
    equal = round_of(scenario(RULES["every_step"], peers=4, server=1e6, up=1e6, down=1e6, parameters=1000, trip=0.0))
    assert equal.phases["computing"] == pytest.approx(256 / (4 * 16.0), rel=0.1)
    machines = tuple(Machine(speed, Link(1e9, 1e9)) for speed in (40.0, 10.0))
    unequal = round_of(replace(scenario(RULES["every_step"], trip=0.0), peers=machines))
    assert unequal.phases["computing"] == pytest.approx(256 / 50, rel=0.1)


def test_codecs_are_those_that_the_session_would_choose() -> None:
    auto = LocalUpdates(steps=50, batch=16, codec="auto").rule(INNER)

    def chosen(rate: float) -> tuple[Codec, Codec, str]:
        found, because = settled(scenario(auto, parameters=10_000_000, up=rate, down=rate, server=30 * rate))
        stream = found.rule.stream(Stream.GRADIENT)
        return stream.up, stream.down, because

    assert chosen(10_000.0)[:2] == (Codec.FP32, Codec.FP32)
    assert chosen(1.0)[:2] == (Codec.INT4, Codec.INT4)
    assert "int4 up: int8 would take" in chosen(1.0)[2]
    assert settled(scenario())[1] == ""


def test_uploads_that_wait_for_their_turn_are_told() -> None:
    plan = replace(scenario(peers=30, up=1.0, server=1e4), settings=SessionSettings(upload_bytes=10_000_000))
    limited, free = round_of(plan), round_of(scenario(peers=30, up=1.0, server=1e4))
    assert limited.limits == "the peers' uplinks, 2 at once (upload_bytes)"
    assert limited.phases["uploads"] == pytest.approx(15 * free.phases["uploads"])
    helps = {str(one).split(":")[0] for one in advice(plan)}
    assert any(text.startswith("set upload_bytes=12") for text in helps)


def test_advice_is_ranked_and_says_how_much() -> None:
    slow = scenario(parameters=10_000_000, peers=30)
    found = advice(slow, [("sparse", RULES["sparse"])])
    shares = [one.after.share for one in found]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > round_of(slow).share
    texts = "\n".join(map(str, found))
    before = f"{round_of(slow).share:.0%} -> "
    assert f"strategy sparse: share of time computing {before}" in texts
    assert "send int4 up and down" in texts
    assert "server with a 10 times faster link" in texts
    assert "topk" not in texts
    sparse = "\n".join(map(str, advice(replace(slow, rule=RULES["sparse"]))))
    assert "send topk down" in sparse
    assert "send int" not in sparse
    nothing = advice(scenario(parameters=10, peers=1, server=1e6, up=1e6, down=1e6))
    assert nothing == []


@pytest.mark.parametrize(
    "changed",
    [
        {"peers": 0}, {"parameters": 0}, {"up": 0.0}, {"down": -1.0}, {"server": float("inf")}, {"speed": 0.0},
        {"speed": float("nan")}, {"trip": -0.1},
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(changed: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="Choose"):
        round_of(scenario(**changed))  # type: ignore[arg-type]
