"""Uploads and downloads: streamed, limited, checked."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from .server import INITIAL, RECIPE, Swarm, sha256

LIMIT = 3 << 20


@pytest.fixture
def extension_config() -> dict[str, Any]:
    return {"max_blob_bytes": LIMIT}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return tmp_path / "swarm" / "blobs"


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_blob_of_the_largest_size_is_stored(swarm: Swarm, stored: Path) -> None:
    data = bytes(range(256)) * (LIMIT // 256)
    answer = await swarm.call("PUT", f"blobs/{sha256(data)}", swarm.owner(), data)
    assert swarm.json(answer, 201) == {"sha256": sha256(data), "bytes": LIMIT}
    assert (stored / sha256(data)).read_bytes() == data


async def test_one_byte_more_is_refused(swarm: Swarm, stored: Path) -> None:
    data = bytes(LIMIT + 1)
    answer = await swarm.call("PUT", f"blobs/{sha256(data)}", swarm.owner(), data)
    assert f"{LIMIT} bytes" in swarm.json(answer, 413)["what"]
    assert not stored.exists() or files_in(stored) == []


async def test_it_is_refused_too_when_its_size_is_not_announced(swarm: Swarm, stored: Path) -> None:
    data = bytes(LIMIT + 1)

    async def pieces(write: Any) -> None:
        for start in range(0, len(data), 1 << 20):
            await write(data[start : start + (1 << 20)])

    answer = await swarm.call("PUT", f"blobs/{sha256(data)}", swarm.owner(), body_producer=pieces)
    assert answer.code == 413
    await asyncio.sleep(0)
    assert files_in(stored) == []


async def test_bytes_that_are_not_the_announced_ones_are_refused(swarm: Swarm, stored: Path) -> None:
    answer = await swarm.call("PUT", f"blobs/{sha256(RECIPE)}", swarm.owner(), INITIAL)
    assert "not those that were announced" in swarm.json(answer, 400)["what"]
    assert files_in(stored) == []


async def test_nothing_is_left_of_an_upload_that_breaks_off(swarm: Swarm, stored: Path) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", swarm.port)
    head = f"PUT {swarm.base}swarm/api/blobs/{'0' * 64} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000\r\n"
    writer.write(head.encode() + f"Authorization: {swarm.owner()['Authorization']}\r\n\r\n".encode() + bytes(1_500_000))
    await writer.drain()
    while not stored.exists() or not files_in(stored):
        await asyncio.sleep(0.01)
    writer.close()
    while files_in(stored):
        await asyncio.sleep(0.01)


async def test_a_stranger_cannot_fill_the_memory(swarm: Swarm) -> None:
    """The answer comes before the body, of which nothing is kept."""
    reader, writer = await asyncio.open_connection("127.0.0.1", swarm.port)
    writer.write(
        f"POST {swarm.base}swarm/api/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500000000\r\n\r\n".encode()
    )
    assert b"403" in await reader.readline()
    writer.close()


async def test_members_fetch_what_their_session_names_and_nothing_else(swarm: Swarm) -> None:
    session = await swarm.open_session()
    other = b"of another session"
    await swarm.call("PUT", f"blobs/{sha256(other)}", swarm.owner(), other)
    peer = await swarm.member(session, "peer")
    for data in (RECIPE, INITIAL):
        answer = await swarm.call("GET", f"sessions/{session}/blobs/{sha256(data)}", peer)
        assert (answer.code, answer.body) == (200, data)
        assert answer.headers["Content-Type"] == "application/octet-stream"
    assert (await swarm.call("GET", f"sessions/{session}/blobs/{sha256(other)}", peer)).code == 400


async def test_a_download_that_breaks_off_is_no_error_of_the_server(
    swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytes(32 << 20)
    (await swarm.manager.storage()).blobs.put(data)
    session = await swarm.open_session(facts={"data": sha256(data)})
    (header,) = (await swarm.member(session, "peer")).items()
    reader, writer = await asyncio.open_connection("127.0.0.1", swarm.port)
    path = f"{swarm.base}swarm/api/sessions/{session}/blobs/{sha256(data)}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{': '.join(header)}\r\n\r\n".encode())
    assert b"200" in await reader.readline()
    writer.transport.abort()
    while not any("GET" in record.getMessage() and sha256(data) in record.getMessage() for record in caplog.records):
        await asyncio.sleep(0.01)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
