"""The extension in a real server: light until it is used, found by kernels, noticed by idle cullers, gone in time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from jupyter_swarm.coordinator.app import OWNER_VARIABLE, SERVER_VARIABLE, SwarmExtension

from .server import Swarm

# A server as people start it, on a port that it chooses; a kernel of it that looks for the server; then the end.
PROGRAM = """
import json, os, sys
from jupyter_server.serverapp import ServerApp

IN_KERNEL = '''
import json, os, urllib.request
url = os.environ["JUPYTER_SWARM_SERVER"] + "/swarm/api/sessions"
request = urllib.request.Request(url, headers={"X-Swarm-Owner": os.environ["JUPYTER_SWARM_OWNER"]})
print(json.dumps([urllib.request.urlopen(request).status, url, os.environ["JUPYTER_SWARM_OWNER"]]))
'''

async def use():
    kernel = await app.kernel_manager.start_kernel()
    client = app.kernel_manager.get_kernel(kernel).client()
    client.start_channels()
    await client.wait_for_ready()
    said = []
    await client.execute_interactive(IN_KERNEL, output_hook=said.append)
    client.stop_channels()
    await app.kernel_manager.shutdown_kernel(kernel, now=True)
    texts = [message["content"].get("text", "") + "".join(message["content"].get("traceback", [])) for message in said]
    heavy = sorted({"torch", "matplotlib", "xarray"} & set(sys.modules))
    print(json.dumps({"kernel": texts, "heavy": heavy, "port": app.port, "token": app.identity_provider.token}))
    app.stop()

app = ServerApp.instance()
app.initialize(sys.argv[1:])
app.io_loop.add_callback(use)
app.start()
print(json.dumps({name: value for name, value in os.environ.items() if name.startswith("JUPYTER_SWARM")}))
"""


def test_a_real_server_stays_light_and_its_kernels_find_it(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **{f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")},
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    options = [
        "--port=0",
        "--no-browser",
        "--allow-root",
        "--ServerApp.base_url=/user/ann/",
        f"--ServerApp.root_dir={tmp_path}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used, after = [json.loads(line) for line in done.stdout.splitlines()]
    status, url, secret = json.loads("".join(used["kernel"]))
    assert status == 200
    assert url == f"http://localhost:{used['port']}/user/ann/swarm/api/sessions"
    assert secret not in done.stderr
    assert used["token"] not in secret
    assert used["heavy"] == []
    assert after == {}
    assert not (tmp_path / "DATA" / "swarm").exists()


async def test_a_live_session_keeps_an_idle_culler_away(swarm: Swarm) -> None:
    session = await swarm.open_session()
    # Later than all that the server itself notices.
    active = datetime.now(timezone.utc) + timedelta(hours=1)
    swarm.manager.runtime(session).last_activity = active
    assert swarm.app.web_app.last_activity() < active
    swarm.extension._note_activity()
    assert swarm.app.web_app.last_activity() == active


async def test_kernels_get_nothing_from_a_server_that_has_stopped(swarm: Swarm) -> None:
    await asyncio.sleep(0.01)
    assert os.environ[SERVER_VARIABLE] == f"http://localhost:{swarm.port}{swarm.base}".rstrip("/")
    await swarm.extension.stop_extension()
    assert {SERVER_VARIABLE, OWNER_VARIABLE}.isdisjoint(os.environ)


class TestStopping:
    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"stop_seconds": 0.1}

    async def test_a_session_that_hangs_does_not_keep_the_server(
        self, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = await swarm.open_session()
        runtime = swarm.manager.runtime(session)
        ended = asyncio.Event()

        async def hang() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        stop = runtime.stop
        monkeypatch.setattr(runtime, "stop", hang)
        await swarm.extension.stop_extension()
        assert ended.is_set()
        await stop()


def test_every_setting_is_documented() -> None:
    assert {name for name, trait in SwarmExtension.class_own_traits(config=True).items() if not trait.help} == set()


async def test_the_page_behind_a_link_tells_how_to_join_and_runs_nothing_else(swarm: Swarm) -> None:
    page = await swarm.call("GET", "swarm/join/cs101-7f3a")
    text = page.body.decode()
    assert page.code == 200
    assert "%load_ext jupyter_swarm" in text
    assert "%swarm join" in text
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in text.replace("<!doctype html>", "").replace("http-equiv", "")
    assert page.headers["Referrer-Policy"] == "no-referrer"
