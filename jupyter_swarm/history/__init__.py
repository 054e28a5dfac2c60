"""What happened in a run: metrics as an `xarray.Dataset`, its file, its figure, its run card.

Imports neither the network nor torch. The accessor `.swarm` is on every dataset once this package is imported.
"""

from .accessor import concat
from .alone import build_alone
from .card import RunCard, read_card
from .dataset import build, dataset_of
from .files import open_history
from .rows import Rows

__all__ = ["Rows", "RunCard", "build", "build_alone", "concat", "dataset_of", "open_history", "read_card"]
