"""A whole class behind one address: all of it joins at once by one link, whatever somebody beside it tries."""

from __future__ import annotations

import asyncio

from .scripted import ScriptedPeer
from .server import Swarm, wrong_secret

STUDENTS = 40
GUESSES = 60
"""More than an address may try in a minute."""


async def joined(swarm: Swarm, session: str, invite: dict[str, str]) -> ScriptedPeer:
    """As a kernel does it: look at the session and its recipe, then join."""
    path = f"sessions/{session}"
    described = swarm.json(await swarm.call("GET", path, invite))
    assert (await swarm.call("GET", f"{path}/blobs/{described['spec']['recipe']}", invite)).code == 200
    return await ScriptedPeer.join(swarm, session, invite)


async def test_forty_students_of_one_address_all_get_in_while_somebody_guesses(swarm: Swarm) -> None:
    session = await swarm.open_session(minimum_peers=STUDENTS)
    invite = await swarm.member(session, "peer")
    guesses = asyncio.gather(
        *(swarm.call("GET", f"sessions/{session}", wrong_secret()) for _ in range(GUESSES)),
        *(swarm.connect(f"sessions/{session}/peer", wrong_secret()) for _ in range(GUESSES)),
    )
    students = await asyncio.gather(*(joined(swarm, session, invite) for _ in range(STUDENTS)))
    refused = [answer if isinstance(answer, int) else answer.code for answer in await guesses]
    assert set(refused) == {401, 429}
    assert {student.welcome.peer for student in students} == {f"peer-{number}" for number in range(1, STUDENTS + 1)}
    assert {student.welcome.name for student in students} >= {"ann", "ann 2", f"ann {STUDENTS}"}
    runtime = swarm.manager.runtime(session)
    assert len(runtime.status().peers) == STUDENTS
    while not runtime.state.book.leases:  # the round opens once all of them are ready
        await asyncio.sleep(0.01)


async def test_whoever_has_a_good_invite_gets_in_from_an_address_that_has_guessed_too_much(swarm: Swarm) -> None:
    session = await swarm.open_session()
    invite = await swarm.member(session, "peer")
    while (await swarm.call("GET", f"sessions/{session}", wrong_secret())).code != 429:
        pass
    assert (await joined(swarm, session, invite)).welcome.peer == "peer-1"
