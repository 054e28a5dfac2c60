"""Blobs over HTTP: the owner brings them, the members of a session fetch those that it names."""

from __future__ import annotations

import asyncio
import re

from tornado.iostream import StreamClosedError

from ..protocol.errors import Refusal
from ..store.blobs import BlobWriter
from .bodies import ApiHandler
from .guard import Gate, allows

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class Upload(ApiHandler):
    """`PUT blobs/SHA256`: the bytes, on their way to the disk as they come. Nothing is stored unless the hash fits."""

    _writer: BlobWriter | None = None
    _failed: Exception | None = None

    def initialize(self, gate: Gate) -> None:  # type: ignore[override]
        super().initialize(gate)
        self._pieces: list[bytes] = []
        self._pending = 0
        self._writing = asyncio.Lock()

    @property
    def body_limit(self) -> int:
        return self.manager.options.max_blob_bytes

    async def prepare(self) -> None:  # type: ignore[override]
        await super().prepare()
        if not self._finished:
            storage = await self.manager.storage()
            self._writer = await asyncio.to_thread(storage.blobs.writer, self.path_kwargs["sha256"], self.body_limit)

    async def received(self, chunk: bytes) -> None:
        self._pieces.append(chunk)
        self._pending += len(chunk)
        if self._pending >= _PIECE:
            await self._write()

    @allows("owner")
    async def put(self, sha256: str) -> None:
        self.check_size()
        await self._write()
        if self._failed:
            raise self._failed
        if self._writer is None:
            raise Refusal("The connection was lost during the upload.")
        async with self._writing:
            await asyncio.to_thread(self._writer.finish)
        self.answer({"sha256": sha256, "bytes": self._size}, 201)

    async def _write(self) -> None:
        """Write the pieces received so far. A failure is kept for `put`, which can answer; here nobody could."""
        data, self._pieces, self._pending = b"".join(self._pieces), [], 0
        async with self._writing:
            if self._writer and not self._failed:
                try:
                    await asyncio.to_thread(self._writer.write, data)
                except Exception as error:
                    self._failed = error

    def on_connection_close(self) -> None:
        super().on_connection_close()
        asyncio.get_running_loop().create_task(self._discard())

    def on_finish(self) -> None:
        super().on_finish()
        if self._writer:
            self._writer.discard()

    async def _discard(self) -> None:
        async with self._writing:
            writer, self._writer = self._writer, None
            if writer:
                await asyncio.to_thread(writer.discard)


class Download(ApiHandler):
    """`GET sessions/ID/blobs/SHA256`: what a session and its checkpoints name, no other blobs.

    With `Range: bytes=M-` or `bytes=M-N` that part of it, so that a download goes on where it broke off.
    """

    @allows("owner", "instructor", "peer", "holder")
    async def get(self, session: str, sha256: str) -> None:
        if not await self.manager.archive.names_blob(session, sha256):
            raise Refusal("The session names no such blob.", todo="Fetch what it or one of its checkpoints names.")
        blobs = (await self.manager.storage()).blobs
        size = await asyncio.to_thread(blobs.size, sha256)
        start, stop = self._range(size)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Content-Type", "application/octet-stream")
        if start is None:
            self.set_header("Content-Range", f"bytes */{size}")
            self.set_status(416)
            self.finish()
            return
        if (start, stop) != (0, size):
            self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.set_status(206)
        self.set_header("Content-Length", str(stop - start))
        file = await asyncio.to_thread(blobs.open, sha256)
        try:
            await asyncio.to_thread(file.seek, start)
            while start < stop:
                piece = await asyncio.to_thread(file.read, min(_PIECE, stop - start))
                start += len(piece) or stop  # a file that has become shorter breaks the answer off
                self.write(piece)
                await self.flush()
        except StreamClosedError:  # who fetched it has gone, and may come back for the rest
            return
        finally:
            await asyncio.to_thread(file.close)
        self.finish()

    def _range(self, size: int) -> tuple[int | None, int]:
        """The bytes [start, stop) that are wanted; start is None if there are none. Other kinds of ranges are not
        served, which the standard allows: the answer is then everything."""
        match = _RANGE.fullmatch(self.request.headers.get("Range", ""))
        if match is None:
            return 0, size
        start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        return (start if start < stop else None), stop
