"""`python -m tests.faults [--seed S] [--moments N] [--only WORD] [--json FILE]`: the whole matrix of kills.

Prints a line for each kill: what was killed where, how many rounds were done in the end, and whether all is accounted
for. Ends with status 1 if anything is not.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .account import Account
from .recipes import LOCAL, MANY_SHARDS
from .scenarios import LATE, MATRIX, run_kill, run_late, run_moments


def attempt(name: str, run: Callable[[Path], Account]) -> dict[str, Any]:
    """One line of the table."""
    begin = time.monotonic()
    result: dict[str, Any] = {"case": name}
    with tempfile.TemporaryDirectory(prefix="swarm-faults-") as folder:
        try:
            account = run(Path(folder))
            result |= {"problems": account.problems(), **msgspec.to_builtins(account)}
        except AssertionError as error:
            result["problems"] = [str(error)]
    result["seconds"] = round(time.monotonic() - begin, 1)
    facts = f"{result.get('rounds', '-'):>4} rounds, relative error {result.get('relative_error', float('nan')):.1e}"
    verdict = "ok" if not result["problems"] else "WRONG: " + "; ".join(result["problems"])
    print(f"{name:78} {facts} {result['seconds']:6.1f} s  {verdict}", flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Kill processes and count what is left."
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random moments")
    parser.add_argument("--moments", type=int, default=20, help="how many random moments")
    parser.add_argument("--only", default="", help="only cases whose name has this in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    chosen = parser.parse_args()
    results = [
        attempt(str(kill), lambda folder, kill=kill: run_kill(kill, folder))  # type: ignore[misc]
        for kill in MATRIX
        if chosen.only in str(kill)
    ]
    results += [
        attempt(f"late, {moment}", lambda folder, moment=moment: run_late(moment, folder))  # type: ignore[misc]
        for moment in LATE
        if chosen.only in f"late, {moment}"
    ]
    for size in (MANY_SHARDS, LOCAL):
        moments = f"{chosen.moments} random moments, seed {chosen.seed}, {size.name}"
        if chosen.moments and chosen.only in moments:
            run = functools.partial(run_moments, chosen.seed, chosen.moments, size=size)
            results.append(attempt(moments, run))
    wrong = [result for result in results if result["problems"]]
    print(f"{len(results) - len(wrong)} of {len(results)} as promised; seed {chosen.seed}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"seed": chosen.seed, "results": results}, indent=2) + "\n")
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())
