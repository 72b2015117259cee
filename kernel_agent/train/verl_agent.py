"""CodeVision for verl 0.9's trainer (FSDP or Megatron, Ray, vLLM or SGLang): its agent loop, and its dataset.

A rollout is a run of the agent (rollout.py), whose messages verl's servers sample. Its tokens are those that verl's own Continuous
Token builder makes of the agent's messages; what was sampled is never encoded again, and only that has a mask of 1. verl runs all rollouts
of a prompt in one process, so they are scored there together (scoring.py), when the last of them is over.

Every worker process has kernels of its own. It and they end together.

Importing this imports torch and verl. In verl's configuration (docs/training-verl.md):

    data.custom_cls.path=pkg://kernel_agent.train.verl_agent  data.custom_cls.name=Tasks
    actor_rollout_ref.rollout.agent.agent_loop_config_path=codevision.yaml, which holds
        - {name: codevision, _target_: kernel_agent.train.verl_agent.CodeVisionLoop, records: out}    # and Options
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
from torch.utils.data import Dataset
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.utils.model import get_generation_config

from kernel_agent.agent import Agent
from kernel_agent.errors import InputError
from kernel_agent.models.rendering import image_tokens
from kernel_agent.rewards import Rewards, Score
from kernel_agent.session import KernelPool
from kernel_agent.train.lessons import read_lessons
from kernel_agent.train.rollout import Lesson, Rollout, content_parts, rollout_agent, sampled
from kernel_agent.train.scoring import COMPONENTS, Scoring
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Completion, Isolation, KernelOptions, Message

NAME = "codevision"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the loop's entry in `agent_loop_config_path` may say. Lengths of prompt and response are verl's own settings.

    Attributes:
        records: folder for `rollouts-HOST-PID.jsonl`, one line a rollout.
        rewards: set of `kernel_agent.rewards`.
        messages, turn_tokens: of one rollout, and tokens of one message.
        cell_seconds: of one cell before it is interrupted.
        images: made by one rollout.
        kernels: at a time, in one worker process; other rollouts wait for one.
        isolation, memory_mb: of a kernel (`KernelOptions`).
        notebooks: folder of saved rollouts, those of every `every` steps; None for none.
    """

    records: str
    rewards: Rewards = Rewards.DEFAULT
    messages: int = 12
    turn_tokens: int = 2048
    cell_seconds: float = 60.0
    images: int = 32
    kernels: int = 32
    isolation: Isolation | Literal["auto"] = "auto"
    memory_mb: int = 4096
    notebooks: str | None = None
    every: int = 1


class Tasks(Dataset[dict[str, Any]]):
    """What `codevision train grpo --tasks` takes (lessons.py), as verl's `data.train_files` and `data.val_files`."""

    def __init__(
        self, data_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1
    ) -> None:
        files = [data_files] if isinstance(data_files, str | os.PathLike) else list(data_files)
        self._lessons: list[Lesson] = []
        for file in files:
            lessons, left_out = read_lessons(Path(file))
            for why in left_out[:10]:
                print(f"Left out {why}")
            self._lessons += lessons.values()
        if max_samples > 0:
            del self._lessons[max_samples:]

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, index: int) -> dict[str, Any]:
        lesson = self._lessons[index]
        return {
            "agent_name": NAME,
            # for verl's logs: the agent writes its own
            "raw_prompt": [{"role": "user", "content": lesson.truth.question}],
            "lesson": lesson,
            "data_source": lesson.truth.source or NAME,
            "reward_model": {"style": "rule", "ground_truth": "; ".join(lesson.truth.answers)},
            "index": index,
            "dummy_tensor": torch.zeros(1, dtype=torch.uint8),  # verl wants a tensor in every batch
        }


@dataclass
class _Group:
    """Rollouts of one prompt: `going` are not over, `runs` are, by their number."""

    going: int = 0
    runs: dict[int, Trajectory] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    scoring: asyncio.Task[dict[int, Score]] | None = None


_groups: dict[str, _Group] = {}


@cache
def _kernels(options: Options) -> KernelPool:
    """Of this process, which verl ends with a kill: they see that and end."""
    kernel = KernelOptions(isolation=options.isolation, memory_mb=options.memory_mb)
    return KernelPool(options.kernels, kernel=kernel)


@cache
def _ends(model: str) -> frozenset[int]:
    """Ids that end a message, as the checkpoint's generation_config.json has them, if it has one."""
    ids = getattr(get_generation_config(model), "eos_token_id", None)
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


class CodeVisionLoop(AgentLoopBase):  # type: ignore[misc]
    """One rollout. `settings` are those of `Options`; an unknown one is a TypeError."""

    def __init__(
        self,
        trainer_config: Any,
        server_manager: Any,
        tokenizer: Any,
        processor: Any,
        dataset_cls: Any,
        data_config: Any,
        hf_model_type: str | None = None,
        tools: Any = None,
        name: str = NAME,
        **settings: Any,
    ) -> None:
        super().__init__(trainer_config, server_manager, tokenizer, processor, dataset_cls, data_config, hf_model_type)
        settings["rewards"] = Rewards(settings.get("rewards", Rewards.DEFAULT))
        if (level := settings.get("isolation", "auto")) != "auto":
            settings["isolation"] = Isolation(level)
        self.options = Options(**settings)
        self.model = str(self.config.actor_rollout_ref.model.path)
        self.ends = _ends(self.model) | {tokenizer.eos_token_id}

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """The rollout with number `session_id` of the prompt `uid`, scored with the others."""
        if "session_id" not in row:
            raise InputError(
                "rollouts of one prompt have to be in one process: take verl's trainer with trainer.use_v1=True"
            )
        lesson, uid, number, step = row["lesson"], str(row["uid"]), int(row["session_id"]), int(row["global_steps"])
        group = _groups.setdefault(uid, _Group())
        group.going += 1  # before anything is awaited, so that all of them are counted when the first is over
        rollout = Rollout({"model": self.model, "updates": step})
        try:
            output = await _Tokens(self, sampling_params, rollout).run(lesson)
            group.runs[number] = rollout.over
        finally:
            await rollout.close()
            group.going -= 1
            if not group.going:
                _groups.pop(uid, None)
                group.settled.set()
        await group.settled.wait()
        began = time.perf_counter()
        group.scoring = group.scoring or asyncio.create_task(self._score(lesson, group, step))
        score = (await asyncio.shield(group.scoring))[number]
        output.metrics.compute_score = time.perf_counter() - began
        output.reward_score = score.total
        output.extra_fields["reward_extra_info"] = {
            "correct": float(score.verdict.correct),
            **dict.fromkeys(COMPONENTS[self.options.rewards], 0.0),  # of all rollouts alike, as verl wants them
            **{one.name: one.contribution for one in score.components},
        }
        return output

    async def _score(self, lesson: Lesson, group: _Group, step: int) -> dict[int, Score]:
        records = Path(self.options.records)
        notebooks = Path(self.options.notebooks) if self.options.notebooks else None
        file = records / f"rollouts-{socket.gethostname()}-{os.getpid()}.jsonl"
        scoring = Scoring(self.options.rewards, file, notebooks, self.options.every)
        numbers = sorted(group.runs)
        scores, _ = await asyncio.to_thread(scoring.score, lesson.truth, [group.runs[one] for one in numbers], step)
        return dict(zip(numbers, scores, strict=True))


class _Tokens:
    """The tokens of one rollout: prompt, then what was sampled and what the template puts between, with mask and log-probabilities."""

    def __init__(self, loop: CodeVisionLoop, sampling: dict[str, Any], rollout: Rollout) -> None:
        self.loop, self.sampling, self.rollout = loop, sampling, rollout
        self.broken = image_tokens(loop.processor)
        self.messages: list[dict[str, Any]] = []
        self.pictures: list[Any] = []
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.scores: list[float] | None = [] if sampling.get("logprobs") else None
        self.metrics = AgentLoopMetrics()
        self.extra: dict[str, Any] = {}
        self.request = uuid4().hex  # the same for all messages: they go to one server

    async def run(self, lesson: Lesson) -> AgentLoopOutput:
        """To its end."""
        loop, limit = self.loop, self.loop.rollout_config.response_length
        for message in await self.rollout.start(self._agent(), lesson):
            self._add(message)
        loop._assert_mm_supported(bool(self.pictures))
        self.ids = await loop.ct_build_initial_tokens(self.messages, images=self.pictures or None)
        prompt, ids = self.ids, await self._generate(limit)
        while True:
            said = sampled(loop.tokenizer, self.ids[: len(self.ids) - len(ids)], ids, loop.ends)
            began = time.perf_counter()
            report = await self.rollout.give(said)
            self.metrics.tool_calls += time.perf_counter() - began
            if report is None:
                break
            length = await self._report(said, report, limit)
            if length >= limit:
                await self.rollout.refuse(
                    f"The rollout's {length} tokens, reports included, leave no room: data.max_response_length is {limit}."
                )
                break
            ids = await self._generate(limit - length)
        return AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=self.ids[len(prompt) :],
            response_mask=self.mask,
            response_logprobs=self.scores,
            multi_modal_data={"images": self.pictures} if self.pictures else {},
            num_turns=2 * len(self.rollout.over.steps),  # a message of the user's, or a report, and one of the model's
            metrics=self.metrics,
            extra_fields=self.extra,
        )

    def _agent(self) -> Agent:
        options = self.loop.options
        return rollout_agent(
            self.rollout,
            _kernels(options),
            messages=options.messages,
            turn_tokens=options.turn_tokens,
            cell_seconds=options.cell_seconds,
            images=options.images,
            temperature=float(self.sampling["temperature"]),
            top_p=float(self.sampling["top_p"]),
        )

    def _add(self, message: Message) -> None:
        """A message in verl's form at the end of the conversation."""
        parts = content_parts(message, self.broken)
        self.messages.append({"role": message.role, "content": parts})
        self.pictures += [part["image"] for part in parts if part["type"] == "image"]

    async def _generate(self, room: int) -> list[int]:
        """The next message's ids, at most as many as there is room for, behind what there is."""
        limit = min(self.loop.options.turn_tokens, room)
        began = time.perf_counter()
        output = await self.loop.server_manager.generate(
            request_id=self.request,
            prompt_ids=self.ids,
            sampling_params={**self.sampling, "max_tokens": limit},
            image_data=self.pictures or None,
        )
        self.metrics.generate_sequences += time.perf_counter() - began
        if output.num_preempted is not None:
            self.metrics.num_preempted = max(self.metrics.num_preempted, 0) + output.num_preempted
        first = self.extra.get("min_global_steps", output.extra_fields.get("min_global_steps"))
        self.extra |= {**output.extra_fields, "min_global_steps": first}
        ids: list[int] = list(output.token_ids)
        merged, self.mask, self.scores = await self.loop.ct_merge_assistant_token(
            self.ids, ids, self.mask, self.scores, None if self.scores is None else output.log_probs
        )
        self.ids = merged.token_ids
        return ids

    async def _report(self, said: Completion, report: Message, limit: int) -> int:
        """Put a report behind a message, if it fits; the response's tokens with it."""
        loop, before = self.loop, len(self.pictures)
        so_far, mask, scores = list(self.ids), list(self.mask), None if self.scores is None else list(self.scores)
        if said.finish_reason == "length":  # a message that was cut is ended here
            so_far, mask = [*so_far, loop.tokenizer.eos_token_id], [*mask, 0]
            scores = None if scores is None else [*scores, 0.0]
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": said.text}]})
        previous = list(self.messages)
        self._add(report)
        merged, mask, scores = await loop.ct_merge_context_msg(previous, self.messages, so_far, mask, scores)
        if len(mask) < limit:
            self.ids, self.mask, self.scores = merged.token_ids, mask, scores
        else:
            del self.pictures[before:], self.messages[len(previous) :]
        return len(mask)
