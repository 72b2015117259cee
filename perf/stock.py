"""What ours is measured against: ipykernel as jupyter_client starts and drives it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from jupyter_client import AsyncKernelManager

IMPORTS = "import numpy, PIL.Image, cv2\nimport matplotlib.pyplot"


@contextlib.asynccontextmanager
async def manager(**options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A stock kernel, ready, and its client."""
    held = AsyncKernelManager(kernel_name="python3", **options)
    await held.start_kernel()
    client = held.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=180)
        yield held, client
    finally:
        client.stop_channels()
        await held.shutdown_kernel(now=True)


async def run(client: Any, code: str) -> list[dict[str, Any]]:
    """Run code on a stock kernel; wait for its reply and its idle. Returns its outputs."""
    sent = client.execute(code)
    outputs: list[dict[str, Any]] = []
    while True:
        message = await client.get_iopub_msg(timeout=180)
        if message["parent_header"].get("msg_id") != sent:
            continue
        if message["msg_type"] in ("display_data", "execute_result", "stream", "error"):
            outputs.append(message)
        if message["content"].get("execution_state") == "idle":
            break
    while (answer := await client.get_shell_msg(timeout=180))["parent_header"].get("msg_id") != sent:
        pass
    assert answer["content"]["status"] == "ok", answer["content"]
    return outputs
