"""Averaging rounds of hivemind, for comparison: `python hivemind_averaging.py PEERS ELEMENTS ROUNDS OUT [PLACE ...]`.

PLACE, one for each peer, is NAMESPACE=ADDRESS: the file of the network namespace that it is in, and its address there.
Runs in an environment of its own (`rounds` makes it), so it imports nothing of this repository. One process for each
peer; a round's time is from the moment all have found their group to the result, and matchmaking comes on top. The
values are checked, since a step can succeed with nothing averaged.
"""

import ctypes
import json
import multiprocessing as mp
import resource
import statistics
import sys
import time


def enter(namespace):
    """This process, and those that it starts, are in that network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(namespace) as file:
        if libc.setns(file.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


def peer(place, peers, elements, rounds, addresses, barrier, results, where):
    namespace, _, address = where.partition("=")
    if namespace:
        enter(namespace)

    import torch
    from hivemind import DHT
    from hivemind.averaging import DecentralizedAverager
    from hivemind.averaging.control import AveragingStage

    torch.set_num_threads(1)
    mp.set_start_method("fork", force=True)  # hivemind's own processes; a spawned process would pass on "spawn"
    if place == 0:
        dht = DHT(start=True, host_maddrs=[f"/ip4/{address}/tcp/0"])
        for _ in range(peers - 1):
            addresses.put([str(address) for address in dht.get_visible_maddrs()])
    else:
        dht = DHT(start=True, initial_peers=addresses.get(), host_maddrs=[f"/ip4/{address}/tcp/0"])
    averager = DecentralizedAverager(
        [torch.full((elements,), float(place))], dht, prefix="benchmark", target_group_size=peers,
        min_matchmaking_time=2.0, request_timeout=1.0, start=True,
    )  # fmt: skip
    barrier.wait()
    for _ in range(rounds):
        with averager.get_tensors() as (values,):
            values.fill_(float(place))
        begun = time.monotonic()
        control = averager.step(wait=False, require_trigger=True, timeout=60)
        while control.stage != AveragingStage.AWAITING_TRIGGER and not control.done():
            time.sleep(0.005)
        matched = time.monotonic() - begun
        barrier.wait()
        start = time.monotonic()
        control.allow_allreduce()
        group = control.result(timeout=120)
        seconds = time.monotonic() - start
        with averager.get_tensors() as (values,):
            mean = float(values.double().mean())
        right = group is not None and abs(mean - (peers - 1) / 2) < 1e-3
        barrier.wait()
        results.put((seconds, matched, right))
    barrier.wait()
    averager.shutdown()
    dht.shutdown()
    ours, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(use.ru_utime + use.ru_stime for use in (ours, children))
    results.put(("end", cpu, max(ours.ru_maxrss, children.ru_maxrss)))


def main():
    peers, elements, rounds = map(int, sys.argv[1:4])
    places = sys.argv[5:] or ["=127.0.0.1"] * peers
    context = mp.get_context("spawn")
    addresses, results, barrier = context.Queue(), context.Queue(), context.Barrier(peers)
    processes = [
        context.Process(target=peer, args=(place, peers, elements, rounds, addresses, barrier, results, where))
        for place, where in enumerate(places)
    ]
    for process in processes:
        process.start()
    entries = [results.get(timeout=240) for _ in range(peers * (rounds + 1))]
    for process in processes:
        process.join(30)
        if process.is_alive():
            process.kill()
    steps = [entry for entry in entries if entry[0] != "end"]
    right = [entry for entry in steps if entry[2]]
    figures = {
        "seconds": statistics.median(entry[0] for entry in right) if right else None,
        "matchmaking": statistics.median(entry[1] for entry in right) if right else None,
        "wrong": len(steps) - len(right),
        "cpu_whole_run": sum(entry[1] for entry in entries if entry[0] == "end"),
        "peak": max(entry[2] for entry in entries if entry[0] == "end") * 1024,
    }
    with open(sys.argv[4], "w") as file:
        json.dump(figures, file)


if __name__ == "__main__":
    main()
