"""A contribution from its announcement until it is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..link import Upload
from ..protocol import failpoints
from ..protocol.errors import LinkError
from ..protocol.rules import RoundRule
from ..protocol.sizes import due
from ..shards.feedback import Encoded
from ..shards.outgoing import Envelope, FrameWriter, contribution_frames
from ..shards.vector import FlatVector

_T = TypeVar("_T")
Send = Callable[[Iterable[tuple[memoryview, ...]]], Upload]


class Contribution:
    """What was announced as `key`, computed from version `base`. vector: None if what was computed came out as no
    numbers, and the announcement said so. encoded: the gradients, where what is not sent of them is kept. round: for
    which it was granted."""

    def __init__(self, key: int, base: int, vector: FlatVector | None, encoded: Encoded | None = None) -> None:
        self.key = key
        self.base = base
        self.encoded = encoded
        self.round = 0
        self._vector = vector
        self._upload: Upload | None = None

    def upload(self, send: Send, writer: FrameWriter, envelope: Envelope, rule: RoundRule) -> None:
        """Begin to send it. Only the first time counts."""
        if self._upload is not None or self._vector is None:
            return
        self.round = envelope.round
        frames = contribution_frames(writer, envelope, self._vector, rule, self.encoded)
        half = sum(len(due(shard, rule, self.round)) for shard in self._vector.layout.trained_shards) // 2
        self._upload = send(_reaching_half(half, frames))

    def end(self) -> None:
        """Send nothing more of it: when this returns, its numbers may be overwritten. That takes as long as the frame
        under way does, or until the connection is lost. Raises what went wrong here while it was sent."""
        if self._upload is None:
            return
        self._upload.cancel()
        self._upload.wait()
        if self._upload.error is not None and not isinstance(self._upload.error, LinkError):
            raise self._upload.error


def _reaching_half(index: int, frames: Iterable[_T]) -> Iterator[_T]:
    for number, frame in enumerate(frames):
        if number == index:
            failpoints.reach("mid-upload")
        yield frame
