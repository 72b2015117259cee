"""The agent as a model of lmms-eval: `lmms_eval --model codevision --model_args model=NAME,base_url=URL --tasks ...`.

lmms-eval finds it through the entry point group `lmms_eval.models`. It gets the bare final answer. Importing this module
needs lmms-eval; nothing else of the package imports it. Stop strings and token limits of a task are left alone, since they
would cut the agent's own messages; its temperature is taken.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages

from kernel_agent.agent import Agent
from kernel_agent.api import choose_model
from kernel_agent.blocking import run_blocking
from kernel_agent.session import KernelPool
from kernel_agent.types import Budget, Sampling, Task

manifest = ModelManifest(model_id="codevision", chat_class_path="kernel_agent.benchmarks.lmms_model.CodeVision")
"""What the entry point gives."""


@register_model("codevision")
class CodeVision(lmms):
    """`--model codevision`.

    Args:
        model, base_url: as `codevision ask` takes them; the key comes from CODEVISION_API_KEY.
        save: folder for each run's notebook.
        at_once: runs in flight. steps, seconds: budget of a run. protocol: how the model writes code.
    """

    is_simple = False

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        save: str | None = None,
        at_once: int = 32,
        steps: int = 12,
        seconds: float = 600.0,
        protocol: str = "native",
        batch_size: int | str = 1,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.model_name = model or ("served" if base_url else "embedded")
        self._model = choose_model(model, base_url=base_url, api_key=os.environ.get("CODEVISION_API_KEY") or None)
        self._budget, self._protocol = Budget(steps=int(steps), seconds=float(seconds)), protocol
        self._at_once = int(at_once)
        self._save = Path(save) if save else None

    def generate_until(self, requests: Any) -> list[str]:
        """The agent's answer to each request, in order; "" where it found none. A failed run is raised."""
        return run_blocking(self._all(list(requests)))

    async def _all(self, requests: list[Any]) -> list[str]:
        if self._save is not None:
            self._save.mkdir(parents=True, exist_ok=True)
        gate = asyncio.Semaphore(self._at_once)
        async with KernelPool(self._at_once) as pool, asyncio.TaskGroup() as group:
            runs = [group.create_task(self._one(request, pool, gate)) for request in requests]
        return [run.result() for run in runs]

    async def _one(self, request: Any, pool: KernelPool, gate: asyncio.Semaphore) -> str:
        _, to_messages, options, document, task, split = request.args
        async with gate:
            messages = ChatMessages(messages=to_messages(self.task_dict[task][split][document])).messages
            images, videos, sounds = ChatMessages(messages=messages).extract_media()
            if videos or sounds:
                raise ValueError(f"{task} has videos or sounds: the agent takes images only.")
            words = [part.text for message in messages for part in message.content if part.type == "text"]
            sampling = replace(Sampling(), temperature=float(options.get("temperature") or 0.0))
            agent = Agent(self._model, protocol=self._protocol, budget=self._budget, sampling=sampling, pool=pool)
            name = f"{task}-{split}-{document}".replace("/", "_")
            trajectory = await agent.arun(
                Task(question="\n".join(words), images=tuple(images), id=name),
                save_to=self._save / f"{name}.ipynb" if self._save else None,
                force=True,
            )
        if trajectory.failure is not None:
            raise trajectory.failure
        return trajectory.answer or ""

    def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
        """An agent that acts has no likelihood of a given text."""
        raise NotImplementedError("The agent generates answers only: choose tasks of the type generate_until.")

    def generate_until_multi_round(self, requests: Any) -> list[str]:
        """Not offered: the harness would drive the rounds, which the agent does itself."""
        raise NotImplementedError("The agent takes its own turns: choose tasks of the type generate_until.")
