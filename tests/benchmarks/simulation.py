"""Ten thousand peers that come and go: how fast are the decisions, who waits how long, is anybody starved?

    python -m tests.benchmarks.simulation [--peers N …] [--rounds N] [--churn P] [--strategy NAME] [--json FILE]

The coordinator's real decisions under a virtual clock (`jupyter_swarm.plan.simulator`), one session for each number of
peers. Peers are unequal (speeds and links are log-normal), a share of them goes each minute and is back after twenty
seconds on average, to fetch all parameters anew. Seconds of waiting are virtual; only decisions a second are of this
machine: each is one event handled by `decisions.reducer.handle`, in seconds of one core. If they fell as the peers
grow, something in the decisions would cost per peer squared.
"""

from __future__ import annotations

import argparse
import time

import msgspec

from jupyter_swarm.peer.planning import MEGABIT
from jupyter_swarm.peer.steering import STRATEGIES, strategy_of
from jupyter_swarm.plan.formulas import round_of
from jupyter_swarm.plan.scenario import Link, Machine, Scenario
from jupyter_swarm.plan.simulator import Trial, simulate
from jupyter_swarm.protocol.rules import AdamW, RoundRule
from jupyter_swarm.strategies import EveryStep

from .reporting import Figures, main, table

BATCH = 16
STEP_SECONDS = 0.1
_HEADS = (
    "peers", "decisions a second", "decisions", "real s", "s a round", "computing %", "goodput %", "median wait s",
    "longest wait s", "went", "most rounds without one", "dropped",
)  # fmt: skip


def rule_of(name: str, peers: int, steps: int) -> RoundRule:
    kind = strategy_of(name)
    inner = AdamW(1e-3)
    if issubclass(kind, EveryStep):
        return kind(target_batch=BATCH * peers).rule(inner)
    return kind(steps=steps, batch=BATCH).rule(inner)


def scenario(chosen: argparse.Namespace, peers: int) -> Scenario:
    machine = Machine(BATCH / STEP_SECONDS, Link(chosen.link * MEGABIT, chosen.link * MEGABIT))
    server = Link(chosen.server * MEGABIT, chosen.server * MEGABIT)
    rule = rule_of(chosen.strategy, peers, chosen.steps)
    return Scenario(rule, chosen.parameters, (machine,) * peers, server)


def measure(chosen: argparse.Namespace) -> Figures:
    figures: Figures = {"options": {name: str(value) for name, value in vars(chosen).items()}, "peers": {}}
    rows = []
    for peers in chosen.peers:
        plan = scenario(chosen, peers)
        trial = Trial(chosen.rounds, chosen.churn / 60.0, chosen.away, chosen.spread, chosen.seed)
        began = time.perf_counter()
        found = simulate(plan, trial)
        seconds = time.perf_counter() - began
        figures["peers"][peers] = msgspec.to_builtins(found) | {
            "real_seconds": seconds, "share": found.share, "goodput": found.goodput, "formulas": round_of(plan).seconds
        }  # fmt: skip
        rows.append(
            (
                peers, round(found.decisions_per_second), found.decisions, seconds, found.round_seconds,
                100 * found.share, 100 * found.goodput, found.median_wait, found.longest_wait, found.departures,
                found.missed, found.drops,
            )
        )  # fmt: skip
        print(f"{peers} peers: done in {seconds:.1f} s", flush=True)
    table(_HEADS, rows)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.simulation", description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strategy", choices=list(STRATEGIES), default="sparse")
    parser.add_argument("--steps", type=int, default=1000, help="inner steps of the fastest peer")
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--churn", type=float, default=1 / 3, help="share of the peers that goes each minute")
    parser.add_argument("--away", type=float, default=20.0, help="mean seconds until one is back")
    parser.add_argument("--spread", type=float, default=0.5, help="sigma of log-normal speeds and links")
    parser.add_argument("--link", type=float, default=20.0, help="of a peer, in Mbit/s up and down")
    parser.add_argument("--server", type=float, default=10_000.0, help="of the server, in Mbit/s up and down")
    parser.add_argument("--seed", type=int, default=0)
    main(parser, measure)
