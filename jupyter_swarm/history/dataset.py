"""A run as an `xarray.Dataset`: what every round was, and what every peer did in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xarray as xr

from ..protocol.records import RoundRecord
from ..protocol.rules import SessionSpec
from ..store.rows import Event
from .card import Checkpoint, card_of
from .rounds import PART, Round
from .rows import HELD_OUT, MemberRow, Plain, Rows

Array = npt.NDArray[Any]
Variables = dict[str, tuple[Any, ...]]

_BYTES = ("bytes_up", "bytes_down")


def build(
    records: Iterable[Plain | RoundRecord],
    metrics: Iterable[Plain] = (),
    events: Iterable[Plain] = (),
    members: Iterable[Plain] = (),
    spec: SessionSpec | None = None,
    *,
    source: str = "",
    checkpoints: Iterable[Plain] = (),
) -> xr.Dataset:
    """The history of one run from what a server gives out, in any order and with repetitions; see `dataset_of`."""
    rows = Rows()
    rows.add(records, metrics, events)
    rows.set_members(members)
    return dataset_of(rows, spec, source=source, checkpoints=checkpoints)


def dataset_of(
    rows: Rows,
    spec: SessionSpec | None = None,
    *,
    source: str = "",
    checkpoints: Iterable[Plain] = (),
    seconds: Sequence[float] | None = None,
) -> xr.Dataset:
    """Dimensions `round` (1 is the first; 0 stands for an evaluation before it), `peer` (names), `event`.

    Of a peer that took no part in a round counts are 0, other numbers NaN, texts ''; so sums are right as they are.
    A held-out metric is NaN except where there was an evaluation: `dropna("round")` leaves those. `peer_loss` is the
    mean over one peer's samples, `loss` over all. `run_card` is the JSON of a `RunCard`; it is a variable because
    attributes are unfolded wherever a dataset is shown. source: the recipe's text, checkpoints: what there is to go on
    from, both for the card. seconds: that each round took, where it is known better than by the time of the commits.
    """
    committed = rows.rounds
    rounds = _rounds(rows, committed)
    parts = np.concatenate([np.zeros(0, PART), *(one.parts for one in committed)])
    peers = _peers(rows, parts)
    table = _Table(rows, committed, parts, rounds, [peer.member for peer in peers])
    variables = {
        **_of_peers(table, rows.reasons.texts),
        **_of_bytes(rows, table),
        **_of_rounds(committed, rounds, seconds or _seconds(committed)),
    }
    variables |= _of_evaluations(rows, table)
    variables |= _of_events(rows.events, {peer.member: peer.name for peer in peers} | _names(rows.members))
    times = _spread([one.unix_time for one in committed], rounds, math.nan)
    coordinates = {
        "round": ("round", rounds, {"long_name": "round"}),
        "peer": ("peer", _texts(peer.name for peer in peers), {"long_name": "peer"}),
        "peer_id": ("peer", _texts(peer.member for peer in peers), {"long_name": "peer's id"}),
        "device": ("peer", _texts(peer.device for peer in peers), {"long_name": "device"}),
        "muted": (
            "peer",
            np.array([peer.muted for peer in peers], bool),
            {"long_name": "whether it has no curve"},
        ),
        "time": ("round", _times(times), {"long_name": "time of the commit (UTC)"}),
    }
    dataset = xr.Dataset(variables, coordinates)
    dataset.attrs = _attributes(spec)
    stored = msgspec.convert(list(checkpoints), list[Checkpoint])
    card = card_of(dataset, spec, peers, source, stored)
    # An object: as an array of letters it would be copied into each row of a table.
    text = np.array(card.json(), object)
    return dataset.assign(run_card=((), text, {"long_name": "run card (JSON)"}))


class _Table:
    """Contributions by (round, peer); several of one peer in one round count together."""

    def __init__(self, rows: Rows, committed: list[Round], parts: Array, rounds: Array, members: list[str]) -> None:
        self.members = {member: column for column, member in enumerate(members)}
        self.rows = {int(round): row for row, round in enumerate(rounds)}
        self.shape = (len(rounds), len(members))
        self._parts = parts
        columns = np.array([self.members.get(peer, -1) for peer in rows.peers.texts], np.intp)
        row = np.repeat([self.rows[one.round] for one in committed], [len(one.parts) for one in committed])
        self._at = (row.astype(np.intp), columns[parts["peer"]])
        self.empty = np.ones(self.shape, bool)
        self.empty[self._at] = False

    def counts(self, of: str) -> Array:
        """int64, 0 where there was no contribution. of: a field of `PART`."""
        result = np.zeros(self.shape, np.int64)
        np.add.at(result, self._at, self._parts[of])
        return result

    def sums(self, of: str) -> Array:
        """float64, NaN where there was no contribution."""
        result = np.zeros(self.shape)
        np.add.at(result, self._at, self._parts[of])
        result[self.empty] = math.nan
        return result

    def staleness(self) -> Array:
        """The oldest of each."""
        result = np.full(self.shape, -math.inf)
        np.maximum.at(result, self._at, self._parts["late"])
        result[self.empty] = math.nan
        return result

    def texts(self, of: str, texts: list[str]) -> Array:
        """'' where there was no contribution. of: a field of `PART`, a place among `texts`."""
        found = np.array(["", *texts], object)[self._parts[of] + 1]
        said = found != ""
        result = np.full(self.shape, "", object)
        result[self._at[0][said], self._at[1][said]] = found[said]
        return result


def _of_peers(table: _Table, reasons: list[str]) -> Variables:
    samples = table.counts("samples")
    loss_sum = table.sums("loss_sum")
    loss_count = table.counts("loss_count")
    computing = table.sums("seconds")
    both = ("round", "peer")
    return {
        "peer_loss": (both, _ratio(loss_sum, loss_count), _units("1", "training loss of one peer")),
        "loss_sum": (both, loss_sum, _units("1", "sum of the training loss over samples")),
        "loss_count": (both, loss_count, _units("sample", "samples in loss_sum")),
        "samples": (both, samples, _units("sample", "samples computed")),
        "own_samples": (both, table.counts("own"), _units("sample", "samples of the peer's own data")),
        "inner_steps": (both, table.counts("steps"), _units("step", "inner steps")),
        "staleness": (both, table.staleness(), _units("round", "how late a contribution counted")),
        "computing": (both, computing, _units("s", "time from grant to end of the work")),
        "samples_per_second": (both, _ratio(samples, computing), _units("sample/s", "speed while computing")),
        "waiting": (both, table.sums("waiting"), _units("s", "time without work")),
        "waiting_reason": (both, table.texts("reason", reasons), {"long_name": "what the peer waited for"}),
    }


def _of_bytes(rows: Rows, table: _Table) -> Variables:
    """What the server counted on each peer's connection."""
    found = {name: np.zeros(table.shape, np.int64) for name in _BYTES}
    for name, numbers in found.items():
        for row in rows.metrics(name):
            if row.member in table.members and row.version in table.rows and row.mean is not None:
                numbers[table.rows[row.version], table.members[row.member]] = round(row.mean * max(row.count, 1))
    both = ("round", "peer")
    return {
        "bytes_up": (both, found["bytes_up"], _units("B", "bytes from the peer to the server")),
        "bytes_down": (both, found["bytes_down"], _units("B", "bytes from the server to the peer")),
    }


def _of_rounds(committed: list[Round], rounds: Array, seconds: Sequence[float]) -> Variables:
    def spread(values: Iterable[Any], empty: Any) -> Array:
        return _spread(list(values), rounds, empty)

    inner = (one.inner_learning_rate or math.nan for one in committed)
    return {
        "loss": ("round", spread((one.mean_loss for one in committed), math.nan), _units("1", "training loss")),
        "seconds": ("round", spread(seconds, math.nan), _units("s", "time since the round before")),
        "learning_rate": (
            "round", spread((one.learning_rate for one in committed), math.nan), _units("1", "learning rate"),
        ),
        "inner_learning_rate": ("round", spread(inner, math.nan), _units("1", "learning rate of inner steps")),
        "strategy": ("round", spread((one.strategy for one in committed), ""), {"long_name": "strategy"}),
        "samples_done": (
            "round", spread((one.samples_done for one in committed), 0), _units("sample", "samples so far"),
        ),
        "contributions": (
            "round", spread((one.contributions for one in committed), 0), _units("1", "contributions merged"),
        ),
        "skipped": ("round", spread((one.skipped for one in committed), 0), _units("sample", "samples given up")),
    }  # fmt: skip


def _of_evaluations(rows: Rows, table: _Table) -> Variables:
    found: Variables = {}
    for name in rows.names:
        if name.startswith(HELD_OUT):
            values = np.full(table.shape[0], math.nan)
            for row in rows.metrics(name):
                if not row.member and row.version in table.rows:
                    values[table.rows[row.version]] = row.value
            found[name] = ("round", values, _units("1", f"held-out {name.removeprefix(HELD_OUT).replace('_', ' ')}"))
    return found


def _of_events(events: list[Event], names: dict[str, str]) -> Variables:
    return {
        "event_time": ("event", _times([event.unix_time for event in events]), {"long_name": "time (UTC)"}),
        "event_round": (
            "event", np.array([event.round for event in events], np.int64), {"long_name": "round under way"},
        ),
        "event_level": ("event", _texts(event.level for event in events), {"long_name": "level"}),
        "event_text": ("event", _texts(event.text for event in events), {"long_name": "what happened"}),
        "event_peer": ("event", _texts(names.get(event.member, "") for event in events), {"long_name": "peer meant"}),
    }  # fmt: skip


def _rounds(rows: Rows, committed: list[Round]) -> Array:
    """Those with a record, and 0 if something was evaluated before the first."""
    rounds = [one.round for one in committed]
    held_out = [name for name in rows.names if name.startswith(HELD_OUT)]
    early = any(not row.version for name in held_out for row in rows.metrics(name))
    return np.array([0, *rounds] if early else rounds, np.int64)


def _peers(rows: Rows, parts: Array) -> list[MemberRow]:
    """Who contributed or moved bytes, in the order of joining, with names that differ."""
    ids = rows.peers.texts
    active = {ids[place] for place in np.unique(parts["peer"])}
    active |= {row.member for name in _BYTES for row in rows.metrics(name) if row.member and row.mean}
    known = [member for member in rows.members if member.member in active]
    unknown = sorted(active - {member.member for member in known})
    found = known + [MemberRow(member, member) for member in unknown]
    again = Counter(member.name for member in found)
    return [
        msgspec.structs.replace(member, name=f"{member.name} ({member.member})") if again[member.name] > 1 else member
        for member in found
    ]


def _names(members: Iterable[MemberRow]) -> dict[str, str]:
    return {member.member: member.name for member in members}


def _seconds(committed: list[Round]) -> list[float]:
    """Between commits; nobody knows when the first round really began, or one after a gap."""
    result = []
    last: Round | None = None
    for one in committed:
        follows = last is not None and last.round == one.before
        result.append(max(one.unix_time - last.unix_time, 0.0) if last and follows else math.nan)
        last = one
    return result


def _spread(values: list[Any], rounds: Array, empty: Any) -> Array:
    """One value for each committed round, at its place."""
    offset = len(rounds) - len(values)
    return np.array([*[empty] * offset, *values], np.int64 if isinstance(empty, int) else type(empty))


def _ratio(sums: Array, counts: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.where(counts > 0, sums / counts, math.nan)
    return result


def _texts(values: Iterable[str]) -> Array:
    return np.array(list(values), str)


def _times(seconds: Iterable[float]) -> Array:
    """datetime64[ns] of seconds since 1970."""
    values = np.array(list(seconds), float)
    result = np.full(values.shape, "NaT", "datetime64[ns]")
    known = np.isfinite(values)
    result[known] = (values[known] * 1e6).round().astype("datetime64[us]")
    return result


def _units(units: str, long_name: str) -> dict[str, str]:
    return {"units": units, "long_name": long_name}


def _attributes(spec: SessionSpec | None) -> Mapping[str, Any]:
    if spec is None:
        return {"title": "a training run"}
    rules = [spec.rule, *(change.rule for change in spec.changes)]
    return {
        "title": spec.name,
        "session": spec.session,
        "recipe": spec.recipe,
        "strategy": ", then ".join(rule.strategy for rule in rules),
        "seed": spec.settings.seed,
        "predictions": spec.rule.predictions,
        "settings": msgspec.json.encode(spec.settings).decode(),
    }
