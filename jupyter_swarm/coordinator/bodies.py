"""Request bodies that are taken piece by piece, so that nobody fills the server's memory before being recognised.

tornado otherwise collects up to 512 MiB of a body before any of our code runs.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from jupyter_server.base.handlers import APIHandler
from tornado.web import stream_request_body

from ..protocol.errors import ProtocolError
from ..protocol.messages import MAX_MESSAGE_BYTES
from .guard import Guarded
from .refusals import TooLarge

_T = TypeVar("_T")


@stream_request_body
class ApiHandler(Guarded, APIHandler):
    """Base of the REST handlers: JSON both ways, a body of at most `body_limit` bytes, read after the caller is known.

    A body that announces its size is refused before it is sent. One that does not is refused when it has become too
    large, and what follows is dropped.
    """

    _size = 0
    _text = b""

    @property
    def body_limit(self) -> int:
        """Bytes."""
        return MAX_MESSAGE_BYTES

    async def prepare(self) -> None:  # type: ignore[override]
        await super().prepare()
        if self._finished:
            return
        if int(self.request.headers.get("Content-Length", "0")) > self.body_limit:
            raise TooLarge(self.body_limit)
        # tornado's own limit comes after ours, so that ours can answer in words
        self.request.connection.set_max_body_size(2 * self.body_limit)  # type: ignore[union-attr]

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        # tornado closes a connection of whose body something is left, and does not say so. A proxy that keeps its
        # connections (JupyterHub's does) would send somebody else's request into the closed one.
        headers = self.request.headers
        if "Transfer-Encoding" in headers or self._size < int(headers.get("Content-Length", "0")):
            self.set_header("Connection", "close")
        super().write_error(status_code, **kwargs)

    async def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self.body_limit:
            await self.received(chunk)

    async def received(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._text += chunk

    def check_size(self) -> None:
        """Raises `TooLarge` if the body went beyond the limit; what was received is then incomplete."""
        if self._size > self.body_limit:
            raise TooLarge(self.body_limit)

    def body_as(self, kind: type[_T]) -> _T:
        """The JSON body as a `kind`. Raises `ProtocolError`."""
        self.check_size()
        try:
            return msgspec.json.decode(self._text, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ProtocolError(
                "The request's body could not be read.",
                str(error),
                "Install the same jupyter_swarm version on both ends.",
            ) from None

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A number from the query, moved into [low, high]. Raises `ProtocolError` for what is no number."""
        text = self.get_query_argument(name, str(default))
        try:
            return min(max(int(str(text)), low), high)
        except ValueError:
            raise ProtocolError(f"{name} is not a number.") from None

    def answer(self, value: Any, status: int = 200) -> None:
        """Finish with `value` as JSON; numbers that are not finite become null."""
        self.set_status(status)
        self.finish(msgspec.json.encode(value))
