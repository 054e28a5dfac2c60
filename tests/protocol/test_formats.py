"""Stored sessions and older peers hold these formats. A field may be added with a default; then a line here changes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.protocol import errors
from jupyter_swarm.protocol.checks import check_spec
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.limits import check_numbers
from jupyter_swarm.protocol.records import BookState, Contributor, RoundRecord, ShardDigest, Skip
from jupyter_swarm.protocol.rules import (
    SGD,
    AdamW,
    Codec,
    Nesterov,
    RoundRule,
    Schedule,
    SessionSettings,
    SessionSpec,
    Sophia,
    StrategyChange,
    StreamRule,
)

RULE_JSON = (
    b'{"strategy":"EveryStep","optimizer":{"type":"sgd","lr":0.1,"momentum":0.9,"nesterov":true,"weight_decay":0.0,'
    b'"schedule":{"shape":"cosine","warmup_samples":100,"total_samples":5000,"floor":0.1}},"work":"samples",'
    b'"contribution":"gradient_sum","target_batch":512,"inner_steps":0,'
    b'"streams":[{"stream":1,"up":3,"down":1,"merge":"sum"}],"fragments":1,"merging":"staged","quorum":1.0,'
    b'"grace":0.0,"staleness":0,"norm_limit":10.0,"clip_norm":1.0,"version":1}'
)
RULE = RoundRule(
    "EveryStep",
    Nesterov(0.1, schedule=Schedule("cosine", 100, 5000, 0.1)),
    target_batch=512,
    streams=(StreamRule(Stream.GRADIENT, up=Codec.BF16),),
    clip_norm=1.0,
)
RECORD_JSON = (
    b'{"session":"cs101-7f3a","generation":2,"round":7,"attempt":1,"contributors":[{"number":1,"contribution":31,'
    b'"peer":"p1","weight":12,"leases":[[384,392],[400,404]],"base_version":6,"loss_sum":25.5,"loss_count":12,'
    b'"norms":{"gradient":3.5}}],"samples":12,"skips":[{"range":[392,400],"reason":"its loss is nan"}],'
    b'"book":{"cursor":404,"pool":[],"consumed":396,"skipped":8},"digests":[{"shard":0,"bytes":4000,'
    b'"sha256":"ab12"}],"learning_rate":0.05,"target":12,"unix_time":1700000000.5,"format":1}'
)
RECORD = RoundRecord(
    "cs101-7f3a", 2, 7, 1,
    (Contributor(1, 31, "p1", 12, ((384, 392), (400, 404)), 6, 25.5, 12, {"gradient": 3.5}),),
    12, (Skip((392, 400), "its loss is nan"),), BookState(404, (), 396, 8), (ShardDigest(0, 4000, "ab12"),),
    0.05, 12, 1700000000.5,
)  # fmt: skip


ADDED_TO_A_STREAM = b',"feedback":0.0}'
ADDED_TO_THE_RULE = (
    b',"inner_optimizer":null,"inner_batch":0,"inner_clip_norm":0.0,"predictions":1,"begins":1,"clip_to_median":false,'
    b'"auto":false,"overlap":false,"mixing":0.5}'
)
ADDED_TO_A_CONTRIBUTOR = b',"own":0,"steps":0,"seconds":0.0,"waiting":0.0,"waited_for":"","bytes":0}'
ADDED_TO_THE_RECORD = b',"strategy":"","inner_learning_rate":0.0,"up":"","down":"","codecs_because":""}'


def test_the_round_rule_only_grows():
    grown = RULE_JSON.replace(b'"merge":"sum"}', b'"merge":"sum"' + ADDED_TO_A_STREAM)
    assert msgspec.json.encode(RULE) == grown[:-1] + ADDED_TO_THE_RULE
    assert msgspec.json.decode(RULE_JSON, type=RoundRule) == RULE


def test_the_round_record_only_grows():
    grown = RECORD_JSON.replace(b'"norms":{"gradient":3.5}}', b'"norms":{"gradient":3.5}' + ADDED_TO_A_CONTRIBUTOR)
    grown = grown.replace(b'"skipped":8}', b'"skipped":8,"own":0}')
    assert msgspec.json.encode(RECORD) == grown[:-1] + ADDED_TO_THE_RECORD
    assert msgspec.json.decode(RECORD_JSON, type=RoundRecord) == RECORD
    assert RECORD.mean_loss == 25.5 / 12


def test_adamw_is_told_apart():
    rule = RoundRule("EveryStep", AdamW(1e-3))
    text = msgspec.json.encode(rule)
    assert b'"optimizer":{"type":"adamw","lr":0.001,"betas":[0.9,0.999],"eps":1e-8,"weight_decay":0.01,' in text
    assert msgspec.json.decode(text, type=RoundRule) == rule


def test_a_record_without_losses_has_no_mean():
    assert msgspec.structs.replace(RECORD, contributors=()).mean_loss != RECORD.mean_loss


@given(st.integers(0, 10**9), st.sampled_from(["constant", "linear", "cosine"]))
def test_a_schedule_warms_up_and_ends_at_its_floor(samples, shape):
    schedule = Schedule(shape, 1000, 50_000, 0.25)
    factor = schedule.factor(samples)
    assert 0.0 < factor <= 1.0
    if samples >= 50_000:
        assert factor == pytest.approx(1.0 if shape == "constant" else 0.25)
    assert schedule.factor(999) < 1.0 == schedule.factor(1000)


STEPS = RoundRule(
    "LocalUpdates", Nesterov(0.7), work="steps", contribution="pseudo_gradient", inner_steps=50, inner_batch=16,
    inner_optimizer=AdamW(1e-3), quorum=0.5, grace=10.0, staleness=1,
)  # fmt: skip
SPEC = SessionSpec("Digits", "r" * 64, "l" * 64, RULE, SessionSettings(), 1000, 100, "i" * 64)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"samples": 0}, "empty"),
        ({"samples": 511}, "only 511 samples"),
        ({"rule": msgspec.structs.replace(RULE, target_batch=0)}, "target_batch is 0"),
        ({"rule": msgspec.structs.replace(RULE, work="steps")}, "says no steps"),
        ({"rule": STEPS, "samples": 15}, "batch of 16 samples"),
        ({"rule": msgspec.structs.replace(STEPS, quorum=0.0)}, "quorum is 0"),
        ({"changes": (StrategyChange(1, STEPS),)}, "from 2 on"),
        ({"changes": (StrategyChange(5, STEPS), StrategyChange(5, RULE))}, "ascending"),
        ({"changes": (StrategyChange(5, msgspec.structs.replace(STEPS, inner_optimizer=None)),)}, "says no steps"),
        ({"rule": msgspec.structs.replace(RULE, version=2)}, "format 2"),
        ({"settings": SessionSettings(minimum_peers=0)}, "minimum_peers is 0"),
        ({"settings": SessionSettings(learning_rate=float("nan"))}, "learning_rate is nan"),
        ({"settings": SessionSettings(target_batch=1001)}, "target_batch is 1001"),
        ({"settings": SessionSettings(rounds=2.5)}, "wrong kind"),
        ({"held_out": -1}, "-1 samples"),
        ({"rule": msgspec.structs.replace(RULE, merging="streamed")}, "'streamed'"),
        ({"rule": msgspec.structs.replace(RULE, contribution="pseudo_gradient")}, "do not go together"),
        ({"rule": msgspec.structs.replace(STEPS, contribution="gradient_sum")}, "do not go together"),
        ({"rule": msgspec.structs.replace(RULE, inner_optimizer=SGD(0.1))}, "do not go together"),
        ({"rule": msgspec.structs.replace(RULE, streams=())}, "lack GRADIENT"),
        ({"rule": msgspec.structs.replace(RULE, streams=RULE.streams * 2)}, "one twice"),
        ({"rule": msgspec.structs.replace(RULE, optimizer=SGD(0.1, schedule=Schedule("cosine", 9)))}, "ends at 0"),
        ({"rule": msgspec.structs.replace(RULE, optimizer=AdamW("0.1"))}, "wrong kind"),
        (
            {"rule": msgspec.structs.replace(RULE, streams=(StreamRule(Stream.GRADIENT, feedback=1.5),))},
            "feedback is 1.5",
        ),
        (
            {"rule": msgspec.structs.replace(RULE, streams=(StreamRule(Stream.GRADIENT, up="topk"),))},
            r"up is 'topk'(.|\n)*Codec.TOPK",
        ),
        (
            {"rule": msgspec.structs.replace(RULE, streams=(StreamRule(Stream.GRADIENT, down=Codec.INT64),))},
            "down is Codec.INT64",
        ),
        ({"rule": msgspec.structs.replace(RULE, optimizer=Sophia(0.1, estimator="exact"))}, "wrong kind"),
    ],
)
def test_a_session_that_could_make_no_round_is_refused(change, why):
    check_spec(SPEC)
    with pytest.raises(errors.SettingError, match=why):
        check_spec(msgspec.structs.replace(SPEC, **change))


def test_a_rule_holds_from_its_change_on():
    spec = msgspec.structs.replace(SPEC, changes=(StrategyChange(5, STEPS), StrategyChange(9, RULE)))
    assert [spec.rule_of(round).strategy for round in (1, 4, 5, 8, 9, 99)] == [
        "EveryStep", "EveryStep", "LocalUpdates", "LocalUpdates", "EveryStep", "EveryStep",
    ]  # fmt: skip


def test_an_estimate_of_the_hessian_is_sent_only_when_it_is_due():
    streams = (StreamRule(Stream.GRADIENT), StreamRule(Stream.HESSIAN))
    rule = RoundRule("EveryStep", Sophia(1e-3, hessian_every=3), target_batch=8, streams=streams)
    assert [len(rule.streams_of(round)) for round in range(1, 8)] == [2, 1, 1, 2, 1, 1, 2]
    assert len(msgspec.structs.replace(rule, optimizer=AdamW(1e-3)).streams_of(1)) == 1
    later = msgspec.structs.replace(SPEC, changes=(StrategyChange(6, rule),))
    assert [len(later.rule_of(round).streams_of(round)) for round in range(6, 10)] == [2, 1, 1, 2]


NUMBERS = [
    RULE, STEPS, Schedule("linear", total_samples=9), SGD(0.1), AdamW(0.1), Sophia(0.1), SessionSettings(),
]  # fmt: skip


@pytest.mark.parametrize("settings", NUMBERS, ids=lambda settings: type(settings).__name__)
def test_every_number_has_limits(settings):
    check_numbers(settings)
    fixed = {"version", "seed"}
    for name in set(settings.__struct_fields__) - fixed:
        value = getattr(settings, name)
        if isinstance(value, tuple) and isinstance(value[0], float):
            wrong = [(value[0], bad) for bad in (float("nan"), float("inf"), -1.0)]
        elif isinstance(value, float):
            wrong = [float("nan"), float("inf"), -1.0]
        elif isinstance(value, int) and not isinstance(value, bool):
            wrong = [-1, 2**60]
        else:
            continue
        for bad in wrong:
            with pytest.raises(errors.SettingError, match=name):
                check_numbers(msgspec.structs.replace(settings, **{name: bad}))


def test_the_optimizers_in_a_rule_have_limits():
    with pytest.raises(errors.SettingError, match="AdamW: lr is -1"):
        check_numbers(msgspec.structs.replace(STEPS, inner_optimizer=AdamW(-1.0)))
    with pytest.raises(errors.SettingError, match="Schedule: floor is nan"):
        check_numbers(msgspec.structs.replace(RULE, optimizer=SGD(0.1, schedule=Schedule(floor=float("nan")))))


def test_an_error_says_what_why_and_what_to_do():
    error = errors.InviteError("The link has expired.", "It was valid until noon.", "Ask for a new one.")
    assert str(error) == "The link has expired.\nWhy: It was valid until noon.\nWhat to do: Ask for a new one."
    assert str(errors.LinkError("The server is gone.")) == "The server is gone."


def test_all_errors_have_one_root():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 5
    assert all(issubclass(kind, errors.SwarmError) and kind.__doc__ for kind in kinds)
    assert issubclass(errors.SettingError, ValueError)


def test_sgd_is_sgd():
    assert Nesterov(0.7) == SGD(lr=0.7, momentum=0.9, nesterov=True)
