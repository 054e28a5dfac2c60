"""How much loss do fewer bytes cost? Many virtual peers in one process, through the real strategies and shards.

    python -m tests.benchmarks.convergence [--peers N] [--warm N] [--local N] [--steps N] [--rates LR …]
                                           [--size tiny|class] [--ways NAME …] [--figure FILE.png] [--json FILE]

A language model on Shakespeare. All ways begin with the same `--warm` synchronous rounds (0: from random parameters)
and then see as many samples as `--local` rounds of `--steps` steps of each peer. Nothing here is a network: peers take
turns, each with its own inner optimizer and its own error feedback; their contributions travel as frames through the
codecs, a holder merges them, and the packets come back as frames. What differs between two ways is what would differ
over sockets. Where steps go on while a round is finished, its result is mixed in when half of the next round's steps
are made. Bytes are those of all frames, headers included, of one peer; up and down together where a column says how
many it took to get as far as the worst way does. Each way is judged at its best learning rate; its curve is the mean
loss over the held-out windows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

from jupyter_swarm import SGD, Codec, load_recipe
from jupyter_swarm.peer.data import EpochOrder, Samples
from jupyter_swarm.peer.forward import Forward
from jupyter_swarm.peer.recipe import Data, Recipe
from jupyter_swarm.protocol.frames import Kind, session_tag
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.messages import Adopt, Expect, Prepare
from jupyter_swarm.protocol.rules import OptimizerRule, RoundRule
from jupyter_swarm.shards.feedback import ErrorFeedback
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.holder import Holder
from jupyter_swarm.shards.incoming import PacketSet
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter, contribution_frames
from jupyter_swarm.shards.streaming import StreamingPseudoGradient
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep, LocalUpdates, SparseLocalUpdates, StreamingLocalUpdates
from jupyter_swarm.strategies.workers import Worker, worker

from .reporting import Figures, main, reached, table

BATCH = 8
FRAGMENTS = 5
_SESSION = "convergence"
_EVALUATIONS = 8
_WARM = "warm start"


class Point(NamedTuple):
    """After so many samples of all peers together: bytes of one peer so far, and the held-out loss."""

    samples: int
    up: int
    down: int
    loss: float

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.up + self.down


class VirtualSession:
    """A holder and its peers. The peers' models are one module whose numbers are exchanged: what is a peer's own is its
    worker with the inner optimizer's moments, what it has not sent yet, and its live numbers where they drift."""

    def __init__(self, recipe: Recipe, data: Data, peers: int) -> None:
        torch.manual_seed(recipe.seed)
        self.train, self.held_out = Samples(data.train), Samples(data.held_out)
        self.recipe, self.peers = recipe, peers
        self.model = recipe.build()
        self.layout = layout_of(self.model)
        self.view = FlatVector.of(self.layout, self.model)
        self.forward = Forward(recipe, self.model, print)
        self.order = EpochOrder(len(self.train), recipe.seed)
        self.version = self.samples = self.up = self.down = 0
        self.points: list[Point] = []
        self._writer = FrameWriter()

    def follow(self, rule: RoundRule) -> None:
        """From now on by this rule, with new optimizers."""
        self.rule = rule
        self.holder = Holder(self.layout, rule, _SESSION)
        shards = tuple(shard.index for shard in self.layout.shards)
        self.holder.load(self.view, shards)
        self.holder.adopt(Adopt(1, self.version, 0, shards))
        self.workers: list[Worker] = [worker(rule, self.layout, self.model) for _ in range(self.peers)]
        self.feedbacks = [ErrorFeedback(self.layout) for _ in range(self.peers)]
        self.live: list[FlatVector | None] = [None] * self.peers

    def round(self) -> None:
        """One round in which all peers do the same."""
        norms = [self._contribute(peer) for peer in range(self.peers)]
        each = self.rule.target_batch // self.peers or self.rule.inner_steps * self.rule.inner_batch
        middle = statistics.median(norms)
        scales = tuple(min(1.0, middle / norm) for norm in norms) if self.rule.clip_to_median else ()
        optimizer = self.rule.optimizer
        prepare = Prepare(
            1, self.version + 1, 1, tuple((peer, each) for peer in range(self.peers)), each * self.peers, optimizer,
            optimizer.lr * optimizer.schedule.factor(self.samples), self.rule.clip_norm, scales,
        )  # fmt: skip
        norm = self.holder.merge(prepare) ** 0.5
        packets = PacketSet(self.layout, self.rule, session_tag(_SESSION), 1, self.version + 1, 1)
        for frame in self.holder.step(prepare, norm):
            self.down += len(frame)
            packets.add(frame)
        self.holder.install()
        packets.apply(self.view)
        self.version += 1
        self.samples += each * self.peers

    def _contribute(self, peer: int) -> float:
        """What a peer computes and sends; the norm that it announces. Bytes are counted of the first peer."""
        work, rule, live = self.workers[peer], self.rule, self.live[peer]
        if live is not None:
            live.copy_to(self.model)
        work.start(self.view)
        if isinstance(work, GradientSum):
            work.begin_lease()
            self.forward.backward(self.train, self._draw(peer, rule.target_batch // self.peers), 1.0)
            work.end_lease()
            vector, norms = work.finish()
        else:
            inner = rule.inner_optimizer
            assert inner is not None
            rate = inner.lr * inner.schedule.factor(self.samples)
            for step in range(rule.inner_steps):
                if isinstance(work, StreamingPseudoGradient) and live is not None and step == rule.inner_steps // 2:
                    work.mix(self.view, self.version)
                work.begin_step()
                batch = self._draw(step * self.peers + peer, rule.inner_batch)
                self.forward.backward(self.train, batch, 1.0 / len(batch))
                work.end_step(rate)
            vector, norms = work.finish(self.view, self.version + 1)
            if rule.overlap:
                self.live[peer] = FlatVector.of(self.layout, self.model)
        stream, encoded = rule.stream(Stream.GRADIENT), None
        if stream.feedback:
            encoded = self.feedbacks[peer].encode(vector, stream, self.version)
        self.holder.expect(Expect(1, self.version + 1, peer))
        envelope = Envelope(Kind.CONTRIBUTION, session_tag(_SESSION), 1, self.version + 1, peer)
        for parts in contribution_frames(self._writer, envelope, vector, rule, encoded):
            frame = b"".join(parts)
            self.up += len(frame) * (peer == 0)
            self.holder.stage(frame)
        return encoded.norm if encoded else norms["gradient"]

    def _draw(self, place: int, count: int) -> torch.Tensor:
        """Samples that no other peer and no other step gets in this epoch."""
        first = self.samples + place * count
        return self.order.indices(first, first + count)

    def measure(self) -> None:
        """The held-out loss of the view."""
        self.view.copy_to(self.model)
        self.model.eval()
        count = len(self.held_out)
        sums = self.forward.measure(self.held_out, torch.arange(count))
        self.model.train()
        self.points.append(Point(self.samples, self.up, self.down, sums["loss"] / count))


Rule = Callable[[OptimizerRule], RoundRule]


def ways(peers: int, steps: int) -> dict[str, tuple[Rule, int]]:
    """By name: the rule, and how many of its rounds are as many samples as one of local updates."""
    batch = peers * BATCH

    def every(codec: Codec) -> tuple[Rule, int]:
        return EveryStep(batch, clip_norm=1.0, up=codec, down=codec).rule, steps

    def local(up: Codec, down: Codec) -> tuple[Rule, int]:
        return LocalUpdates(steps, BATCH, clip_norm=1.0, up=up, down=down).rule, 1

    def streaming(codec: Codec) -> tuple[Rule, int]:
        parts = min(FRAGMENTS, steps)
        way = StreamingLocalUpdates(steps, BATCH, clip_norm=1.0, up=codec, down=codec, fragments=parts)
        return way.rule, parts

    def sparse(down: Codec, outer: float = 1.0) -> tuple[Rule, int]:
        return SparseLocalUpdates(steps, BATCH, clip_norm=1.0, down=down, outer=SGD(outer)).rule, 1

    return {
        "EveryStep fp32": every(Codec.FP32),
        "EveryStep int8": every(Codec.INT8),
        "LocalUpdates fp32": local(Codec.FP32, Codec.FP32),
        "LocalUpdates int8": local(Codec.INT8, Codec.INT8),
        "LocalUpdates int4": local(Codec.INT4, Codec.INT4),
        "Streaming fp32": streaming(Codec.FP32),
        "Streaming int4": streaming(Codec.INT4),
        "Sparse, down int4": sparse(Codec.INT4),
        "Sparse, down top-k": sparse(Codec.TOPK),
        "Sparse, outer rate 3": sparse(Codec.INT4, outer=3.0),
    }


def recipe_of(chosen: argparse.Namespace, rate: float) -> Recipe:
    return load_recipe(
        "language", SIZE=chosen.size, WARM_ROUNDS=chosen.warm, WARM_BATCH=chosen.peers * BATCH,
        LOCAL_ROUNDS=chosen.local, LOCAL_STEPS=chosen.steps, BATCH=BATCH, PEERS=chosen.peers, LEARNING_RATE=rate,
        HELD_OUT=0.005,
    )  # fmt: skip


def train(chosen: argparse.Namespace, data: Data, rate: float, name: str, warm: FlatVector | None) -> VirtualSession:
    """One way with one learning rate, from the warm start if there is one; without a name, the warm start itself."""
    recipe = recipe_of(chosen, rate)
    session = VirtualSession(recipe, data, chosen.peers)
    if warm is not None:
        session.view.copy_from(warm)
        session.version, session.samples = chosen.warm, chosen.warm * chosen.peers * BATCH
    rule, times = ways(chosen.peers, chosen.steps)[name or "EveryStep fp32"]
    session.follow(rule(recipe.optimizer))
    rounds = chosen.local * times if name else chosen.warm
    session.measure()
    for done in range(1, rounds + 1):
        session.round()
        if done % max(rounds // _EVALUATIONS, 1) == 0:
            session.measure()
    return session


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(chosen.threads)
    found: Figures = {}
    data = recipe_of(chosen, chosen.rates[0]).load_data()
    for rate in chosen.rates:
        warm = None
        if chosen.warm:
            begun = train(chosen, data, rate, "", None)
            warm = begun.view
            print(f"{_WARM}, rate {rate:g}: {begun.points[-1].loss:.4f}", flush=True)
        for name in chosen.ways:
            start = time.perf_counter()
            points = train(chosen, data, rate, name, warm).points
            found.setdefault(name, {})[f"{rate:g}"] = [tuple(point) for point in points]
            print(f"{name}, rate {rate:g}: {points[-1].loss:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    report(found, chosen)
    if chosen.figure:
        figure_of(found).savefig(chosen.figure, bbox_inches="tight")
    return found


def best(found: Figures) -> dict[str, tuple[str, list[Point]]]:
    """Of each way its best rate and the points there."""
    result = {}
    for name, rates in found.items():
        rate = min(rates, key=lambda one: rates[one][-1][3])
        result[name] = rate, [Point(*point) for point in rates[rate]]
    return result


def report(found: Figures, chosen: argparse.Namespace) -> None:
    """At each way's best rate, beside the first way; and what each has sent when it is where the worst of them ends."""
    chosen_points = best(found)
    first = next(iter(chosen_points.values()))[1][-1]
    tokens = 128 * chosen.local * chosen.steps * BATCH
    worst = max(points[-1].loss for _, points in chosen_points.values())
    rows = [
        (
            name, rate, f"{end.loss:.4f}", f"{100 * (end.loss / first.loss - 1):+.2f} %", f"{end.up / tokens:.4g}",
            f"{end.down / tokens:.4g}", f"{first.up / end.up:.1f}", f"{first.down / end.down:.1f}",
            f"{reached([one.bytes for one in points], [one.loss for one in points], worst) / 1e6:.4g}",
        )
        for name, (rate, points) in chosen_points.items()
        for end in points[-1:]
    ]  # fmt: skip
    head = ("way", "rate", "held-out", "to the first", "B/token up", "down", "times fewer up", "down")
    table((*head, f"MB to {worst:.3f}"), rows)


def figure_of(found: Figures) -> Figure:
    """Loss against samples, and against bytes of one peer up and down."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for name, (rate, points) in best(found).items():
        losses = [point.loss for point in points]
        axes[0].plot([point.samples for point in points], losses, marker="o", label=f"{name}, rate {rate}")
        axes[1].plot([point.bytes for point in points[1:]], losses[1:], marker="o")  # the first has sent nothing
    axes[0].set(xlabel="samples, all peers", ylabel="held-out loss [nats per character]")
    axes[1].set(xlabel="bytes of one peer, up and down", xscale="log")
    axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.convergence", description=__doc__)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--warm", type=int, default=400, help="synchronous rounds before")
    parser.add_argument("--local", type=int, default=8, help="rounds of local updates, or as many samples")
    parser.add_argument("--steps", type=int, default=50, help="inner steps of a round")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.004, 0.008])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--ways", nargs="+", default=list(ways(4, 50)))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    main(parser, measure)
