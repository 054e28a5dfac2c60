"""Does a checkpoint open with plain transformers, and compute the same there? In a process without jupyter_swarm.

    python -m tests.benchmarks.checkpoint [--size class] [--rounds N] [--json FILE]

This process trains the recipe `language` in a session on a real Jupyter server, synchronously and then by one round of
local updates, and downloads the last checkpoint. Another process, which never imports jupyter_swarm, opens it with
`AutoModelForCausalLM` and `AutoTokenizer`, reads the held-out text from a file and computes the logits of all its
windows and their mean loss. Beside these stand the held-out loss that the session recorded after its last round, and
the logits of the model as training left it in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import safetensors.torch
import torch
from tokenizers import Tokenizer

from jupyter_swarm import Recipe, host, load_recipe

from .harness import ONE_THREAD, Failed, server, wait_until, workplace
from .reporting import Figures, main, table

PLAIN = """
import json, sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, text, out = map(Path, sys.argv[1:])
model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
length = tokenizer.model_max_length
ids = torch.tensor(tokenizer(text.read_bytes().decode())["input_ids"])
windows = ids.unfold(0, length + 1, length)
with torch.no_grad():
    logits = torch.cat([model.eval()(window[None, :-1]).logits for window in windows])
save_file({"logits": logits}, out)
print(json.dumps({
    "loss": float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())),
    "predictions": windows[:, 1:].numel(),
    "model": type(model).__name__,
    "not_as_saved": sorted(str(name) for names in found.values() for name in names),
    "imports_jupyter_swarm": "jupyter_swarm" in sys.modules,
}))
"""
_SECONDS = 300.0


def compared(recipe: Recipe) -> Figures:
    """Train `recipe`; its checkpoint in the session and by plain transformers."""
    with workplace() as (folder, stack):
        stack.enter_context(mock.patch.dict(os.environ, JUPYTER_RUNTIME_DIR=str(folder / "runtime")))
        here = server(folder, stack)
        session = host(recipe, server=here.owner_url)
        stack.callback(session.leave)
        if not session.wait(_SECONDS):
            raise Failed(f"The session did not finish: {session.status()}")
        wait_until(lambda: any(one.name == "final" for one in session.checkpoints()), "the last checkpoint", _SECONDS)
        checkpoint = session.checkpoints()[-1].download(folder / "checkpoint", progress=False)
        data = recipe.load_data()
        text = Tokenizer.from_str(data.files["tokenizer.json"].decode()).decode(data.held_out.tokens.tolist())
        (folder / "held-out.txt").write_bytes(text.encode())
        plain, theirs = _plain(folder, "checkpoint", "held-out.txt", "logits.safetensors")
        with torch.no_grad():
            model = session.model.eval()
            ours = torch.cat([model(input_ids=window[None, :-1]).logits for window in data.held_out])
        return {
            "rounds": checkpoint.version,
            "bytes": checkpoint.manifest.bytes,
            "session": {
                "loss": float(session.history()["held_out_loss"].dropna("round")[-1]),
                "predictions": len(data.held_out) * data.held_out.length,
                "model": type(model).__name__,
            },
            "plain": plain,
            "logits": float((ours - theirs).abs().max()),
            "largest_logit": float(ours.abs().max()),
        }


def _plain(folder: Path, *names: str) -> tuple[Figures, torch.Tensor]:
    """What the process without us says, and its logits."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *names], cwd=folder, env={**os.environ, **ONE_THREAD}, capture_output=True,
        text=True, timeout=_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"The checkpoint did not open:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), safetensors.torch.load_file(folder / names[-1])["logits"]


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(1)
    found = compared(
        load_recipe(
            "language", SIZE=chosen.size, WARM_ROUNDS=chosen.rounds, LOCAL_ROUNDS=1, LOCAL_STEPS=10, HELD_OUT=0.002
        )
    )
    ours, plain = found["session"], found["plain"]
    imports = "imports jupyter_swarm" if plain["imports_jupyter_swarm"] else "never imports jupyter_swarm"
    print(f"After {found['rounds']} rounds; {found['bytes'] / 1e6:.1f} MB. The other process {imports}; "
          f"tensors missing, left over or of another shape: {', '.join(plain['not_as_saved']) or 'none'}.")  # fmt: skip
    table(
        ["", "in the session", "by plain transformers", "difference"],
        [
            ["model", ours["model"], plain["model"], ""],
            ["held-out predictions", ours["predictions"], plain["predictions"], None],
            ["held-out loss", f"{ours['loss']:.7f}", f"{plain['loss']:.7f}", abs(ours["loss"] - plain["loss"])],
            ["largest difference of logits", f"of logits up to ±{found['largest_logit']:.3f}", "", found["logits"]],
        ],
    )
    print("Aims: the same held-out loss; logits that differ by at most 1e-5.")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="class", help="of the language recipe")
    parser.add_argument("--rounds", type=int, default=20, help="synchronous ones, before one of local updates")
    main(parser, measure)
