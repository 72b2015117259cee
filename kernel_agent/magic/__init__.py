"""`%load_ext kernel_agent`: `%codevision "question" image ...` in a notebook or in IPython.

The agent works in a kernel of its own, isolated as everywhere; of the notebook it gets the images it is given, and nothing it does
touches the notebook's variables. The line returns the Trajectory. Ctrl-C (or the notebook's stop button) stops the agent
and keeps the kernel. In a notebook a live view shows the run and steers it, also while the cell waits (comms.py).
"""

from __future__ import annotations

from kernel_agent.magic.magics import CodeVisionMagics, load, unload

__all__ = ["CodeVisionMagics", "load", "unload"]
