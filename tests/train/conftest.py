"""pytest puts tests/ on the import path, where the folder `vllm` passes for the package: trl would ask for its version."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).parents[1]]
