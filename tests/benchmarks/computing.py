"""What share of the time do peers compute whose links are slow? By strategy and codec, over links of a given rate.

    python -m tests.benchmarks.computing [--rates 100mbit 10mbit] [--server RATE] [--steps H] [--computed-steps H]
                                         [--elements N] [--peers N] [--rounds N] [--only NAME ...] [--json FILE]

Each peer is a network namespace with a link of that rate, the server one whose link is faster. For Linux, as root, with
`ip` and `tc`. Rounds of H steps that take 50 ms each whatever the machine is busy with, and of H that are computed
(AdamW). Two peers, not four, so that on two cores steps of 50 ms take no longer.

The share is the seconds from the grant of a lease to its end, as the server sees it, by those between the records of
the first and of the last round; and, where a step takes 50 ms, as many steps as were made times that, by the same.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jupyter_swarm import Recipe, host
from tests.network.namespaces import Line, Network, Unavailable

from . import recipes
from .harness import Failed, Machines, Server, ThisMachine, peer, server, wait_until, workplace
from .reporting import Figures, main, table

STEP_SECONDS = 0.05
AT_ONCE = 10
"""So many steps are slept as one: their gradients and optimizer would measure the cores that all peers share."""
BATCH = 8
FRAGMENTS = 4
_PATIENCE = 900.0


class Case(NamedTuple):
    """What is trained. steps: of each peer in a round. step: what one is made to take, in seconds (0: it is computed).
    parts: rounds in which all parameters are exchanged once."""

    name: str
    recipe: Recipe
    steps: int
    step: float
    parts: int = 1


def strategies(peers: int, steps: int, batch: int) -> dict[str, str]:
    """By name: a strategy, as a recipe's text has it."""

    def local(kind: str, more: str) -> str:
        return f"{kind}({steps}, {batch}, {more})"

    coded = {name: f"up=Codec.{name.upper()}, down=Codec.{name.upper()}" for name in ("fp32", "int8", "int4")}
    return {
        "EveryStep fp32": f"EveryStep(target_batch={peers * batch})",
        **{f"LocalUpdates {name}": local("LocalUpdates", both) for name, both in coded.items()},
        "Sparse, down int4": local("SparseLocalUpdates", "down=Codec.INT4"),
        "Sparse, down top-k": local("SparseLocalUpdates", "down=Codec.TOPK"),
        "Streaming int4": local("StreamingLocalUpdates", f"fragments={FRAGMENTS}"),
    }


def cases(elements: int, peers: int, steps: int, step: float) -> Iterator[Case]:
    """Every strategy, with steps that take `step` seconds, or that are computed."""
    for name in strategies(peers, steps, BATCH):
        every = name.startswith("EveryStep")
        parts = FRAGMENTS if name.startswith("Streaming") else 1
        once = min(AT_ONCE, steps) if step and not every else 1
        text = strategies(peers, steps // once, BATCH * once)[name]
        if step:
            source = recipes.PACED.format(parameters=elements, seconds=step * once, strategy=text, batch=BATCH * once)
        else:
            source = recipes.PERCEPTRON.format(width=math.isqrt(elements // 3), strategy=text, batch=BATCH)
        yield Case(name, Recipe.from_source(source), 1 if every else steps, step, parts)


def run(
    here: Server,
    case: Case,
    names: Sequence[str],
    rounds: int,
    machines: Machines = ThisMachine(),
    limit: Callable[[], None] = lambda: None,
) -> Figures:
    """Train for one round and then for `rounds` that are measured; `limit` is called when all peers train."""
    session = host(
        case.recipe, case.name, rounds=0, train=False, server=here.owner_url, minimum_peers=len(names), evaluate_every=0
    )
    folder = here.folder / session.id
    folder.mkdir()
    first, last = case.parts, case.parts * (1 + rounds)
    with workplace() as (_, stack):
        link = session.invite("peer").link
        for name in names:
            process = peer(link, case.recipe.sha256, name, folder, "--threads", "1", prefix=machines.command(name))
            stack.callback(process.stop)

        def at(version: int) -> bool:
            return int(here.status(session.id)["version"]) >= version

        def all_train() -> bool:
            states = [one["state"] for one in here.status(session.id)["peers"]]
            return states.count("training") == len(names) or at(1)

        wait_until(all_train, f"the peers of {case.name}", _PATIENCE)
        limit()
        wait_until(lambda: at(last), f"the rounds of {case.name}", _PATIENCE)
        records = here.client.records(session.id)[first - 1 : last]
        metrics = [one for one in here.client.metrics(session.id) if first < one["version"] <= last]
    return figures_of(records, metrics, case, len(names))


def figures_of(records: list[dict[str, Any]], metrics: list[dict[str, Any]], case: Case, peers: int) -> Figures:
    """What the peers did between the first and the last of the records. metrics: of the rounds after the first."""
    elapsed = records[-1]["unix_time"] - records[0]["unix_time"]
    contributors = [one for record in records[1:] for one in record["contributors"]]
    computing = sum(one["seconds"] for one in contributors)
    samples = sum(one["weight"] for one in contributors)
    return {
        "steps": case.steps,
        "rounds": len(records) - 1,
        "elapsed": elapsed,
        "share": computing / elapsed / peers,
        "share_by_steps": samples / BATCH * case.step / elapsed / peers if case.step else None,
        "contributions": len(contributors),
        **{way: sum(one["mean"] for one in metrics if one["name"] == f"bytes_{way}") / peers for way in ("up", "down")},
        "parts": case.parts,
    }


def measure(chosen: argparse.Namespace) -> Figures:
    figures: Figures = {}
    names = [f"peer-{number}" for number in range(1, chosen.peers + 1)]
    kinds = {"50 ms": (chosen.steps, STEP_SECONDS)} if chosen.steps else {}
    if chosen.computed_steps:
        kinds["computed"] = (chosen.computed_steps, 0.0)
    for rate in chosen.rates:
        try:
            with Network({"server": Line(chosen.server), **dict.fromkeys(names, Line())}) as network:
                for kind, (steps, step) in kinds.items():
                    figures[f"{rate}, {kind}"] = _at(network, rate, chosen, steps, step)
                    _show(f"{rate}, a step {kind}", chosen, figures[f"{rate}, {kind}"])
        except Unavailable as error:
            raise Failed(str(error)) from None
    print("Aim: at least 95 % with what sends few bytes.")
    return {"peers": chosen.peers, "elements": chosen.elements, "results": figures}


def _at(network: Network, rate: str, chosen: argparse.Namespace, steps: int, step: float) -> Figures:
    def set_rates(rate: str) -> None:
        for name in names:
            network.set_rate(name, rate)

    found: Figures = {}
    names = sorted(network.machines.keys() - {"server"})
    with workplace() as (folder, stack), network.inside("server"):
        here = server(folder, stack, address=network.address("server"))
        for case in cases(chosen.elements, chosen.peers, steps, step):
            if chosen.only and case.name not in chosen.only:
                continue
            set_rates("")  # who joins is not what is measured
            rounds = 1 if case.name.startswith("EveryStep") else chosen.rounds
            try:
                found[case.name] = run(here, case, names, rounds, network, lambda: set_rates(rate))
            except Failed as error:
                print(f"{case.name}, {rate}: {error}", flush=True)
            else:
                one = found[case.name]
                print(f"{case.name}, {rate}: {one['rounds']} rounds in {one['elapsed']:.1f} s", flush=True)
    return found


def _show(title: str, chosen: argparse.Namespace, found: Figures) -> None:
    print(f"\n{chosen.elements / 1e6:g} M parameters, {chosen.peers} peers, {title}; the server's link {chosen.server}")
    heads = [
        "",
        "steps",
        "s for them",
        "computing %",
        "by steps %",
        "MB up of a peer",
        "MB down",
        "of all contributed %",
    ]
    rows = []
    for name, one in found.items():
        whole = one["rounds"] / one["parts"]
        by_steps = None if one["share_by_steps"] is None else 100 * one["share_by_steps"]
        rows.append(
            [name, one["steps"], one["elapsed"] / whole, 100 * one["share"], by_steps, one["up"] / whole / 1e6,
             one["down"] / whole / 1e6, 100 * one["contributions"] / one["rounds"] / chosen.peers]
        )  # fmt: skip
    table(heads, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["100mbit", "10mbit"])
    parser.add_argument("--server", default="1gbit", help="the rate of the server's link")
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500, help="of 50 ms, in a round (0: none)")
    parser.add_argument("--computed-steps", type=int, default=250, help="that are computed, in a round (0: none)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds that are measured, after one that is not")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these strategies")
    main(parser, measure)
