"""The build hook: wheels and sdists carry the panel, built if need be; editable installs carry it if it is there.

An sdist has the built files, so that a wheel is made from it without node.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_INSTALLED = "share/jupyter/labextensions"


class LabExtensionHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    @property
    def _building(self) -> dict[str, Any]:
        return runpy.run_path(str(Path(self.root, "labextension", "building.py")))

    def dependencies(self) -> list[str]:
        """What brings node, if something is to be built and there is none."""
        building = self._building
        # This is asked for editable installs, too, which do not build. Only the command that asks tells them apart.
        editable = any("editable" in word for word in sys.argv)
        return [] if editable or building["is_current"]() or building["has_node"]() else [building["NODE"]]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        building = self._building
        if version != "editable" and not building["is_current"]():
            building["build"]()
        if self.target_name == "wheel" and building["is_current"]():
            build_data["shared_data"][str(building["BUILT"])] = f"{_INSTALLED}/{building['NAME']}"
