"""TRL's GRPOTrainer with rollouts of ours. Importing this imports torch and trl; written for trl 1.16.

What is ours, and why:

- The loop between messages and cells (`_tool_call_loop`). TRL's runs the cells of one rollout after another, ends a rollout in
  silence at a message it cannot parse, and knows no cap of one message. Here all cells of a round run at once, each
  rollout's own agent decides what a message means, and it gets the sampled ids.
- Token exactness: a rollout's ids are prompt, what was sampled, what the chat template puts between, and so on; nothing that was
  sampled is encoded again. The mask is 1 on what was sampled and 0 elsewhere.
- Pictures of Idefics-like processors in rows, one a rollout (TRL hands them over flat, and then counts rows).
- No rollout keeps its kernel when something fails.

What is TRL's: sampling, advantages, loss, optimizer, checkpoints, distribution.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trl import GRPOTrainer

from kernel_agent.blocking import run_blocking
from kernel_agent.errors import InputError
from kernel_agent.models.rendering import image_tokens
from kernel_agent.train.environment import TOOL_NAME
from kernel_agent.train.rollout import Rollout, content_parts, sampled

_AS_USER = """\
{%- set ours = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = [{'type': 'text', 'text': message.content}] if message.content is string else message.content -%}
{%- if message.tool_calls -%}
{%- set content = content + [{'type': 'text', 'text': message.tool_calls | tojson}] -%}
{%- endif -%}
{%- set role = 'user' if message.role == 'tool' else message.role -%}
{%- set ours.messages = ours.messages + [{'role': role, 'content': content}] -%}
{%- endfor -%}
{%- set messages = ours.messages -%}
{%- set tools = none -%}
"""


def training_template(template: str) -> str:
    """A checkpoint's chat template that says to TRL's messages what the native protocol says.

    Tools are in the system prompt already, reports are user messages; calls are written out only in the dummy conversations that
    TRL probes templates with.
    """
    return _AS_USER + template


def image_ids(model: Any) -> list[int]:
    """Ids that stand for pictures in a prompt, which no message may hold."""
    names = ("image_token_id", "video_token_id", "image_token_index")
    return sorted({value for name in names if isinstance(value := getattr(model.config, name, None), int)})


class RolloutTrainer(GRPOTrainer):  # type: ignore[misc]
    """See the module. `turn_tokens` caps one message; `args.max_completion_length` all of a rollout, reports included."""

    def __init__(self, *, turn_tokens: int, processing_class: Any, args: Any, **options: Any) -> None:
        if args.use_vllm and args.vllm_mode == "colocate":
            raise InputError(
                "vllm_mode='colocate' puts images into prompts twice (trl issue 6294): start a server with `trl vllm-serve` and "
                "give its address (--vllm-base-url), or sample with transformers"
            )
        if args.use_vllm and args.world_size > 1:
            raise InputError(
                f"{args.world_size} processes and a vLLM server: TRL 1.16 deals a round's messages out by rank as if each had as many "
                "rollouts going on, so they would reach the wrong ones. Train in one process (--lora), or sample with transformers"
            )
        self.turn_tokens = turn_tokens
        self.image_words = image_tokens(processing_class)
        self.seconds: dict[str, float] = {}
        self._rows: list[int] = []
        processing_class.chat_template = training_template(processing_class.chat_template)
        tokenizer = processing_class.tokenizer
        tokenizer.response_template = {}  # TRL asks for one; messages are read by the protocol
        super().__init__(processing_class=processing_class, args=args, **options)
        tokenizer.response_template = None
        if self.model.config.model_type in ("idefics2", "idefics3", "smolvlm"):
            _in_rows(processing_class.image_processor, self._rows)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        parameters = inspect.signature(type(base).forward).parameters
        self._typed = bool({"token_type_ids", "mm_token_type_ids"} & parameters.keys())

    def _generate_and_score_completions(self, inputs: list[Any]) -> Any:
        self.seconds = dict.fromkeys(("other", "generation", "kernels", "scoring"), 0.0)
        try:
            with self._timed("other"):  # opening images, tokenizing, reference log-probabilities
                out = super()._generate_and_score_completions(inputs)
        finally:
            environments = [one for pool in self._environment_pool.values() for one in pool]
            run_blocking(_all(one.rollout.close() for one in environments if hasattr(one, "rollout")))
        for name, value in self.seconds.items():
            self._metrics["train" if self.model.training else "eval"][f"seconds/{name}"].append(value)
        if not self._typed:
            out.pop("token_type_ids", None)
        return out

    def _calculate_rewards(self, *arguments: Any) -> Any:
        with self._timed("scoring"):
            return super()._calculate_rewards(*arguments)

    def _generate_single_turn(self, prompt_ids: list[list[int]], *arguments: Any, **options: Any) -> Any:
        if not self.use_vllm:
            room = self._context() - max(map(len, prompt_ids))
            self.generation_config.max_new_tokens = max(1, min(self.turn_tokens, room))
        with self._timed("generation"):
            return super()._generate_single_turn(prompt_ids, *arguments, **options)

    def _tool_call_loop(
        self,
        prompts: Any,
        prompt_ids: list[list[int]],
        completion_ids: list[list[int]],
        completions: list[Any],
        logprobs: list[list[float]] | None,
        images: list[list[Any]],
        multimodal_fields: Any,
    ) -> tuple[Any, ...]:
        """All rollouts to their ends: what was sampled goes to the agents, what they report comes behind it, and so on."""
        rollouts: list[Rollout] = [environment.rollout for environment in self.environments]
        mask = [[1] * len(ids) for ids in completion_ids]
        pictures: list[list[Any]] = [[] for _ in prompt_ids]
        written = {index: list(ids) for index, ids in enumerate(completion_ids)}
        while written:
            said = {
                index: sampled(
                    self._tokenizer,
                    prompt_ids[index] + completion_ids[index][: -len(ids) or None],
                    ids,
                    self.eos_token_ids,
                )
                for index, ids in written.items()
            }
            with self._timed("kernels"):
                replies = run_blocking(_all(rollouts[index].give(one) for index, one in said.items()))
            going: list[int] = []
            for (index, ids), reply in zip(written.items(), replies, strict=True):
                if reply is None:
                    continue
                parts = content_parts(reply, self.image_words)
                between = self._between(ids, parts)
                length = len(completion_ids[index]) + len(between)
                limits = (self.max_completion_length, self._context() - len(prompt_ids[index]))
                if length >= min(limits):
                    why = f"The rollout's {length} tokens, reports included, leave no room: the limits are {limits[0]} for it and {limits[1]} for the model."
                    run_blocking(rollouts[index].refuse(why))
                    continue
                completion_ids[index] = completion_ids[index] + between
                mask[index] += [0] * len(between)
                if logprobs is not None:
                    logprobs[index] = logprobs[index] + [0.0] * len(between)
                pictures[index] += [part["image"] for part in parts if part["type"] == "image"]
                going.append(index)
            written = self._sample(going, prompt_ids, completion_ids, mask, logprobs, images, pictures)
        steps = [step for rollout in rollouts if rollout.trajectory is not None for step in rollout.trajectory.steps]
        calls = sum(step.cell is not None for step in steps)
        failed = sum(step.cell is not None and step.cell.status != "ok" for step in steps)
        self._rows[:] = [len(own) + len(new) for own, new in zip(images, pictures, strict=True)]
        return mask, completions, completion_ids, logprobs, calls, failed, pictures

    def _sample(
        self,
        going: Sequence[int],
        prompt_ids: list[list[int]],
        completion_ids: list[list[int]],
        mask: list[list[int]],
        logprobs: list[list[float]] | None,
        images: list[list[Any]],
        pictures: list[list[Any]],
    ) -> dict[int, list[int]]:
        """The next message of the rollouts that go on, added to what they have."""
        if not going:
            return {}
        shown = [images[index] + pictures[index] for index in going]
        self._rows[:] = map(len, shown)
        fields = dict(
            self.processing_class.image_processor(images=[one for row in shown for one in row], return_tensors="pt")
        )
        ids, scores = self._generate_single_turn(
            [prompt_ids[index] + completion_ids[index] for index in going],
            shown,
            fields,
            1,
            has_tool_images=self._typed,
        )
        for place, index in enumerate(going):
            room = self.max_completion_length - len(completion_ids[index])
            ids[place] = ids[place][:room]
            completion_ids[index] = completion_ids[index] + ids[place]
            mask[index] += [1] * len(ids[place])
            if logprobs is not None:
                logprobs[index] = logprobs[index] + scores[place][:room]
        return dict(zip(going, ids, strict=True))

    def _between(self, ids: list[int], parts: list[dict[str, Any]]) -> list[int]:
        """What the template puts between two messages of the model: the end of one that was cut, the report, the header."""
        end = [] if ids and ids[-1] in self.eos_token_ids else [self._tokenizer.eos_token_id]
        suffix: list[int] = self._get_tool_suffix_ids([{"role": "tool", "name": TOOL_NAME, "content": parts}])
        return end + suffix

    def _context(self) -> int:
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Seconds spent inside, less those of parts that are timed themselves."""
        began, others = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - others
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began - inside


def _in_rows(image_processor: Any, rows: list[int]) -> None:
    """A flat list of pictures is taken in rows of these lengths."""
    own = type(image_processor)

    def call(self: Any, images: Any, *arguments: Any, **options: Any) -> Any:
        if (
            rows
            and isinstance(images, list)
            and images
            and not isinstance(images[0], list)
            and len(images) == sum(rows)
        ):
            ends = [sum(rows[: place + 1]) for place in range(len(rows))]
            images = [images[end - length : end] for end, length in zip(ends, rows, strict=True)]
        return own.__call__(self, images, *arguments, **options)

    image_processor.__class__ = type(own.__name__, (own,), {"__call__": call, "__module__": own.__module__})


async def _all(waiting: Any) -> list[Any]:
    return await asyncio.gather(*waiting)
