"""What a peer has not sent of its contributions yet, and which of those that it sent may still not count."""

from __future__ import annotations

import msgspec

from ..protocol.layout import Stream
from ..protocol.messages import Welcome
from ..protocol.rules import RoundRule
from ..shards.feedback import Encoded, ErrorFeedback
from ..shards.vector import FlatVector
from .residual_file import ResidualFile, Stamp


class Residual:
    """The error feedback of one peer, with what becomes of each of its contributions. file: where it outlives this
    process, if it does."""

    def __init__(self, feedback: ErrorFeedback, file: ResidualFile | None = None) -> None:
        self._feedback = feedback
        self._file = file
        self._under_way: list[Encoded] = []
        self._accepted: list[tuple[int, Encoded]] = []
        self._stamp: Stamp | None = None
        self._restored = ""
        self._unsaved = False
        self._rests = False

    def welcome(self, welcome: Welcome) -> None:
        """This peer is in the session as `welcome` says. The first time it goes on with what is on disk."""
        first = self._stamp is None
        spec = welcome.spec
        self._stamp = Stamp(
            spec.session, welcome.peer, welcome.generation, welcome.layout.digest, version=welcome.version
        )
        if first and self._file is not None:
            stamp = self._file.load(self._stamp, self._feedback.room)
            if stamp is None:
                self._feedback.clear()
            else:
                self._feedback.base, self._restored = stamp.base, stamp.codec

    def encode(self, vector: FlatVector, rule: RoundRule, base: int) -> Encoded | None:
        """How a contribution computed from version `base` travels, if its rule keeps what is lost."""
        stream = rule.stream(Stream.GRADIENT)
        self._changes()
        if not stream.feedback or self._restored not in ("", stream.up.name):
            self._feedback.clear()
            self._accepted.clear()
            self._under_way.clear()
        self._restored = ""
        if not stream.feedback:
            return None
        encoded = self._feedback.encode(vector, stream, base)
        self._under_way.append(encoded)
        return encoded

    def accepted(self, round: int, encoded: Encoded | None) -> None:
        """It counts if the round is committed."""
        if encoded is not None:
            self._decided(encoded)
            self._accepted.append((round, encoded))

    def lost(self, encoded: Encoded | None) -> None:
        """It does not count."""
        if encoded is not None:
            self._put_back(encoded)
            self._decided(encoded)
            self._save()

    def stands_at(self, version: int, *, others_count: bool = True) -> None:
        """Rounds up to `version` are committed. others_count: whether accepted contributions to later ones may still
        be, or have gone back with their leases."""
        later = [one for one in self._accepted if one[0] > version]
        self._accepted = later if others_count else []
        if not others_count:
            for _, encoded in later:
                self._put_back(encoded)
        if self._stamp is not None:
            self._stamp = msgspec.structs.replace(self._stamp, version=version)
        self._save()

    # --- on disk

    def rests(self, rests: bool) -> None:
        """Whether this peer makes no contributions for now: then what stands is written at once."""
        self._rests = rests
        self._save()

    def finished(self) -> None:
        """The session has finished: unless it goes on, nothing of this is needed again."""
        if self._file is not None:
            self._file.void()
            self._unsaved = False

    def end(self, kept: bool) -> None:
        """This process goes, and with `kept` may come back; returns when the disk has what it is to have."""
        if self._file is None:
            return
        if kept:
            self.rests(True)
            self._file.wait()
        else:
            self._file.void()

    def _decided(self, encoded: Encoded) -> None:
        self._under_way = [one for one in self._under_way if one is not encoded]

    def _put_back(self, encoded: Encoded) -> None:
        self._changes()
        self._feedback.put_back(encoded)

    def _changes(self) -> None:
        if self._file is not None:
            self._file.void()
        self._unsaved = True

    def _save(self) -> None:
        """Write it, if it stands and is not on disk, and the disk has had its rest."""
        values = self._feedback.values
        if self._file is None or self._stamp is None or values is None:
            return
        if not self._unsaved or self._under_way or self._accepted:
            return
        if self._rests or self._file.due(values):
            stamp = msgspec.structs.replace(self._stamp, base=self._feedback.base, codec=self._feedback.codec)
            self._file.save(stamp, values)
            self._unsaved = False
