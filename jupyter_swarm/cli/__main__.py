"""`python -m jupyter_swarm.cli`, where the console script is not on the PATH."""

import sys

from . import main

sys.exit(main())
