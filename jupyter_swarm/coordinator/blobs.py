"""Blobs over HTTP: the owner brings them, the members of a session fetch those that it names."""

from __future__ import annotations

import asyncio

from ..protocol.errors import Refusal
from ..store.blobs import BlobWriter
from .bodies import ApiHandler
from .guard import Gate, allows

_PIECE = 1 << 20


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
    """`GET sessions/ID/blobs/SHA256`: the recipe and the first parameters of a session, no other blobs."""

    @allows("owner", "instructor", "peer", "holder")
    async def get(self, session: str, sha256: str) -> None:
        spec = (await self.manager.stored(session)).spec
        if sha256 not in (spec.recipe, spec.initial):
            raise Refusal("The session names no such blob.", todo="Fetch its recipe or its first parameters.")
        blobs = (await self.manager.storage()).blobs
        self.set_header("Content-Length", str(await asyncio.to_thread(blobs.size, sha256)))
        self.set_header("Content-Type", "application/octet-stream")
        file = await asyncio.to_thread(blobs.open, sha256)
        try:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                self.write(piece)
                await self.flush()
        finally:
            await asyncio.to_thread(file.close)
        self.finish()
