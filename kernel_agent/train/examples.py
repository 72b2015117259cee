"""Runs as training examples: what a checkpoint reads at inference, token for token, with what it should have written.

Each step's prompt is rendered by the same code as for generation (models/rendering.py) and followed by what was written: the
recorded token ids, where the recorded prompt has the hash of ours (the same template, tokenizer and pictures), else the text,
encoded on its own, and the end of the turn. Where the next prompt begins with all of that, the steps share one example. Where
it does not, the next step begins a new one: templates that drop earlier thoughts (Qwen3 Thinking), sampled ids that are
not how their text is encoded. So whatever has a label has before it exactly what the model sees there.

Labels are IGNORED but on what was written. Nothing is cut inside a step: from the first step on that is longer than the limit
a run is left out, with a reason. Pictures are read and decoded when a batch is made, and must still be the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernel_agent.errors import CodeVisionError, InputError
from kernel_agent.models.rendering import image_tokens, picture, prepare, render
from kernel_agent.models.text import break_up, mend
from kernel_agent.models.tokens import rendered_prompt
from kernel_agent.tasks.released import RowError
from kernel_agent.train.runs import Run
from kernel_agent.types import Completion, ImagePart, KernelImage, Message, TextPart

IGNORED = -100
"""A label that no loss is computed on."""
_OPENED = re.compile(r"(<think(?:ing)?>)\s*\Z")


@dataclass(frozen=True, kw_only=True)
class Example:
    """Tokens to learn from.

    Attributes:
        run: file and number of the run, `kind` its kind.
        steps: whose writing is in it to be learned, but for mistakes that are skipped.
        prompt: the last step's prompt as text.
        ids, labels: that prompt's token ids, with all before it, and what was written then; labels at the same places.
        pictures: SHA-256 of each view in the prompt.
        again: reads the run anew.
    """

    run: str
    kind: str
    steps: tuple[int, ...]
    prompt: str
    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    pictures: tuple[str, ...]
    again: Callable[[], Run]

    @property
    def learned(self) -> int:
        """How many tokens have a label."""
        return int((self.labels != IGNORED).sum())

    def views(self) -> list[bytes]:
        """The pictures' files. InputError where they are not those the example was made with."""
        try:
            exchanges = self.again().exchanges[: self.steps[-1] + 1]
            found = [image.view for one in exchanges for image in _images(one.messages)]
        except (RowError, OSError, CodeVisionError) as error:
            raise InputError(f"{self.run}: it can no longer be read ({error}); put it back, or begin anew") from error
        if [hashlib.sha256(view).hexdigest() for view in found] != list(self.pictures):
            raise InputError(
                f"{self.run}: its pictures have changed since training began; put them back, or begin anew"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Written:
    """A run as examples. `left_out` says what of it is missing and why; `seen` and `unseen` count recorded prompts that ours equal or do not."""

    examples: tuple[Example, ...] = ()
    left_out: str = ""
    seen: int = 0
    unseen: int = 0


class Writer:
    """Writes runs as the model of `processor` reads them.

    Args:
        ends: the ids that end generation (`generation_config.eos_token_id`).
        limit: most tokens of an example.
        skip_mistakes: put no label on messages that went wrong; they stay in the prompt of the next.
    """

    def __init__(self, processor: Any, ends: Collection[int], limit: int, *, skip_mistakes: bool = False) -> None:
        self.processor, self.limit, self.skip_mistakes = processor, limit, skip_mistakes
        self._broken = image_tokens(processor)
        self._image = int(getattr(processor, "image_token_id", -1))
        self._end, self._end_text = self._end_of_turn(ends)

    def _end_of_turn(self, ends: Collection[int]) -> tuple[int, str]:
        probe = "Probe7"
        said = [
            Message(role="user", content=(TextPart(text="?"),)),
            Message(role="assistant", content=(TextPart(text=probe),)),
        ]
        after = render(self.processor, said, (), [], reply_next=False)[0].rpartition(probe)[2]
        ids = self._encode(after)
        if not ids or ids[0] not in ends:
            raise InputError(
                f"The chat template writes {after[:40]!r} after a message, and generation ends at the token ids {sorted(ends)}: a model "
                "trained on this would not stop. Put that text's first token into eos_token_id of generation_config.json."
            )
        return ids[0], str(self.processor.tokenizer.decode([ids[0]]))

    def _encode(self, text: str) -> list[int]:
        return list(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def write(self, run: Run) -> Written:
        """The run's examples; each step that fits is in exactly one."""
        made: list[Example] = []
        messages: list[Message] = []
        decoded: dict[int, Any] = {}
        ids: list[int] = []
        labels: list[int] = []
        steps: tuple[int, ...] = ()
        said, left_out, seen, unseen = "", "", 0, 0
        for index, exchange in enumerate(run.exchanges):
            new = exchange.messages
            if index and said != run.exchanges[index - 1].completion.text and not new[0].tool_calls:
                new = (replace(new[0], content=(TextPart(text=said),)), *new[1:])
            messages += new
            prompt, images = render(self.processor, messages, run.protocol.tools, [])
            pixels = [decoded.setdefault(id(image), picture(image.view)) for image in images]
            before = prepare(self.processor, [prompt], [pixels])["input_ids"][0].tolist()
            recorded = exchange.completion.prompt
            same = recorded is not None and recorded.tokens_sha256 == rendered_prompt(before, None).tokens_sha256
            seen, unseen = seen + same, unseen + (recorded is not None and not same)
            said, written = self._reply(run, exchange.completion, prompt, messages, same)
            if len(before) + len(written) > self.limit:
                left_out = f"{_steps(index, len(run.exchanges))}: {len(before) + len(written):,} tokens are more than {self.limit:,}"
                break
            learn = not (self.skip_mistakes and exchange.mistake)
            shared = bool(ids) and before[: len(ids)] == ids
            if ids and not shared:
                steps, labels = (), []
            elif made:
                made.pop()
            labels += [IGNORED] * (len(before) - len(labels)) + (written if learn else [IGNORED] * len(written))
            ids = before + written
            steps = (*steps, index)
            made.append(
                Example(
                    run=f"{run.file}, row {run.index}",
                    kind=run.kind,
                    steps=steps,
                    prompt=prompt,
                    ids=np.array(ids, np.int32),
                    labels=np.array(labels, np.int32),
                    pictures=tuple(hashlib.sha256(image.view).hexdigest() for image in images),
                    again=run.again,
                )
            )
        kept = tuple(example for example in made if example.learned)
        if not kept and not left_out:
            left_out = "nothing of it is to be learned"
        return Written(examples=kept, left_out=left_out, seen=seen, unseen=unseen)

    def _reply(
        self, run: Run, completion: Completion, prompt: str, messages: Sequence[Message], same: bool
    ) -> tuple[str, list[int]]:
        """What was written after `prompt`: its text as it stands in the history, and its ids with the end of the turn."""
        text = completion.text
        recorded = [int(one) for one in completion.token_ids.split()]
        if same and recorded and self._image not in recorded:
            return text, recorded
        if (opened := _OPENED.search(prompt)) and text.lstrip().startswith(opened[1]):  # the template wrote it already
            text = text.lstrip()[len(opened[1]) :].lstrip("\n")
        whole = break_up(mend(text)[0], self._broken)[0]
        if completion.tool_calls:  # only the template knows how they are written
            reply = run.protocol.reply(completion)
            all_of_it = render(self.processor, [*messages, reply], run.protocol.tools, [], reply_next=False)[0]
            whole = all_of_it.removeprefix(prompt).rpartition(self._end_text)[0]
            if not whole or not all_of_it.startswith(prompt):
                raise InputError(
                    f"{run.file}, row {run.index}: the chat template does not write tool calls as a continuation of the prompt"
                )
        return text, self._encode(whole) + ([self._end] if completion.finish_reason != "length" else [])


class Collator:
    """Examples as one batch: ids and labels padded on the right, the pictures' tensors as the family's own processor batches them."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        self._pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """InputError where a picture has changed on the disk since the example was made."""
        pictures = [[picture(view) for view in example.views()] for example in examples]
        inputs = prepare(self.processor, [example.prompt for example in examples], pictures)
        prompts, mask = inputs.pop("input_ids"), inputs.pop("attention_mask").bool()
        width = max(len(example.ids) for example in examples)
        batch: dict[str, Tensor] = {
            "input_ids": torch.full((len(examples), width), self._pad),
            "attention_mask": torch.zeros((len(examples), width), dtype=torch.long),
            "labels": torch.full((len(examples), width), IGNORED),
        }
        for name, value in inputs.items():  # one number a token (Qwen's mm_token_type_ids): 0 on what was written
            each = value.shape == prompts.shape
            batch[name] = torch.zeros((len(examples), width), dtype=value.dtype) if each else value
        for row, example in enumerate(examples):
            ids, length = torch.from_numpy(example.ids).long(), len(example.ids)
            prompt = prompts[row][mask[row]]
            if not torch.equal(prompt, ids[: len(prompt)]):
                raise InputError(f"{example.run}: its prompt is no longer encoded as it was; begin anew")
            batch["input_ids"][row, :length] = ids
            batch["attention_mask"][row, :length] = 1
            batch["labels"][row, :length] = torch.from_numpy(example.labels).long()
            for name, value in inputs.items():
                if value.shape == prompts.shape:
                    batch[name][row, : len(prompt)] = value[row][mask[row]]
        return batch


def _steps(first: int, count: int) -> str:
    if first == 0:
        return "all of it"
    return f"step {count}" if first + 1 == count else f"steps {first + 1} to {count}"


def _images(messages: Sequence[Message]) -> Iterator[KernelImage]:
    return (part.image for message in messages for part in message.content if isinstance(part, ImagePart))
