"""The data set's bookkeeping: leased -> done -> claimed by one contribution -> consumed by the round's record.

A round owns exactly its target of sample positions. What comes back (a peer left, a lease failed, an attempt was
aborted) comes back to the same round. Samples whose lease fails twice are skipped and listed, and the round draws as
many new ones. Positions are counted through all epochs, so that an epoch's end needs no special case.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from ..protocol.records import BookState, RoundRecord, Skip
from .speed import weight
from .state import Book, Lease, Peer, Piece, State

SPLIT_FAILED = 8
"""Samples whose lease failed are leased again in so many pieces, so that one bad sample takes few others with it."""
AVOID_SECONDS = 30.0
"""So long a peer leaves samples that failed on it to others."""
LEAST_SAMPLES = 2
"""Where there are so many, no lease has fewer: batch-norm cannot train on a single sample."""
LEASES_PER_ROUND = 8
"""A peer's smallest lease is this part of its share of a round, so that leases do not cost more than they balance."""


def draw(book: Book, target: int) -> None:
    """Let the new round own `target` positions: what earlier rounds left over first, then new ones."""
    left, book.free, book.pool = [*book.free, *book.pool], [], []
    for piece in left:
        taken = min(target, piece.stop - piece.start)
        target -= taken
        if taken:
            book.free.append(msgspec.structs.replace(piece, stop=piece.start + taken))
        if piece.start + taken < piece.stop:
            book.pool.append(msgspec.structs.replace(piece, start=piece.start + taken))
    if target > 0:
        book.free.append(fresh(book, target))


def fresh(book: Book, samples: int) -> Piece:
    """So many positions that nobody has had."""
    book.cursor += samples
    return Piece(book.cursor - samples, book.cursor)


def lease_size(state: State, peer: Peer, free: int, whole: int) -> int:
    """How many samples to lease to `peer` when `free` of the round's `whole` are left.

    Half of the peer's share of what is left (guided self-scheduling, Polychronopoulos and Kuck 1987): large leases
    first, small ones at the end, so that all peers end at about the same time whatever their speed.
    """
    crowd = state.crowd
    usual = crowd.usual or 1.0
    total = crowd.weight + usual * (crowd.active - crowd.measured)
    share = min((weight(peer.speed) or usual) / total, 1.0) if total > 0 else 1.0
    least = max(LEAST_SAMPLES, int(whole * share) // LEASES_PER_ROUND)
    size = min(max(least, math.ceil(free * share / 2)), free)
    return free if free - size < least else size


def next_piece(state: State, peer: Peer, now: float) -> Piece | None:
    """The samples of the open round that are `peer`'s turn, None if there are none for it."""
    alone = state.crowd.active <= 1
    for piece in state.book.free:
        if alone or piece.avoid != peer.id or piece.avoid_until <= now:
            return piece
    return None


def take(state: State, peer: Peer, piece: Piece, now: float) -> Lease:
    """Lease samples of `piece` to `peer`: as many as suit its speed, all of them where an earlier lease failed."""
    book = state.book
    size = piece.stop - piece.start
    if not piece.failures:
        wanted = lease_size(state, peer, sum(p.stop - p.start for p in book.free), state.round.target)
        size = size if size - wanted < LEAST_SAMPLES else wanted
    start = piece.start
    piece.start += size
    if piece.start == piece.stop:
        book.free.remove(piece)
    return add(state, peer, "train", Piece(start, start + size, piece.failures, piece.avoid), now)


def add(state: State, peer: Peer, kind: Literal["train", "evaluate"], piece: Piece, now: float) -> Lease:
    """Write a new lease of the whole `piece` into the book."""
    book = state.book
    until = deadline(state, peer, piece.stop - piece.start, now)
    lease = Lease(
        book.next_lease, kind, peer.id, piece.start, piece.stop, now, until, piece.failures, piece.avoid,
        round=state.round.number,
    )  # fmt: skip
    book.next_lease += 1
    book.leases[lease.id] = lease
    peer.leases.append(lease.id)
    return lease


def deadline(state: State, peer: Peer, size: int, now: float) -> float:
    """When a lease of `size` samples counts as lost: ten times what the peer's measured speed promises."""
    expected = size / peer.speed if peer.speed else 0.0
    return now + max(state.settings.lease_seconds, 10.0 * expected)


def give_back(book: Book, lease: Lease) -> None:
    """The samples of `lease` are free again, first in line."""
    del book.leases[lease.id]
    if not lease.own:
        book.free.insert(0, Piece(lease.start, lease.stop, lease.failures, lease.failed_on))


def cut(book: Book, peer: Peer, lease: Lease, samples: int) -> Lease:
    """Cut what comes behind the first `samples` of a lease off it, as a lease of its own."""
    rest = msgspec.structs.replace(lease, id=book.next_lease, start=lease.start + samples)
    book.next_lease += 1
    book.leases[rest.id] = rest
    peer.leases.append(rest.id)
    lease.stop = rest.start
    return rest


def fail(book: Book, lease: Lease, reason: str, now: float, replace: bool) -> Skip | None:
    """A lease could not be computed: lease its samples again in smaller pieces, or skip them the second time (then
    `replace` them by fresh ones, where the round owns a fixed number)."""
    del book.leases[lease.id]
    if lease.own:
        return None
    if lease.failures:
        skip = Skip((lease.start, lease.stop), reason)
        book.skips.append(skip)
        book.skipped += lease.count
        if replace:
            book.free.append(fresh(book, lease.count))
        return skip
    step = max(LEAST_SAMPLES, -(-lease.count // SPLIT_FAILED))
    start = lease.start
    while start < lease.stop:
        stop = start + step if lease.stop - start - step >= LEAST_SAMPLES else lease.stop
        book.free.append(Piece(start, stop, 1, lease.peer, now + AVOID_SECONDS))
        start = stop
    return None


def give_all_back(book: Book) -> None:
    """An attempt is void: every training lease is free again, in order and joined where they touch."""
    pieces = book.free
    for lease in [lease for lease in book.leases.values() if lease.kind == "train"]:
        del book.leases[lease.id]
        if not lease.own:
            pieces.append(Piece(lease.start, lease.stop, lease.failures, lease.failed_on))
    pieces.sort(key=lambda piece: piece.start)
    book.free = []
    for piece in pieces:
        last = book.free[-1] if book.free else None
        if last and last.stop == piece.start and not last.failures and not piece.failures:
            last.stop = piece.stop
        else:
            book.free.append(piece)


def after_commit(book: Book, samples: int, own: int) -> BookState:
    """What the record of a round of `samples` says of the book; `own` of them are of peers' own data. What late peers
    still hold is in the pool: after a restart it is leased again."""
    late = [lease for lease in book.leases.values() if lease.kind == "train" and lease.state != "claimed"]
    pool = [(piece.start, piece.stop) for piece in (*book.free, *book.pool)]
    pool += [(lease.start, lease.stop) for lease in late if not lease.own]
    return BookState(book.cursor, tuple(sorted(pool)), book.consumed + samples - own, book.skipped, book.own + own)


def consume(book: Book, record: RoundRecord) -> None:
    """The record is durable: the claimed leases are consumed. Skips that late peers caused after it was written go into
    the next one."""
    for lease in [lease for lease in book.leases.values() if lease.state == "claimed"]:
        del book.leases[lease.id]
    book.consumed, book.own = record.book.consumed, record.book.own
    book.skips = book.skips[len(record.skips) :]
