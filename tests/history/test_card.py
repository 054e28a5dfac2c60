"""The run card: what explains a run when nobody remembers it."""

from __future__ import annotations

import re

import msgspec
import pytest

from jupyter_swarm.decisions.links import with_codecs
from jupyter_swarm.history import build, concat, read_card
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.rules import AdamW, Codec, RoundRule, StrategyChange

from .rows import run, spec

CHECKPOINT = {"number": 1, "name": "final", "version": 6, "created": 0.0, "sha256": "d" * 64, "manifest": {}}


def test_a_card_says_what_a_run_was() -> None:
    card = build(**run(), source="recipe = 1", checkpoints=[CHECKPOINT]).swarm.card
    assert (card.name, card.session, card.recipe, card.parent) == ("toy", "toy-1", "a" * 64, "c" * 64)
    assert card.checkpoints[0].sha256 == "d" * 64
    assert [(change.round, change.rule.strategy) for change in card.rules] == [(1, "EveryStep"), (4, "LocalUpdates")]
    assert [(peer.name, peer.device, peer.samples, peer.share) for peer in card.peers] == [
        ("Ann", "cpu", 24, 0.5), ("Bob", "cpu", 24, 0.5),
    ]  # fmt: skip
    assert (card.totals.rounds, card.totals.samples, card.totals.tokens) == (6, 48, 384)
    assert (card.totals.seconds, card.totals.bytes_up, card.totals.loss) == (5.0, 12_000, 2.0)
    assert card.totals.held_out == {"held_out_accuracy": 0.5, "held_out_loss": 0.5}
    assert [one.text for one in card.events][1] == "Ann is paused: KeyboardInterrupt"
    assert {"python", "torch", "jupyter_swarm"} <= card.software.keys()
    assert read_card(card.json()) == card


def test_a_card_can_be_read_by_people() -> None:
    text = build(**run(), source="recipe = 1 | 2").swarm.card.markdown()
    assert "| held-out loss | 0.5000 |" in text
    assert "| 4 | LocalUpdates |" in text
    assert "```python\nrecipe = 1 | 2\n```" in text
    assert "checkpoint `" + "c" * 64 in text
    widths = {line.count("|") for line in text.split("## Peers")[1].split("##")[0].splitlines() if line}
    assert len(widths) == 1, "each row has as many cells as the head"


def test_a_card_says_which_codecs_held_and_why() -> None:
    facts = run()
    rule = with_codecs(msgspec.structs.replace(facts["spec"].rule, auto=True), Codec.INT8, Codec.FP16)
    why = "int8 up: fp16 would take 24 % of a round at 12 Mbit/s; fp16 down: 2 % of a round at 90 Mbit/s"
    chosen = msgspec.structs.replace(facts["spec"], changes=(StrategyChange(3, rule, why),))
    text = build(**{**facts, "spec": chosen}).swarm.card.markdown()
    assert re.search(r"\| 1 \| EveryStep \|.*\| fp32 up, fp32 down \|", text)
    assert re.search(rf"\| 3 \| EveryStep \|.*\| {why} \|", text)


def test_a_card_does_not_follow_what_others_have_written() -> None:
    hostile = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) `|`\n# Ann"
    text = build(**run(names=(hostile, hostile)), source="'''```\n<b>'''").swarm.card.markdown()
    shown = text.split("## Recipe")[0]
    assert "&lt;img" in shown
    assert "<" not in shown
    assert not re.search(r"(?<!\\)[\[`]", shown.split("## Peers")[1].split("##")[0])
    assert "\n# Ann" not in shown
    assert "````python" in text, "the recipe does not end its own fence"


def test_a_history_with_a_long_recipe_can_be_looked_at() -> None:
    history = build(**run(), source="x = 1\n" * 10_000)
    assert "x = 1" not in repr(history)
    assert "x = 1" not in str(history.attrs), "attributes are shown unfolded"
    assert len(repr(history.swarm.card)) < 100


def test_several_runs_have_several_cards() -> None:
    with pytest.raises(SettingError, match="Choose one run"):
        _ = concat([build(**run()), build(**run(2))], ["a", "b"]).swarm.card


def test_the_numbers_that_people_ask_for() -> None:
    history = build(**run())
    summary = history.swarm.summary()
    assert history.swarm.speed() == 8.0
    assert history.swarm.share("Ann", by_round=True).values.tolist() == [0.5] * 6
    assert summary.waiting_share.sel(peer="Bob") == pytest.approx(0.25 / 0.75)
    assert summary.late.values.tolist() == [0, 1]
    assert summary.bytes_per_token == 24_000 / 384
    assert "Bob" in history.swarm.table()
    assert "62.5 bytes per token, 1 late" in history.swarm.table()
    letters = msgspec.structs.replace(spec(), rule=RoundRule("EveryStep", AdamW(0.01), predictions=1))
    both = concat([history, build(**{**run(), "spec": letters})], ["windows", "letters"]).swarm.summary()
    assert both.bytes_per_token.values.tolist() == [62.5, 500.0]
    with pytest.raises(SettingError, match="Its peers are: Ann, Bob"):
        history.swarm.share("Carl")
