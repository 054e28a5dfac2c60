"""How fast are the codecs? Encoding, decoding and merging a chunk, beside torch's addition and a copy of memory.

    python -m tests.benchmarks.codecs [--seconds N] [--threads N] [--device cpu|cuda] [--json FILE]

All speeds are GB of fp32 numbers a second, whatever the codec makes of them, on chunks as they travel (1 MiB of fp32),
which are in the cache. Numbers are on the device, bytes on the CPU, and getting from one to the other is a part of it.
*merge* is what a holder does with a contribution: decode, weigh, add; *check* is what it does when one arrives: read
all of it for the norm. *feedback* is what a peer does: decay, add, encode, take off what is sent.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from jupyter_swarm import Codec
from jupyter_swarm.peer.compute import pick_device
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, Stream
from jupyter_swarm.protocol.rules import StreamRule
from jupyter_swarm.protocol.sizes import encoded_bytes
from jupyter_swarm.shards.codecs import accumulate, decode, encode, new_scratch, square_of
from jupyter_swarm.shards.feedback import ErrorFeedback
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector

from .harness import Failed
from .reporting import Figures, main, table

CODECS = (Codec.FP32, Codec.FP16, Codec.BF16, Codec.INT8, Codec.INT4, Codec.TOPK)
_BYTES = 4 * CHUNK_ELEMENTS


def speed(work: Callable[[], object], seconds: float, count: int = _BYTES) -> float:
    """GB a second of something that works on so many bytes."""
    work()
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
        rounds += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count * rounds / (time.perf_counter() - start) / 1e9


def of_codec(codec: Codec, seconds: float, device: torch.device) -> dict[str, float]:
    values = torch.randn(CHUNK_ELEMENTS, generator=torch.Generator().manual_seed(1)).to(device)
    out, sums, scratch = torch.empty_like(values), torch.zeros_like(values), new_scratch()
    buffer = bytearray(encoded_bytes(codec, CHUNK_ELEMENTS))
    layout = layout_of(nn.Linear(1024, 255))
    contribution, feedback = FlatVector(layout, device=device), ErrorFeedback(layout, device)
    contribution.sections[Stream.PARAMETERS].normal_()
    stream = StreamRule(Stream.GRADIENT, up=codec, merge="mean", feedback=0.95)
    size = 4 * layout.parameters
    return {
        "times fewer": _BYTES / len(buffer),
        "encode": speed(lambda: encode(codec, values, buffer, scratch), seconds),
        "decode": speed(lambda: decode(codec, buffer, out), seconds),
        "merge": speed(lambda: accumulate(codec, buffer, 0.5, sums, scratch), seconds),
        "check": speed(lambda: square_of(codec, buffer, CHUNK_ELEMENTS, scratch), seconds),
        "feedback": speed(lambda: feedback.encode(contribution, stream, 0), seconds, size),
    }


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(chosen.threads)
    try:
        device = pick_device(chosen.device)
    except SettingError as error:
        raise Failed(str(error)) from error
    one, other = torch.randn(CHUNK_ELEMENTS).to(device), torch.randn(CHUNK_ELEMENTS).to(device)
    figures: Figures = {
        "copy": speed(lambda: one.copy_(other), chosen.seconds),
        "torch.add": speed(lambda: torch.add(one, other, out=one), chosen.seconds),
        "codecs": {codec.name: of_codec(codec, chosen.seconds, device) for codec in CODECS},
    }
    print(f"\nGB/s of fp32: a copy {figures['copy']:.1f}, torch.add {figures['torch.add']:.1f}")
    heads = ("codec", *figures["codecs"]["FP32"])
    table(heads, [(name, *found.values()) for name, found in figures["codecs"].items()])
    rows = [
        (name, *(found[part] / figures["torch.add"] for part in heads[2:]))
        for name, found in figures["codecs"].items()
    ]  # fmt: skip
    print("the same, torch.add being 1")
    table(("codec", *heads[2:]), rows)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.codecs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each is repeated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where the numbers are")
    main(parser, measure)
