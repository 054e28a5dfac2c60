"""`HYPOTHESIS_PROFILE=deep` searches for longer than a test run may take."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("deep", max_examples=3000, stateful_step_count=120, **_COMMON)
if os.environ.get("HYPOTHESIS_PROFILE") == "deep":
    settings.load_profile("deep")
