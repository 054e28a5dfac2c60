"""Typed control messages: JSON in WebSocket text messages, told apart by their `type`.

Numbers travel in binary frames (see `frames`); a message never carries tensors. Whatever depends on where the session
stands carries the generation (raised at each start of the server) and the round, so that anything late is recognised.
Rounds count from 1: round r makes version r from version r - 1.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from .errors import ProtocolError
from .layout import Layout
from .records import ShardDigest
from .rules import FIRST_CODECS, OptimizerRule, SessionSettings, SessionSpec, StrategyChange

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 8 << 20
"""No message is larger; the largest is a layout of many tensors."""


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Base of all messages; `type` on the wire is the class's name in lower case."""


# --- both ways


class Heartbeat(Message, frozen=True):
    """Sent every 20 s in both directions, so that proxies keep an idle connection and silence means loss.

    One with `ask` is to be answered at once by one with the same number as `answer` and a `filler` of `wanted`
    characters: whoever asks measures by its own clock how long that takes, and how much came meanwhile. The numbers are
    drawn, so that nobody answers before the question has arrived. What `filler` says means nothing.
    """

    ask: int = 0
    answer: int = 0
    wanted: int = 0
    filler: str = ""


# --- a peer or a holder to the coordinator


class Hello(Message, frozen=True):
    """The first message on a connection. `version` is the version of the view that the sender still has (-1: none);
    `token` makes it the member it was before; `agreed` is the SHA-256 of the recipe it agreed to run. `own_samples`:
    how many samples of its own it trains on, which stay with it (0: it takes the session's). `codecs`: those that the
    sender's package knows. `free_memory`: bytes, of the device that it trains on."""

    protocol: int
    software: str
    role: Literal["peer", "holder"]
    name: str
    agreed: str = ""
    layout_digest: str = ""
    token: str = ""
    generation: int = 0
    version: int = -1
    device: str = "cpu"
    own_samples: int = 0
    codecs: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)] = FIRST_CODECS
    free_memory: int = 0


class WantSnapshot(Message, frozen=True):
    """Asks for a snapshot of the current version: first without `number`, which is answered by a `SnapshotOffer`;
    then, with the offer's number, for those of its chunks that the sender lacks."""

    generation: int
    number: int = 0
    chunks: tuple[int, ...] = ()


class Synced(Message, frozen=True):
    """The sender's view is complete at `version`; `digest` is the SHA-256 over all of it."""

    generation: int
    version: int
    digest: str


class WantWork(Message, frozen=True):
    """The sender has nothing to compute and its view is at `version`."""

    generation: int
    version: int


class LeaseDone(Message, frozen=True):
    """A lease is computed, or failed with the reason `failed`. `sums` holds the sums of an evaluation's metrics over
    `count` samples. `computed`: how many of the samples of a lease of steps, from its start on, are computed; the rest
    goes back (-1: all)."""

    generation: int
    lease: int
    failed: str = ""
    sums: dict[str, float] = {}
    count: int = 0
    computed: int = -1


class Announce(Message, frozen=True):
    """A contribution is ready to be sent. `leases` are all that went into it; norms are L2 norms by stream name;
    `key` is the sender's own number for it; `steps` the inner steps it is made of."""

    generation: int
    round: int
    attempt: int
    key: int
    base_version: int
    leases: tuple[int, ...]
    norms: dict[str, float]
    loss_sum: float
    loss_count: int
    bytes: int
    steps: int = 0


class ViewDigest(Message, frozen=True):
    """SHA-256 of one shard of the sender's view, sent after each commit."""

    generation: int
    version: int
    shard: int
    sha256: str


class Progress(Message, frozen=True):
    """Telemetry, decides nothing: samples per second, seconds spent computing and waiting since the last one; bytes of
    `memory` that the process has, and that are free on the device that it trains on."""

    samples_per_second: float
    computing: float
    waiting: float
    memory: int = 0
    free_memory: int = 0


class Control(Message, frozen=True):
    """Asks to pause or resume this peer only (a paused peer gets no leases)."""

    action: Literal["pause", "resume"]


class Goodbye(Message, frozen=True):
    """The sender leaves on purpose; its leases return at once."""

    reason: str = ""


# --- the coordinator to a peer


class Welcome(Message, frozen=True):
    """Answers `Hello`. `token` is this member's identity, to be kept secret; `peer` its id, `name` as shown."""

    peer: str
    name: str
    token: str
    generation: int
    version: int
    spec: SessionSpec
    layout: Layout
    samples_done: int


class SnapshotOffer(Message, frozen=True):
    """A pinned snapshot of `version`: one SHA-256 for each chunk, chunks in the order of shards and their frames."""

    generation: int
    number: int
    version: int
    digests: tuple[str, ...]


class LeaseGrant(Message, frozen=True):
    """Work: samples at the positions [start, stop). For evaluations these are indices of the held-out part; with `own`
    they count the receiver's own data. In a round of steps `learning_rate` is that of its inner steps."""

    generation: int
    round: int
    attempt: int
    lease: int
    kind: Literal["train", "evaluate"]
    start: int
    stop: int
    learning_rate: float = 0.0
    own: bool = False


class ContributeNow(Message, frozen=True):
    """The round has no more work to give, or others wait: announce what you have computed for it. A lease of steps that
    is being computed ends with the step under way."""

    generation: int
    round: int
    attempt: int


class Grant(Message, frozen=True):
    """Upload the contribution announced as `key`, in frames with `number`, within `seconds`."""

    generation: int
    round: int
    attempt: int
    key: int
    number: int
    seconds: float


class Accepted(Message, frozen=True):
    """Every holder has all of contribution `number`; it counts if this attempt at the round commits."""

    generation: int
    key: int
    number: int


class Dropped(Message, frozen=True):
    """The contribution announced as `key` does not count, and why. Its leases have been given back."""

    generation: int
    key: int
    reason: str


class Commit(Message, frozen=True):
    """Version `round` is durable: apply its packets. `digest_shard` is the shard whose digest to report."""

    generation: int
    round: int
    attempt: int
    samples_done: int
    contributions: int
    mean_loss: float | None
    learning_rate: float
    digest_shard: int


class Abort(Message, frozen=True):
    """This attempt at the round is void: forget its packets and leases; the view stays as it is."""

    generation: int
    round: int
    attempt: int
    reason: str


class Evaluated(Message, frozen=True):
    """Means of the held-out metrics at `version`, over `count` samples."""

    generation: int
    version: int
    metrics: dict[str, float]
    count: int


class Status(Message, frozen=True):
    """What the session is doing, and the reason in words; `state` is for programs."""

    generation: int
    state: Literal["waiting", "training", "paused", "finished"]
    reason: str


class Settings(Message, frozen=True):
    """The settings from the next round on."""

    generation: int
    settings: SessionSettings


class Strategy(Message, frozen=True):
    """The rules of the rounds to come: all changes of the session's spec, as they are now."""

    generation: int
    changes: tuple[StrategyChange, ...]


class Resync(Message, frozen=True):
    """The sender's view of the receiver's state is wrong (other digest, packets lost): fetch a snapshot."""

    generation: int
    reason: str


class Refused(Message, frozen=True):
    """The connection will be closed; `retry` says whether connecting again can help."""

    what: str
    why: str = ""
    todo: str = ""
    retry: bool = False


# --- the coordinator to a holder


class HolderWelcome(Message, frozen=True):
    """Answers a holder's `Hello`."""

    holder: str
    token: str
    generation: int
    spec: SessionSpec
    layout: Layout


class Adopt(Message, frozen=True):
    """Hold these shards from version `version` on. STATE frames with the values and optimizer slots come before it;
    `step` is the number of optimizer steps behind those slots."""

    generation: int
    version: int
    step: int
    shards: tuple[int, ...]


class Expect(Message, frozen=True):
    """A contribution was granted: take its frames."""

    generation: int
    round: int
    number: int


class Forget(Message, frozen=True):
    """Drop what is staged of a contribution."""

    generation: int
    number: int


class Prepare(Message, frozen=True):
    """Merge the accepted contributions in this order, with these weights, and compute the next version. scales: what
    the gradient of each is multiplied with besides, if anything."""

    generation: int
    round: int
    attempt: int
    contributions: tuple[tuple[int, int], ...]
    total_weight: int
    optimizer: OptimizerRule
    learning_rate: float
    clip_norm: float
    scales: tuple[float, ...] = ()


class ClipBy(Message, frozen=True):
    """The L2 norm of the merged gradient over all holders, for those that wait for it to clip."""

    generation: int
    round: int
    attempt: int
    norm: float


class Install(Message, frozen=True):
    """The round is committed: the prepared state becomes the state."""

    generation: int
    round: int
    attempt: int


class WantState(Message, frozen=True):
    """Send the state of all shards held, as STATE frames, then `StateSent`: for a snapshot, or to hand shards over."""

    generation: int
    version: int


class Revert(Message, frozen=True):
    """The attempt is void: forget what was prepared and staged for it."""

    generation: int
    round: int
    attempt: int


# --- a holder to the coordinator


class Adopted(Message, frozen=True):
    """The shards of the last `Adopt` are held."""

    generation: int
    version: int


class Staged(Message, frozen=True):
    """All shards of a contribution are here. `squares`: sum of squares of the decoded numbers by stream name."""

    generation: int
    number: int
    squares: dict[str, float]


class StageFailed(Message, frozen=True):
    """A contribution was refused, and why."""

    generation: int
    number: int
    reason: str


class PartialNorm(Message, frozen=True):
    """Sum of squares of this holder's part of the merged gradient."""

    generation: int
    round: int
    attempt: int
    square: float


class Prepared(Message, frozen=True):
    """The next version is computed and its packets are sent."""

    generation: int
    round: int
    attempt: int
    digests: tuple[ShardDigest, ...]


class PrepareFailed(Message, frozen=True):
    """The next version could not be computed, and why."""

    generation: int
    round: int
    attempt: int
    reason: str


class StateSent(Message, frozen=True):
    """The STATE frames of this holder for the snapshot of `version` are all sent."""

    generation: int
    version: int
    step: int


FromMember = (
    Heartbeat | Hello | WantSnapshot | Synced | WantWork | LeaseDone | Announce | ViewDigest | Progress | Control
    | Goodbye | Adopted | Staged | StageFailed | PartialNorm | Prepared | PrepareFailed | StateSent
)  # fmt: skip
"""What the coordinator reads."""
ToMember = (
    Heartbeat | Welcome | SnapshotOffer | LeaseGrant | ContributeNow | Grant | Accepted | Dropped | Commit | Abort
    | Evaluated | Status | Settings | Strategy | Resync | Refused | HolderWelcome | Adopt | Expect | Forget | Prepare
    | ClipBy | Install | WantState | Revert
)  # fmt: skip
"""What peers and holders read."""

_from_member = msgspec.json.Decoder(FromMember)
_to_member = msgspec.json.Decoder(ToMember)
_encoder = msgspec.json.Encoder()


def encode(message: Message) -> str:
    """The text of a message."""
    return _encoder.encode(message).decode()


def read_from_member(text: str | bytes) -> FromMember:
    """Read what a peer or holder sent. Raises `ProtocolError`."""
    message: FromMember = _read(_from_member, text)
    return message


def read_to_member(text: str | bytes) -> ToMember:
    """Read what the coordinator sent. Raises `ProtocolError`."""
    message: ToMember = _read(_to_member, text)
    return message


def _read(decoder: msgspec.json.Decoder[Any], text: str | bytes) -> Any:
    if len(text) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"A message of {len(text)} bytes is larger than the {MAX_MESSAGE_BYTES} that are allowed.")
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ProtocolError(
            f"A message could not be read: {error}.", todo="Install the same jupyter_swarm version on both ends."
        ) from None
