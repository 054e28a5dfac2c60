"""What this kernel would train with, said before it does."""

from __future__ import annotations

import shutil

import torch

from ..peer.compute import pick_device
from ..protocol.errors import SwarmError
from .frontend import in_colab


def device_text(name: str = "") -> str:
    """The device, and what to do if a GPU is left out."""
    try:
        device = pick_device(name)
    except SwarmError as error:
        return str(error)
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    if device.type != "cpu" or name:
        return str(device)
    if in_colab():
        return "the CPU: no GPU is selected. Runtime → Change runtime type → GPU, then run this again"
    if shutil.which("nvidia-smi"):
        return "the CPU: there is an NVIDIA GPU, but torch here cannot use it; install a torch built for CUDA"
    return "the CPU: torch finds no GPU here"
