"""What a peer has not sent of its contributions yet, and which of those that it sent may still not count."""

from __future__ import annotations

from ..protocol.layout import Stream
from ..protocol.rules import RoundRule
from ..shards.feedback import Encoded, ErrorFeedback
from ..shards.vector import FlatVector


class Residual:
    """The error feedback of one peer, with what becomes of each of its contributions."""

    def __init__(self, feedback: ErrorFeedback) -> None:
        self._feedback = feedback
        self._accepted: list[tuple[int, Encoded]] = []

    def encode(self, vector: FlatVector, rule: RoundRule, base: int) -> Encoded | None:
        """How a contribution computed from version `base` travels, if its rule keeps what is lost."""
        stream = rule.stream(Stream.GRADIENT)
        if not stream.feedback:
            self._feedback.clear()
            self._accepted.clear()
            return None
        return self._feedback.encode(vector, stream, base)

    def accepted(self, round: int, encoded: Encoded | None) -> None:
        """It counts if the round is committed."""
        if encoded is not None:
            self._accepted.append((round, encoded))

    def lost(self, encoded: Encoded | None) -> None:
        """It does not count."""
        if encoded is not None:
            self._feedback.put_back(encoded)

    def stands_at(self, version: int, *, others_count: bool = True) -> None:
        """Rounds up to `version` are committed. others_count: whether accepted contributions to later ones may still
        be, or have gone back with their leases."""
        later = [one for one in self._accepted if one[0] > version]
        self._accepted = later if others_count else []
        if not others_count:
            for _, encoded in later:
                self._feedback.put_back(encoded)
