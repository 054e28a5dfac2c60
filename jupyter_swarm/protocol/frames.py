"""The binary frame: a header of 64 bytes, then the payload, raw.

    offset  type  field
         0  2s    magic "JS"
         2  u8    format version, 1
         3  u8    kind          (Kind)
         4  u8    stream        (Stream)
         5  u8    codec         (Codec)
         6  u16   fragment      0 unless the parameters are exchanged in parts
         8  u64   session       first 8 bytes of SHA-256 of the session's id
        16  u32   generation    raised at each start of the server
        20  u32   attempt       packets: which attempt at the round this is
        24  u64   round         contributions and packets: the version they lead to; snapshots: the version they are
        32  u64   number        contributions: as granted; snapshots: as offered
        40  u32   shard
        44  u32   count         elements
        48  u64   start         first element, in the flat vector
        56  u32   size          bytes of payload
        60  u32   flags         0

Little-endian. 64 bytes keep the payload aligned for any dtype when header and payload are received into one buffer.
"""

from __future__ import annotations

import enum
import hashlib
import struct

import msgspec

from .errors import ProtocolError
from .layout import CHUNK_ELEMENTS, Stream
from .rules import Codec

FRAME_VERSION = 1
HEADER_BYTES = 64
MAX_FRAME_BYTES = HEADER_BYTES + 8 * CHUNK_ELEMENTS + 4096
"""No frame is larger: a chunk of 64-bit elements and room for a codec's scales."""

Buffer = bytes | bytearray | memoryview
"""What holds bytes, here and everywhere."""

_MAGIC = b"JS"
_STRUCT = struct.Struct("<2sBBBBHQIIQQIIQII")


class Kind(enum.IntEnum):
    """What a frame is part of. ECHO is sent back as it came, to measure a link."""

    CONTRIBUTION = 1
    PACKET = 2
    SNAPSHOT = 3
    STATE = 4
    ECHO = 5


class Header(msgspec.Struct, frozen=True, gc=False):
    """The fields of a frame's header; the module's docstring says what each means."""

    kind: Kind
    stream: Stream
    codec: Codec
    session: int
    generation: int
    round: int
    number: int
    shard: int
    start: int
    count: int
    size: int
    attempt: int = 0
    fragment: int = 0

    def pack_into(self, buffer: bytearray | memoryview) -> None:
        """Write the header into the first 64 bytes of `buffer`."""
        _STRUCT.pack_into(
            buffer, 0, _MAGIC, FRAME_VERSION, self.kind, self.stream, self.codec, self.fragment, self.session,
            self.generation, self.attempt, self.round, self.number, self.shard, self.count, self.start, self.size, 0,
        )  # fmt: skip


def session_tag(session: str) -> int:
    """The 64-bit tag by which frames name their session."""
    return int.from_bytes(hashlib.sha256(session.encode()).digest()[:8], "little")


def read_header(frame: Buffer) -> Header:
    """Check and read the header of a whole frame. Raises `ProtocolError`: truncated, oversized, not a frame."""
    if len(frame) < HEADER_BYTES:
        raise ProtocolError(f"A frame of {len(frame)} bytes is too short for its header of {HEADER_BYTES} bytes.")
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"A frame of {len(frame)} bytes is larger than the {MAX_FRAME_BYTES} that are allowed.")
    (
        magic, version, kind, stream, codec, fragment, session, generation, attempt, round_, number, shard, count,
        start, size, flags,
    ) = _STRUCT.unpack_from(frame)  # fmt: skip
    if magic != _MAGIC or version != FRAME_VERSION or flags:
        raise ProtocolError(
            f"These bytes are not a frame of format {FRAME_VERSION}.", todo="Install the same jupyter_swarm everywhere."
        )
    if size != len(frame) - HEADER_BYTES:
        raise ProtocolError(f"A frame says it carries {size} bytes and carries {len(frame) - HEADER_BYTES}.")
    if not 0 < count <= CHUNK_ELEMENTS:
        raise ProtocolError(f"A frame of {count} elements; 1 to {CHUNK_ELEMENTS} are allowed.")
    try:
        known = Kind(kind), Stream(stream), Codec(codec)
    except ValueError as error:
        raise ProtocolError(f"A frame's header has an unknown value: {error}.") from None
    return Header(
        *known, session, generation, round_, number, shard, start, count, size, attempt=attempt, fragment=fragment
    )


def payload_of(frame: Buffer) -> memoryview:
    """The payload, without a copy."""
    return memoryview(frame)[HEADER_BYTES:]
