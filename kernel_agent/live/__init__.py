"""Live runs: a run in the background that any number of faces watch and steer (widget, server, panel).

`Runs` starts, opens, lists and keeps them; a `LiveRun` takes commands and tells what happens as numbered events. A face
needs to know nothing else of this package. events.py says what each event holds.
"""

from kernel_agent.live.log import EventLog
from kernel_agent.live.options import RunOptions
from kernel_agent.live.run import LiveRun
from kernel_agent.live.runs import Runs

__all__ = ["EventLog", "LiveRun", "RunOptions", "Runs"]
