"""Stage two of the embedded model: the language half learns to act on what the frozen eye sees.

The eye's features of every picture are computed once and kept in memory, so the language half trains on
episodes of a hundred tokens at the speed of its own few layers. Only the teacher's right messages count
in the loss.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from kernel_agent.tasks.fonts import ALPHABET
from kernel_agent.train.embedded import policy
from kernel_agent.train.embedded.checkpoint import ASSISTANT, END, EXPANDED, IMAGE, PAD, USER, pixels, token_id
from kernel_agent.train.embedded.episodes import Shard
from kernel_agent.train.embedded.eye import Eye
from kernel_agent.train.embedded.muon import Muon
from kernel_agent.train.embedded.pretrain import Pace

IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagePlan:
    """How long and how; the rates fall to zero in the last `cool` share of the minutes."""

    minutes: float
    batch: int = 48
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    cool: float = 0.5
    warm_steps: int = 60
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """An episode as token ids with labels, and where its pictures' features lie."""

    ids: Tensor
    labels: Tensor
    pictures: tuple[int, ...]


class Library:
    """Episodes ready for training: tokens, and features (pictures, GRID**2, width) in bfloat16."""

    def __init__(self) -> None:
        self.episodes: list[Written] = []
        self.features: list[Tensor] = []
        self._count = 0

    def add(self, shard: Shard, eye: Eye, tokenizer: PreTrainedTokenizerFast) -> None:
        """Runs the eye over the shard's pictures and writes out its conversations."""
        scenes = look(eye, torch.from_numpy(shard.scenes))
        crops = look(eye, torch.from_numpy(shard.crops))
        first_crop = self._count + len(scenes)
        used = 0
        for index, script in enumerate(shard.scripts):
            pictures = [self._count + index]
            pictures += [first_crop + used + k for k in range(len(script) - 1)]
            used += len(script) - 1
            ids, labels = write_out(script, tokenizer)
            self.episodes.append(Written(ids=ids, labels=labels, pictures=tuple(pictures)))
        self.features += [scenes, crops]
        self._count += len(scenes) + len(crops)

    def close(self) -> None:
        """Joins the features; call once after the last `add`."""
        self.features = [torch.cat(self.features)]

    def batch(self, indices: list[int], pad: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and labels (n, longest), padded at the end, and features (pictures, GRID**2, width) in order."""
        chosen = [self.episodes[i] for i in indices]
        longest = max(e.ids.numel() for e in chosen)
        ids = torch.full((len(chosen), longest), pad)
        labels = torch.full((len(chosen), longest), IGNORED)
        for row, episode in enumerate(chosen):
            ids[row, : episode.ids.numel()] = episode.ids
            labels[row, : episode.ids.numel()] = episode.labels
        return ids, labels, self.features[0][[p for e in chosen for p in e.pictures]]


@torch.inference_mode()
def look(eye: Eye, pictures: Tensor, batch: int = 128) -> Tensor:
    """Final features of uint8 pictures, (n, GRID**2, width) bfloat16."""
    parts = []
    for start in range(0, len(pictures), batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(eye(pixels(pictures[start : start + batch]))[1].bfloat16())
    return torch.cat(parts).clone()


def write_out(
    script: tuple[tuple[str, str, str, str], ...], tokenizer: PreTrainedTokenizerFast
) -> tuple[Tensor, Tensor]:
    """Token ids and labels of a conversation, exactly as the chat template writes it."""
    ids: list[int] = []
    labels: list[int] = []
    for before, after, message, better in script:
        heard = tokenizer.encode(USER + before + EXPANDED + after + END + ASSISTANT, add_special_tokens=False)
        said = tokenizer.encode(message + END, add_special_tokens=False)
        right = tokenizer.encode(better + END, add_special_tokens=False)
        if len(said) != len(right):
            raise ValueError(f"{message!r} and {better!r} differ in tokens ({len(said)}, {len(right)})")
        if said[0] != right[0]:  # after a wrong thought nothing right can follow
            right = right[:1] + [IGNORED] * (len(right) - 1)
        ids += heard + said
        labels += [IGNORED] * len(heard) + right
    return torch.tensor(ids), torch.tensor(labels)


class Tongue(nn.Module):
    """Connector and language half of `model`, run on features; computes what the model's own forward does."""

    def __init__(self, model: Idefics3ForConditionalGeneration, image_token: int) -> None:
        super().__init__()
        self.connector: Any = model.model.connector
        self.text: Any = model.model.text_model
        self.image_token = image_token

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """(n, t) ids and (pictures, GRID**2, width) features -> (n, t, hidden) last hidden states."""
        words = self.text.embed_tokens(ids)
        seen = self.connector(features).to(words.dtype).reshape(-1, words.size(-1))
        embedded = words.masked_scatter((ids == self.image_token)[..., None], seen)
        length = ids.size(1)
        angles = self.text.rotary_emb(embedded, torch.arange(length)[None])
        x = embedded
        for layer in self.text.layers:
            x = _run_layer(layer, x, angles)
        last: Tensor = self.text.norm(x)
        return last


def _run_layer(layer: Any, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    a = layer.self_attn
    n, t, _ = x.shape
    y = layer.input_layernorm(x)
    size = a.head_dim
    q = a.q_proj(y).view(n, t, -1, size).transpose(1, 2)
    k = a.k_proj(y).view(n, t, -1, size).transpose(1, 2)
    v = a.v_proj(y).view(n, t, -1, size).transpose(1, 2)
    cos, sin = (angle.unsqueeze(1).to(q.dtype) for angle in angles)
    q, k = q * cos + _rotate(q) * sin, k * cos + _rotate(k) * sin
    k, v = (w.repeat_interleave(q.size(1) // k.size(1), dim=1) for w in (k, v))
    scores = (q @ k.transpose(2, 3)) * size**-0.5
    mask = torch.full((t, t), float("-inf"), dtype=scores.dtype).triu(1)
    mixed = torch.softmax(scores + mask, dim=-1, dtype=q.dtype) @ v
    x = x + a.o_proj(mixed.transpose(1, 2).reshape(n, t, -1))
    y = layer.post_attention_layernorm(x)
    m = layer.mlp
    out: Tensor = x + m.down_proj(F.silu(m.gate_proj(y)) * m.up_proj(y))
    return out


def _rotate(x: Tensor) -> Tensor:
    half = x.size(-1) // 2
    return torch.cat([-x[..., half:], x[..., :half]], dim=-1)


def train_language(
    plan: LanguagePlan,
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    library: Library,
    held_back: int,
    folder: Path,
    *,
    checkpoint: Path,
    resume: bool = False,
) -> None:
    """Trains connector and language half of `model` in place; the last `held_back` episodes only for the log.

    `checkpoint` gets the weights without the eye every few minutes; with `resume` training starts from it.
    """
    torch.manual_seed(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    pad, image = token_id(tokenizer, PAD), token_id(tokenizer, IMAGE)
    tongue, kinds = Tongue(model, image), Kinds.of(tokenizer)
    if resume and checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint, weights_only=True), strict=False)
    else:
        _initialise(tongue)
    body = [p for n, p in tongue.named_parameters() if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in tongue.named_parameters() if not (p.dim() == 2 and "embed" not in n)]
    muon = Muon(body, lr=plan.muon_rate)
    adam = torch.optim.AdamW(rest, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    train = len(library.episodes) - held_back
    start = last_log = last_save = time.time()
    step = seen = 0
    sums: dict[str, float] = defaultdict(float)
    order: list[int] = []
    pace = Pace()
    while (elapsed := time.time() - start) < plan.minutes * 60:
        pace.step()
        scale = min(1.0, (step + 1) / plan.warm_steps, (1 - elapsed / (plan.minutes * 60)) / plan.cool)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = plan.muon_rate * scale, plan.adam_rate * scale
        if len(order) < plan.batch:
            order = torch.randperm(train, generator=generator).tolist()
        chosen, order = order[: plan.batch], order[plan.batch :]
        ids, labels, features = library.batch(chosen, pad)
        loss, log = _loss(tongue, kinds, ids, labels, features)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        step += 1
        seen += len(chosen)
        for key, value in log.items():
            sums[key] += value
        if step % 50 == 0:
            row = {k: round(v / 50, 4) for k, v in sums.items()}
            row |= {
                "seen": seen,
                "per_s": round(plan.batch * 50 / (time.time() - last_log), 1),
                "min": round(elapsed / 60, 1),
            }
            if step % 250 == 0:
                row |= {f"held_{k}": round(v, 4) for k, v in _held(tongue, kinds, library, held_back, pad).items()}
            with (folder / "language.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            last_log = time.time()
            sums.clear()
        if time.time() - last_save > 180:
            last_save = time.time()
            save_tongue(model, checkpoint)
    save_tongue(model, checkpoint)


def save_tongue(model: Idefics3ForConditionalGeneration, path: Path) -> None:
    """The weights of everything but the eye, written whole or not at all."""
    part = path.with_suffix(".part")
    torch.save({n: p for n, p in model.state_dict().items() if "vision_model" not in n}, part)
    part.replace(path)


@torch.no_grad()
def _initialise(tongue: Tongue) -> None:
    projection = tongue.connector.modality_projection.proj.weight
    projection.normal_(0, projection.size(1) ** -0.5)
    for name, parameter in tongue.text.named_parameters():
        if parameter.dim() == 2 and "embed" not in name:
            gain = 0.5 if "o_proj" in name or "down_proj" in name else 1.0
            parameter.normal_(0, gain * parameter.size(1) ** -0.5)
    tongue.text.embed_tokens.weight.normal_(0, 0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinds:
    """Which tokens are coordinates, characters of an answer, and the start of a mere guess."""

    coordinates: Tensor  # ids of "0" to "64"
    value: Tensor  # of each token as a coordinate, else -1
    character: Tensor  # of each token: is it one of ALPHABET
    before_coordinate: Tensor  # of each token: does a coordinate follow
    guess: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Kinds:
        """Looks them up in the vocabulary."""
        size = len(tokenizer)
        coordinates = torch.tensor([token_id(tokenizer, str(v)) for v in range(policy.GRID + 1)])
        value = torch.full((size,), -1)
        value[coordinates] = torch.arange(policy.GRID + 1)
        character, before = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
        character[[token_id(tokenizer, c) for c in ALPHABET]] = True
        before[[i for t, i in tokenizer.get_vocab().items() if t.endswith(("w*", "h*"))]] = True
        guess = tokenizer.encode(policy.guess("A"), add_special_tokens=False)[0]
        return cls(coordinates=coordinates, value=value, character=character, before_coordinate=before, guess=guess)


def _loss(
    tongue: Tongue, kinds: Kinds, ids: Tensor, labels: Tensor, features: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Weighted loss and shares right. Characters count most: a coordinate is never certain, and its noise drowned them."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = tongue(ids, features)
        targets = labels[:, 1:]
        chosen = targets != IGNORED
        logits = F.linear(hidden[:, :-1][chosen], tongue.text.embed_tokens.weight).float()
    wanted, before = targets[chosen], ids[:, :-1][chosen]
    rows = torch.arange(ids.size(0))[:, None].expand_as(targets)[chosen]
    place = kinds.before_coordinate[before]
    letter = kinds.character[wanted] & ~place
    guessed = (labels == kinds.guess).any(dim=1)[rows]
    loss = F.cross_entropy(logits, wanted, reduction="none")
    steps = torch.arange(policy.GRID + 1)
    bell = torch.softmax(-((steps - kinds.value[wanted[place]][:, None]) ** 2) / (2 * 0.7**2), dim=-1)
    soft = -(bell * F.log_softmax(logits[place], dim=-1)[:, kinds.coordinates]).sum(-1)
    loss = loss.masked_scatter(place, soft)
    weight = torch.where(letter, 4.0, torch.where(place, 0.5, 1.0))
    weight = torch.where(letter & guessed, 0.3, weight)
    with torch.no_grad():
        best = logits.argmax(-1)
        right = best == wanted
        read = letter & ~guessed
        wrong = torch.zeros(ids.size(0)).index_add(0, rows, (read & ~right).float())
        reading = torch.zeros(ids.size(0)).index_add(0, rows, read.float()) > 0
        other = ~letter & ~place
        log = {
            "loss": float(loss.mean()),
            "letter": float(right[read].float().mean()),
            "exact": float((wrong[reading] == 0).float().mean()),
            "bins_off": float((kinds.value[best[place]] - kinds.value[wanted[place]]).abs().float().mean()),
            "rest": float(right[other].float().mean()),
        }
    return (loss * weight).sum() / weight.sum(), log


@torch.no_grad()
def _held(tongue: Tongue, kinds: Kinds, library: Library, count: int, pad: int) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    everything = list(range(len(library.episodes) - count, len(library.episodes)))
    parts = [everything[i : i + 100] for i in range(0, count, 100)]
    for part in parts:
        _, log = _loss(tongue, kinds, *library.batch(part, pad))
        for key, value in log.items():
            total[key] += value / len(parts)
    return total


def take_eye(model: Idefics3ForConditionalGeneration, eye: Eye) -> None:
    """Puts the eye's tower into `model`, rounded to bfloat16 as it will ship (in both places)."""
    with torch.no_grad():
        for parameter in eye.tower.parameters():
            parameter.copy_(parameter.bfloat16().float())
    model.model.vision_model.load_state_dict(eye.tower.state_dict())
