"""Plans as people ask for them: `jupyter swarm plan …` and `%swarm plan …` take the same words and answer the same."""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec

from ..plan.advice import Advice, advice
from ..plan.formulas import Round, round_of, settled
from ..plan.scenario import Link, Machine, Scenario
from ..plan.simulator import Report, Trial, simulate
from ..plan.words import compared, described
from ..protocol.checks import check_rule
from ..protocol.errors import SettingError
from ..protocol.rules import AdamW, Codec, RoundRule, SessionSettings
from ..strategies import EveryStep, SparseLocalUpdates
from .steering import STRATEGIES, strategy_of

MEGABIT = 125_000.0
_CODECS = ("fp32", "fp16", "bf16", "int8", "int4", "auto")
_SAMPLES = 10**12
_INNER = AdamW(1e-3)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGBT]?)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--peers", {"type": int, "default": 30, "metavar": "N", "help": "how many train (default: 30)"}),
    ("--params", {"default": "10M", "metavar": "N", "help": "trained parameters, as in 124M (default: 10M)"}),
    ("--strategy", {"default": "local", "metavar": "NAME", "help": f"{', '.join(STRATEGIES)} (default: local)"}),
    ("--uplink", {"type": float, "default": 20.0, "metavar": "R", "help": "of a peer, in Mbit/s (default: 20)"}),
    ("--downlink", {"type": float, "metavar": "R", "help": "of a peer, in Mbit/s (default: as the uplink)"}),
    ("--server-uplink", {"type": float, "default": 100.0, "metavar": "R", "help": "in Mbit/s (default: 100)"}),
    ("--server-downlink", {"type": float, "metavar": "R", "help": "in Mbit/s (default: as its uplink)"}),
    ("--rtt-ms", {"type": float, "default": 30.0, "metavar": "T", "help": "a message there and back (default: 30)"}),
    ("--step-seconds", {"type": float, "default": 1.0, "metavar": "S", "help": "of one inner step (default: 1)"}),
    ("--inner-steps", {"type": int, "default": 50, "metavar": "H", "help": "between two exchanges (default: 50)"}),
    ("--batch", {"type": int, "default": 16, "metavar": "B", "help": "samples in a step of one peer (default: 16)"}),
    ("--codec", {"choices": _CODECS, "help": "of what the strategy does not send in another way (default: its own)"}),
    ("--simulate", {"action": "store_true", "help": "run the session's real decisions under a virtual clock as well"}),
    ("--rounds", {"type": int, "default": 10, "metavar": "N", "help": "to simulate (default: 10)"}),
    ("--churn", {"type": float, "default": 0.0, "metavar": "P", "help": "share of the peers that goes each minute"}),
    ("--away", {"type": float, "default": 20.0, "metavar": "S", "help": "seconds until they are back (default: 20)"}),
    ("--spread", {"type": float, "default": 0.0, "metavar": "S",
                  "help": "how unequal machines and links are: sigma of a log-normal distribution; 0.5 is a class"}),
    ("--seed", {"type": int, "default": 0, "metavar": "N", "help": "of what is drawn by chance (default: 0)"}),
    ("--figure", {"metavar": "FILE", "help": "draw it into a PNG, SVG or PDF file"}),
    ("--json", {"metavar": "FILE", "help": "write all figures into a JSON file"}),
)  # fmt: skip
"""Options and what `argparse` is to know of them."""


class Planned(msgspec.Struct, frozen=True):
    """A plan: the scenario, its round by the formulas, why its codecs are what they are ('': somebody said so), what
    would help, the rules of the other strategies by name, and what the simulator saw, if it was asked."""

    scenario: Scenario
    round: Round
    because: str
    helps: list[Advice]
    others: dict[str, RoundRule]
    trial: Trial
    report: Report | None

    def __str__(self) -> str:
        text = described(self.scenario, self.round, self.helps, self.because)
        return text if self.report is None else f"{text}\n\n{compared(self.round, self.trial, self.report)}"

    def write(self, file: Path) -> None:
        """All figures as JSON. Raises `SettingError` if the file cannot be written."""
        figures = msgspec.to_builtins(self)
        figures["scenario"]["peers"] = len(self.scenario.peers)
        del figures["others"]
        figures["round"] |= {"share": self.round.share, "speed": self.round.speed}
        figures["helps"] = [
            {"what": one.what, "share": one.after.share, "speed": one.after.speed} for one in self.helps
        ]
        try:
            file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingError(f"{file} cannot be written.", str(error), "Choose another file.") from None


def plan(chosen: Namespace) -> Planned:
    """What a line asks for, of the `OPTIONS`. Raises `SettingError`."""
    scenario, because = settled(scenario_of(chosen))
    round_ = round_of(scenario)
    trial = Trial(chosen.rounds, chosen.churn / 60.0, chosen.away, chosen.spread, chosen.seed)
    report = simulate(scenario, trial) if chosen.simulate else None
    with_own_codecs = Namespace(**vars(chosen) | {"codec": None})
    others = {
        name: rule_of(name, with_own_codecs)
        for name, kind in STRATEGIES.items()
        if kind.__name__ != scenario.rule.strategy
    }
    return Planned(scenario, round_, because, advice(scenario, others.items()), others, trial, report)


def scenario_of(chosen: Namespace) -> Scenario:
    """What would be planned. Raises `SettingError`."""
    if chosen.peers < 1:
        raise SettingError(f"--peers is {chosen.peers}.", todo="Choose 1 or more.")
    for name in ("uplink", "downlink", "server_uplink", "server_downlink", "step_seconds"):
        value = getattr(chosen, name)
        if value is not None and not 0 < value < math.inf:
            raise SettingError(f"--{name.replace('_', '-')} is {value:g}.", todo="Choose a number above 0.")
    up, server = chosen.uplink * MEGABIT, chosen.server_uplink * MEGABIT
    down = up if chosen.downlink is None else chosen.downlink * MEGABIT
    server_down = server if chosen.server_downlink is None else chosen.server_downlink * MEGABIT
    machine = Machine(chosen.batch / chosen.step_seconds, Link(up, down))
    return Scenario(
        rule_of(chosen.strategy, chosen),
        parameters_of(chosen.params),
        (machine,) * chosen.peers,
        Link(server, server_down),
        chosen.rtt_ms / 1000.0,
    )


def rule_of(name: str, chosen: Namespace) -> RoundRule:
    """The rule of a strategy, by the name that people type. Raises `SettingError`."""
    kind = strategy_of(name.replace("-", "_"))
    codecs: dict[str, Any] = {}
    if chosen.codec == "auto":
        codecs = {"codec": "auto"}
    elif chosen.codec:
        codecs = {way: Codec[chosen.codec.upper()] for way in ("up", "down")}
    if issubclass(kind, SparseLocalUpdates):  # it is its way up
        codecs.pop("up", None)
    if issubclass(kind, EveryStep):
        rule = kind(target_batch=chosen.batch * chosen.peers, **codecs).rule(_INNER)
    else:
        rule = kind(steps=chosen.inner_steps, batch=chosen.batch, **codecs).rule(_INNER)
    check_rule(rule, SessionSettings(), _SAMPLES)
    return rule


def parameters_of(text: str) -> int:
    """124M, 1.3B, 800k, 109386. Raises `SettingError`."""
    found = _SIZE.fullmatch(text.strip().replace(",", "").replace("_", ""))
    count = round(float(found[1]) * _FACTORS[found[2].lower()]) if found else 0
    if not 0 < count <= 10**13:
        raise SettingError(f"--params is {text!r}.", todo="Say how many: 124M, 1.3B, 800k or 109386.")
    return count
