"""Run the endpoint on a socket until Ctrl-C or SIGTERM; its address goes to stdout when it takes requests."""

from __future__ import annotations

import socket

import uvicorn

from kernel_agent.endpoint.app import EndpointOptions, build_app


def serve(options: EndpointOptions, *, host: str, port: int) -> None:
    """Blocks. Raises OSError where the address cannot be had, and what `build_app` raises."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        app = build_app(options)
        listener.listen(2048)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10, lifespan="on")
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listener.getsockname()[1]}/v1 serves {app.state.endpoint.name}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])
