"""An OpenAI-compatible endpoint that runs the whole agent: images and a question in, the bare final answer out.

For every harness that speaks to `/v1/chat/completions`. `codevision endpoint` starts it; `build_app` gives the ASGI application.
Needs starlette and uvicorn (`kernel-agent[endpoint]`, in `[eval]` too).
"""

from kernel_agent.endpoint.app import EndpointOptions, build_app
from kernel_agent.endpoint.serving import serve

__all__ = ["EndpointOptions", "build_app", "serve"]
