"""Hypothesis strategies for what crosses a wire."""

from __future__ import annotations

import typing

from hypothesis import strategies as st

from jupyter_swarm.protocol import messages
from jupyter_swarm.protocol.frames import MAX_FRAME_BYTES, Header, Kind
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, Stream
from jupyter_swarm.protocol.rules import Codec

# JSON has no NaN or infinity, and msgspec's integers have 64 bits.
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))

FROM_MEMBER = typing.get_args(messages.FromMember)
TO_MEMBER = typing.get_args(messages.ToMember)

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


def a_message(kind: type[messages.Message]) -> st.SearchStrategy[messages.Message]:
    """Any message of one type."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: st.from_type(hints[name]) for name in kind.__struct_fields__})


headers = st.builds(
    Header, kind=st.sampled_from(Kind), stream=st.sampled_from(Stream), codec=st.sampled_from(Codec), session=u64,
    generation=u32, round=u64, number=u64, shard=u32, start=u64, count=st.integers(1, CHUNK_ELEMENTS),
    size=st.integers(0, 5000), attempt=u32, fragment=u16,
)  # fmt: skip


def frame(header: Header) -> bytearray:
    """The header, and a payload of the size that it says."""
    assert header.size <= MAX_FRAME_BYTES
    buffer = bytearray(64 + header.size)
    header.pack_into(buffer)
    return buffer
