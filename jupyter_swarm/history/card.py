"""The run card: what explains a run afterwards, as JSON for programs and as Markdown for people."""

from __future__ import annotations

import datetime as dt
import functools
import html
import importlib.metadata
import platform
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import xarray as xr

from ..decisions.links import codecs_text
from ..protocol.rules import RoundRule, SessionSettings, SessionSpec, StrategyChange
from .rows import HELD_OUT, MemberRow

CARD_VERSION = 1
_SOFTWARE = ("jupyter_swarm", "torch", "numpy", "safetensors", "transformers", "tokenizers")


class Checkpoint(msgspec.Struct, frozen=True):
    """A stored version: its name, the SHA-256 of its manifest, the rounds behind it."""

    name: str
    sha256: str
    version: int


class Participant(MemberRow, frozen=True):
    """One peer and what it did. share: of all samples."""

    rounds: int = 0
    samples: int = 0
    share: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


class Happening(msgspec.Struct, frozen=True):
    """A line of the session's log."""

    round: int
    time: str
    text: str


class Totals(msgspec.Struct, frozen=True):
    """All rounds together. tokens: samples times predictions per sample. seconds: from the first commit to the last.
    loss: of the last round."""

    rounds: int = 0
    samples: int = 0
    tokens: int = 0
    skipped: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    loss: float | None = None
    held_out: dict[str, float] = {}


class RunCard(msgspec.Struct, frozen=True):
    """recipe, data, parent: SHA-256 of the recipe's text, of the data set's blob ('': made by the recipe) and of the
    manifest of the checkpoint that the run went on from. rules: what held from which round on. software: versions where
    this card was written."""

    name: str = ""
    session: str = ""
    recipe: str = ""
    source: str = ""
    data: str = ""
    samples: int = 0
    held_out: int = 0
    layout: str = ""
    seed: int = 0
    parent: str = ""
    checkpoints: tuple[Checkpoint, ...] = ()
    settings: SessionSettings | None = None
    rules: tuple[StrategyChange, ...] = ()
    events: tuple[Happening, ...] = ()
    peers: tuple[Participant, ...] = ()
    totals: Totals = Totals()
    software: dict[str, str] = {}
    format: int = CARD_VERSION

    @property
    def predictions(self) -> int:
        """Of each sample: tokens in a window of text, else 1."""
        return self.rules[0].rule.predictions if self.rules else 1

    def json(self) -> str:
        """All of it."""
        return msgspec.json.encode(self).decode()

    def markdown(self) -> str:
        """What a reader wants first; the recipe comes last."""
        parts = [
            f"# Run card: {_plain(self.name) or 'a training run'}",
            _facts(self),
            _peers(self),
            _rules(self),
            _log(self),
        ]
        if self.source:
            fence = "`" * (max([2, *map(len, re.findall("`+", self.source))]) + 1)
            parts.append(f"## Recipe\n\n{fence}python\n{self.source.strip()}\n{fence}")
        return "\n\n".join(part for part in parts if part) + "\n"

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def __str__(self) -> str:
        return self.markdown()

    def __repr__(self) -> str:
        total = self.totals
        return f"<RunCard of {self.session or self.name}: {total.rounds:,} rounds, {total.samples:,} samples>"


def read_card(text: str) -> RunCard:
    """The card that `RunCard.json` wrote. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(text, type=RunCard)


@functools.cache
def software() -> dict[str, str]:
    """Versions of Python, the system and the packages that numbers depend on, as far as they are installed."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in _SOFTWARE:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def card_of(
    dataset: xr.Dataset,
    spec: SessionSpec | None,
    peers: Iterable[MemberRow],
    source: str = "",
    checkpoints: Iterable[Checkpoint] = (),
) -> RunCard:
    """The card of one run's history. peers: as they are along its dimension `peer`."""
    card = RunCard(
        source=source,
        checkpoints=tuple(checkpoints),
        events=_events_of(dataset),
        peers=tuple(_peers_of(dataset, peers)),
        totals=_totals_of(dataset, spec.rule.predictions if spec else 1),
        software=software(),
    )
    if spec is None:
        return card
    return msgspec.structs.replace(
        card,
        name=spec.name,
        session=spec.session,
        recipe=spec.recipe,
        data=spec.data,
        samples=spec.samples,
        held_out=spec.held_out,
        layout=spec.layout_digest,
        seed=spec.settings.seed,
        parent=spec.parent,
        settings=spec.settings,
        rules=(StrategyChange(1, spec.rule), *spec.changes),
    )


def _events_of(dataset: xr.Dataset) -> tuple[Happening, ...]:
    columns = (dataset.event_round.values, dataset.event_time.values, dataset.event_text.values)
    return tuple(
        Happening(int(round), str(np.datetime_as_string(time, "s")), str(text))
        for round, time, text in zip(*columns, strict=True)
    )


def _peers_of(dataset: xr.Dataset, peers: Iterable[MemberRow]) -> Iterable[Participant]:
    columns = {name: dataset[name].sum("round").values for name in ("samples", "bytes_up", "bytes_down")}
    rounds = dataset.staleness.notnull().sum("round").values
    total = int(columns["samples"].sum()) or 1
    for place, peer in enumerate(peers):
        sums: dict[str, Any] = {name: int(column[place]) for name, column in columns.items()}
        share = sums["samples"] / total
        yield Participant(**msgspec.structs.asdict(peer), rounds=int(rounds[place]), share=share, **sums)


def _totals_of(dataset: xr.Dataset, predictions: int) -> Totals:
    samples = int(dataset.samples.sum())
    losses = dataset.loss.dropna("round")
    held_out = {
        str(name): float(values[-1])
        for name in dataset.data_vars
        if str(name).startswith(HELD_OUT) and (values := dataset[name].dropna("round").values).size
    }
    return Totals(
        rounds=int((dataset["round"] > 0).sum()),
        samples=samples,
        tokens=samples * predictions,
        skipped=int(dataset.skipped.sum()),
        seconds=float(dataset.seconds.sum()),
        bytes_up=int(dataset.bytes_up.sum()),
        bytes_down=int(dataset.bytes_down.sum()),
        loss=float(losses[-1]) if losses.size else None,
        held_out=held_out,
    )


def _plain(text: str) -> str:
    """What others have written (names, events), so that Markdown shows it and does not follow it."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _facts(card: RunCard) -> str:
    totals = card.totals
    rows = [
        ("session", _plain(card.session)),
        ("recipe", f"SHA-256 `{card.recipe}`" if card.recipe else ""),
        ("data", f"{card.samples:,} samples, {card.held_out:,} held out" if card.samples else ""),
        ("data set", f"SHA-256 `{card.data}`" if card.data else ""),
        ("goes on from", f"checkpoint `{card.parent}`" if card.parent else ""),
        (
            "checkpoints",
            ", ".join(f"{_plain(one.name)} (round {one.version}, `{one.sha256[:8]}`)" for one in card.checkpoints),
        ),
        ("seed", card.seed),
        ("trained", f"{totals.rounds:,} rounds, {totals.samples:,} samples, {totals.seconds / 3600:.2f} hours"),
        ("bytes", f"{totals.bytes_up / 1e6:,.1f} MB up, {totals.bytes_down / 1e6:,.1f} MB down"),
        ("skipped", f"{totals.skipped:,} samples" if totals.skipped else ""),
        ("training loss", f"{totals.loss:.4f} in the last round" if totals.loss is not None else ""),
        *(
            (f"held-out {_plain(name.removeprefix(HELD_OUT))}", f"{value:.4f}")
            for name, value in totals.held_out.items()
        ),
        ("settings", f"`{msgspec.json.encode(card.settings).decode()}`" if card.settings else ""),
        ("software", ", ".join(f"{name} {version}" for name, version in card.software.items())),
    ]
    return _table(("", ""), [row for row in rows if row[1] != ""])


def _peers(card: RunCard) -> str:
    if not card.peers:
        return ""
    rows = [
        (
            _plain(one.name),
            _plain(one.device) or "unknown",
            one.rounds,
            f"{one.samples:,}",
            f"{one.share:.1%}",
            _when(one.joined),
        )
        for one in card.peers
    ]
    return "## Peers\n\n" + _table(("peer", "device", "rounds", "samples", "share", "joined"), rows)


def _rules(card: RunCard) -> str:
    if not card.rules:
        return ""
    rows = [
        (change.round, _plain(change.rule.strategy), f"`{_optimizers(change.rule)}`", _plain(_codecs(change)))
        for change in card.rules
    ]
    return "## Strategy\n\n" + _table(("from round", "strategy", "optimizer", "codecs"), rows)


def _codecs(change: StrategyChange) -> str:
    """What the gradient travels in; where the session has chosen it, the reason says so too."""
    return change.reason or codecs_text(change.rule)


def _optimizers(rule: RoundRule) -> str:
    pair = {"inner": rule.inner_optimizer, "outer": rule.optimizer} if rule.inner_optimizer else rule.optimizer
    return msgspec.json.encode(pair).decode()


def _log(card: RunCard) -> str:
    if not card.events:
        return ""
    rows = [(one.round, one.time.replace("T", " "), _plain(one.text)) for one in card.events]
    return "## Events\n\n" + _table(("round", "time (UTC)", "what happened"), rows)


def _when(unix_time: float) -> str:
    if not unix_time:
        return "unknown"
    return f"{dt.datetime.fromtimestamp(unix_time, dt.timezone.utc):%Y-%m-%d %H:%M} UTC"
