"""What a front end knows of its kernel, without a browser: the outputs of cells, and the state of every widget as the
kernel has sent it; and what somebody in front of it does: run cells, answer, press buttons, interrupt."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from .harness import Failed

VIEW = "application/vnd.jupyter.widget-view+json"
_MODEL = "IPY_MODEL_"
State = dict[str, Any]


class Cell:
    """A cell that runs or has run. outputs: as they stand, replaced where the kernel has replaced them. updates: what
    widgets were told because of it, while it ran; Colab shows no others. asked: what `input()` asked."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.outputs: list[dict[str, Any]] = []
        self.updates: list[tuple[str, State]] = []
        self.asked: list[str] = []
        self.error = ""
        self.done = False

    @property
    def text(self) -> str:
        """All that it printed."""
        return "".join(output.get("text", "") for output in self.outputs)

    def shown(self, trait: str, kind: type[Any]) -> list[Any]:
        """The values that a trait of widgets went through, without repetitions."""
        values = [state[trait] for _, state in self.updates if isinstance(state.get(trait), kind)]
        return list(dict.fromkeys(values))


class FrontEnd:
    """models: the state of each widget, by its id, after all messages so far."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.models: dict[str, State] = {}
        self._manager = manager
        self._client = client
        self._cells: dict[str, Cell] = {}
        self._places: dict[str, tuple[Cell, int]] = {}

    # --- what somebody does

    def run(
        self, code: str, seconds: float, answers: tuple[str, ...] = (), until: Callable[[Cell], bool] | None = None
    ) -> Cell:
        """Run a cell until it ends, or `until` holds. Raises `Failed` if it raises or takes longer."""
        cell = Cell(self._client.execute(code))
        self._cells[cell.message_id] = cell
        waiting = list(answers)
        end = until or (lambda cell: cell.done)

        def ends() -> bool:
            if self._client.stdin_channel.msg_ready():
                cell.asked.append(self._client.get_stdin_msg(timeout=1)["content"]["prompt"])
                self._client.input(waiting.pop(0) if waiting else "")
            return cell.done or end(cell)

        self.wait(ends, f"the end of the cell {code.strip().splitlines()[-1][:60]}", seconds)
        if cell.error:
            raise Failed(f"The cell failed in the kernel:\n{cell.text}\n{cell.error}")
        return cell

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Take what the kernel sends until `condition` holds."""
        last = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > last:
                said = "\n".join(f"{cell.text[-500:]}\n{self.text(cell)[-1500:]}" for cell in self._cells.values())
                raise Failed(f"Waited {seconds:.0f} s in vain for: {what}. The cells said:\n{said}")
            try:
                self._take(self._client.get_iopub_msg(timeout=0.2))
            except queue.Empty:
                continue

    def press(self, cell: Cell, description: str) -> None:
        """Press the button that is called so, the first below a cell. Raises `Failed` if there is none."""
        for model in self._shown(cell):
            state = self.models[model]
            if state["_model_name"] == "ButtonModel" and state["description"] == description:
                self._tell(model, {"method": "custom", "content": {"event": "click"}})
                return
        raise Failed(f"There is no button called {description!r}, but: {', '.join(self.buttons(cell))}.")

    def interrupt(self) -> None:
        """As the stop button does."""
        self._manager.interrupt_kernel()

    # --- what there is to be seen

    def visible(self, cell: Cell) -> list[State]:
        """The states of all widgets that a cell's outputs show now."""
        return [self.models[model] for model in self._shown(cell)]

    def text(self, cell: Cell) -> str:
        """The HTML of these widgets."""
        return "\n".join(state["value"] for state in self.visible(cell) if state["_model_name"] == "HTMLModel")

    def buttons(self, cell: Cell) -> list[str]:
        """What the buttons of these widgets are called."""
        return [state["description"] for state in self.visible(cell) if state["_model_name"] == "ButtonModel"]

    def _shown(self, cell: Cell) -> list[str]:
        roots = [output["data"][VIEW]["model_id"] for output in cell.outputs if VIEW in output.get("data", {})]
        return [model for root in roots for model in self._below(root)]

    def _below(self, model: str) -> Iterator[str]:
        state = self.models[model]
        if self.models.get(state.get("layout", "").removeprefix(_MODEL), {}).get("display") == "none":
            return
        yield model
        for child in state.get("children", ()):
            yield from self._below(child.removeprefix(_MODEL))

    # --- messages

    def _tell(self, model: str, data: dict[str, Any]) -> None:
        message = self._client.session.msg("comm_msg", {"comm_id": model, "data": data})
        self._client.shell_channel.send(message)

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        cell = self._cells.get(message["parent_header"].get("msg_id", ""))
        if kind in ("comm_open", "comm_msg"):
            self._take_comm(content, message.get("buffers") or [], cell)
        elif kind == "update_display_data":
            self._replace(content)
        elif cell is None:
            return
        elif kind == "status":
            cell.done = content["execution_state"] == "idle"
        elif kind == "error":
            cell.error = "\n".join(content["traceback"])
        elif kind in ("stream", "display_data", "execute_result"):
            cell.outputs.append(content)
            place = content.get("transient", {}).get("display_id")
            if place:
                self._places[place] = (cell, len(cell.outputs) - 1)

    def _take_comm(self, content: dict[str, Any], buffers: list[Any], cell: Cell | None) -> None:
        data = content["data"]
        state = data.get("state", {})
        for path, buffer in zip(data.get("buffer_paths", ()), buffers, strict=False):
            place: Any = state
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = bytes(buffer)
        if data.get("method") in (None, "update"):
            self.models.setdefault(content["comm_id"], {}).update(state)
            if cell is not None and not cell.done and data.get("method"):
                cell.updates.append((content["comm_id"], state))

    def _replace(self, content: dict[str, Any]) -> None:
        if shown := self._places.get(content["transient"]["display_id"]):
            cell, place = shown
            cell.outputs[place] = content


@contextmanager
def kernel(name: str, prefix: Path, folder: Path, env: dict[str, str]) -> Iterator[FrontEnd]:
    """A new kernel of the spec `name` under `prefix`, in `folder`, and a front end for it."""
    specs = KernelSpecManager(kernel_dirs=[str(prefix / "share" / "jupyter" / "kernels")])
    manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
    manager.start_kernel(cwd=str(folder), env=env)
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=120)
        yield FrontEnd(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
