"""Prompt, generation and decoding with torch and transformers; runs in one thread. Importing this imports torch.

The prompt is rendering.py's. The text is decoded as vLLM does: special tokens left out, a stop string and what follows it
cut off, the end token counted in the usage.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from kernel_agent.errors import ModelFailed, ModelRefused
from kernel_agent.models.rendering import picture, prepare, render
from kernel_agent.models.text import mend
from kernel_agent.models.tokens import joined, rendered_prompt
from kernel_agent.types import (
    Completion,
    Event,
    Json,
    RenderedPrompt,
    Request,
    TokenLogprob,
    Usage,
)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint in memory. `about` is what the trajectory tells of it."""

    model: Any
    processor: Any
    about: Mapping[str, Json]

    def complete(self, request: Request, give: Callable[[str], None], cancel: threading.Event) -> Completion:
        """Generate; `give` gets each piece of text. Stops within a token once `cancel` is set."""
        events: list[Event] = []
        inputs, prompt = self._inputs(request, events)
        room = self.context() - prompt.tokens
        if room < 1:
            raise ModelRefused(
                f"The conversation has {prompt.tokens} tokens and the model takes {self.context()}. Send fewer or smaller images, or "
                "lower the budget's steps or output_chars."
            )
        limit = min(request.sampling.max_tokens, room)
        if limit < request.sampling.max_tokens:
            events.append(_event("max_tokens_reduced", asked=request.sampling.max_tokens, sent=limit))
        runs = [
            self._generate(inputs, request, limit, index, give if index == 0 else None, cancel)
            for index in range(request.sampling.n)
        ]
        text, raw = mend(runs[0].text)
        return Completion(
            text=text,
            raw_json=raw,
            finish_reason=runs[0].finish,
            usage=Usage(prompt_tokens=prompt.tokens, completion_tokens=sum(len(run.ids) for run in runs)),
            logprobs=tuple(runs[0].logprobs),
            alternatives=tuple(mend(run.text)[0] for run in runs[1:]),
            events=tuple(events),
            prompt=prompt,
            token_ids=joined(runs[0].ids),
        )

    def context(self) -> int:
        """Most tokens of prompt and completion together."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 0) or 2**31)

    def _inputs(self, request: Request, events: list[Event]) -> tuple[Any, RenderedPrompt]:
        """What the model gets, and the record of it."""
        prompt, images = render(self.processor, request.messages, request.tools, events)
        inputs = prepare(self.processor, [prompt], [[picture(image.view) for image in images]])
        rendered = rendered_prompt(inputs["input_ids"][0].tolist(), prompt)
        return inputs.to(self.model.device, dtype=self.model.dtype), rendered

    def _generate(
        self,
        inputs: Any,
        request: Request,
        limit: int,
        index: int,
        give: Callable[[str], None] | None,
        cancel: threading.Event,
    ) -> _Run:
        sampling = request.sampling
        run = _Run(self.processor.tokenizer, sampling.stop, give, cancel, sampling.logprobs)
        own = self.model.generation_config
        options: dict[str, Any] = {"max_new_tokens": limit}
        if sampling.temperature == 0:
            options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        else:
            temperature = sampling.temperature if sampling.temperature is not None else own.temperature or 1.0
            top_p = sampling.top_p if sampling.top_p is not None else own.top_p or 1.0
            options |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": own.top_k or 0}
        with torch.inference_mode(), torch.random.fork_rng():
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed + index)
            out = self.model.generate(
                **inputs,
                **options,
                logits_processor=LogitsProcessorList([run.watch]),
                stopping_criteria=StoppingCriteriaList([run.step]),
            )
        if cancel.is_set():
            raise ModelFailed("The completion was cancelled.")
        ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        ids = out[0, inputs["input_ids"].shape[1] :].tolist()
        run.close(ids, ended=bool(ids) and ids[-1] in ends)
        return run


@dataclass
class _Run:
    """One generated text, decoded while it grows."""

    tokenizer: Any
    stop: tuple[str, ...]
    give: Callable[[str], None] | None
    cancel: threading.Event
    want_logprobs: bool
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = "length"
    logprobs: list[TokenLogprob] = field(default_factory=list)
    _shown: int = 0
    _prefix: int = 0
    _read: int = 0
    _scores: Any = None
    _stopped: bool = False

    def watch(self, input_ids: Any, scores: Any) -> Any:
        """Keep the log-probabilities before temperature and cuts, as vLLM reports them; change nothing."""
        if self.want_logprobs:
            self._scores = torch.log_softmax(scores[0].float(), dim=-1)
        return scores

    def step(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """After each token: decode, look for a stop string, show what is certain, say whether to stop."""
        token = int(input_ids[0, -1])
        self._add(token)
        stop = self._stopped or self.cancel.is_set()
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)

    def _add(self, token: int) -> None:
        self.ids.append(token)
        if self._scores is not None:
            name = self.tokenizer.decode([token])
            self.logprobs.append(TokenLogprob(token=name, logprob=float(self._scores[token])))
        known = self._decode(self.ids[self._prefix : self._read])
        new = self._decode(self.ids[self._prefix :])
        if len(new) > len(known) and not new.endswith("\N{REPLACEMENT CHARACTER}"):
            self.text += new[len(known) :]
            self._prefix, self._read = self._read, len(self.ids)
            self._look_for_stop(len(new) - len(known))
        self._show(max((len(word) for word in self.stop), default=1) - 1)

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _look_for_stop(self, fresh: int) -> None:
        for word in self.stop:
            at = self.text.find(word, max(0, len(self.text) - fresh - len(word) + 1))
            if at >= 0:
                self.text, self._stopped, self.finish = self.text[:at], True, "stop"
                return

    def _show(self, hold: int) -> None:
        """Give what no stop string can take back."""
        end = len(self.text) - (0 if self._stopped else hold)
        if self.give and end > self._shown:
            self.give(self.text[self._shown : end])
            self._shown = end

    def close(self, ids: list[int], *, ended: bool) -> None:
        """All tokens are there: `ended` by the end token or not."""
        for token in ids[len(self.ids) :]:
            self._add(token)
        if not self._stopped:
            self.text += self._decode(self.ids[self._prefix :])[
                len(self._decode(self.ids[self._prefix : self._read])) :
            ]
            self.finish = "stop" if ended else "length"
        self._show(0)


def load(source: str, *, device: str, dtype: str, revision: str | None) -> Loaded:
    """Load processor and weights. Raises ModelFailed naming what is missing."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        processor = AutoProcessor.from_pretrained(source, revision=revision)
        model: Any = AutoModelForImageTextToText.from_pretrained(source, revision=revision, dtype=dtype)
        model = model.to(device).eval()
    except ImportError as error:
        raise ModelFailed(f"{source} needs a package that is missing: {error}. Install it beside torch.") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFailed(
            f"{source} could not be loaded ({type(error).__name__}: {str(error)[:500]}). It must be an image-text-to-text "
            f"checkpoint that transformers {transformers.__version__} knows, whole, and fit into memory."
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    about = {
        "revision": getattr(model.config, "_commit_hash", None) or revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": getattr(model.config, "_attn_implementation", None),
        "threads": torch.get_num_threads(),
        "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return Loaded(model=model, processor=processor, about=about)


def _event(kind: str, **data: Json) -> Event:
    return Event(kind=kind, time=time.time(), data=data)
