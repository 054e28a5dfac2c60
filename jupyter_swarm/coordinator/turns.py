"""Who is next on the event loop, when a thousand members have something to say at the same time."""

from __future__ import annotations

import asyncio
from collections import deque

MOST = 24


class Turns:
    """Of what members send, `MOST` messages are handled in one go of the event loop; the others wait in their order. So
    whoever else asks the server for something waits for a few of them, and not for all.

    One for each event loop.
    """

    def __init__(self) -> None:
        self._left = MOST
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next: asyncio.Handle | None = None

    async def mine(self) -> None:
        """Until it is the caller's turn; at once, where there is no crowd."""
        if self._left and not self._waiting:
            self._left -= 1
            self._schedule()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._schedule()
        await turn

    def _schedule(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._go)

    def _go(self) -> None:
        self._next = None
        self._left = MOST
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # whoever waited may have gone
                turn.set_result(None)
                self._left -= 1
        if self._left < MOST:
            self._schedule()
