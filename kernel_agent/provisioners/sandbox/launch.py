"""The isolated kernel of a plain start: `python -m kernel_agent.provisioners.sandbox.launch PLAN -f CONNECTION_FILE`.

To be started by `spawn.spawn`: it dies with the thread that started it.
"""

from __future__ import annotations

import sys
from typing import Any

from kernel_agent.provisioners.sandbox.enter import enter, seal
from kernel_agent.provisioners.sandbox.plan import Plan


def main() -> None:
    """Isolate this process, and be the kernel."""
    plan = Plan.from_json(sys.argv.pop(1))
    enter(plan, held=True)
    from kernel_agent.session import kernel_app

    class SealedApp(kernel_app.KernelApp):
        """Seals itself between `initialize` and the first message."""

        def start(self) -> None:
            seal(plan)
            super().start()

    launcher: Any = kernel_app
    launcher.KernelApp = SealedApp
    kernel_app.main()


if __name__ == "__main__":
    main()
