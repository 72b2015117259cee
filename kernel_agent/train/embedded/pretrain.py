"""Stage one of the embedded model: train the eye alone (see `eye`).

The learning rate follows the clock: warm up, hold, then fall to zero by the end of the given minutes, so
that a run fits the time there is whatever the machine. Progress goes to `log.jsonl` beside the checkpoint.
"""

from __future__ import annotations

import json
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

from kernel_agent.train.embedded.eye import Eye, line_loss, scene_loss, vision_config
from kernel_agent.train.embedded.muon import Muon
from kernel_agent.train.embedded.ring import LineDraw, Ring, SceneDraw
from kernel_agent.train.embedded.views import FontShelf


@dataclass(frozen=True, kw_only=True, slots=True)
class EyePlan:
    """How long and how. Rates are at their highest; `cool` is the share of the time in which they fall."""

    minutes: float
    batch: int = 76
    scene_batch: int = 36
    muon_rate: float = 0.03
    adam_rate: float = 2e-3
    cool: float = 0.35
    warm_steps: int = 100
    tight_share: float = 0.6
    upright_share: float = 0.75
    reuse: float = 3.0
    seed: int = 0


def train_eye(plan: EyePlan, shelf: FontShelf, folder: Path, *, resume: bool = False) -> Path:
    """Trains for `plan.minutes` of wall clock and returns the checkpoint (`folder/eye.pt`)."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "eye.pt"
    torch.manual_seed(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    lines = Ring(
        LineDraw(shelf=shelf, tight_share=plan.tight_share, upright_share=plan.upright_share),
        slots=40_000, colour=False, reuse=plan.reuse, seed=int(time.time()),
    )  # fmt: skip
    scenes = Ring(SceneDraw(shelf=shelf), slots=12_000, colour=True, reuse=plan.reuse * 2, seed=int(time.time()) + 1)
    eye = Eye(vision_config())
    body = [p for n, p in eye.named_parameters() if _for_muon(n, p)]
    rest = [p for n, p in eye.named_parameters() if not _for_muon(n, p)]
    muon = Muon(body, lr=plan.muon_rate)
    adam = torch.optim.AdamW(rest, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    seen, spent = 0, 0.0
    if resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        eye.load_state_dict(saved["eye"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        seen, spent = saved["seen"], saved["spent"]
    start, last_save, last_log, step = time.time() - spent, time.time(), time.time(), 0
    sums: dict[str, float] = defaultdict(float)
    signal.signal(signal.SIGTERM, _interrupt)
    pace = Pace()
    try:
        while (elapsed := time.time() - start) < plan.minutes * 60:
            pace.step()
            left = 1 - elapsed / (plan.minutes * 60)
            scale = min(1.0, (step + 1) / plan.warm_steps, left / plan.cool)
            muon.param_groups[0]["lr"] = plan.muon_rate * scale
            adam.param_groups[0]["lr"] = plan.adam_rate * scale
            line_batch, scene_batch = lines.sample(plan.batch, generator), scenes.sample(plan.scene_batch, generator)
            pixels = torch.cat([line_batch.pixels, scene_batch.pixels])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                middle, final = eye(pixels)
                one = line_loss(eye, middle[: plan.batch], final[: plan.batch], line_batch)
                two = scene_loss(eye, middle[plan.batch :], final[plan.batch :], scene_batch)
                loss = one.total + two.total
            loss.backward()
            torch.nn.utils.clip_grad_norm_(rest, 1.0)
            muon.step()
            adam.step()
            muon.zero_grad()
            adam.zero_grad()
            step += 1
            seen += pixels.size(0)
            for key, value in {**one.log, **two.log, "loss": float(loss.detach())}.items():
                sums[key] += value
            if step % 50 == 0:
                now = time.time()
                row = {k: round(v / 50, 4) for k, v in sums.items()}
                row |= {
                    "seen": seen,
                    "per_s": round(pixels.size(0) * 50 / (now - last_log), 1),
                    "min": round(elapsed / 60, 1),
                }
                row |= {"made": int(lines.counts[0]), "threads": torch.get_num_threads()}
                with (folder / "log.jsonl").open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
                last_log = now
                sums.clear()
            if time.time() - last_save > 180:
                last_save = time.time()
                _save(checkpoint, eye, muon, adam, seen, time.time() - start)
    finally:
        lines.close()
        scenes.close()
        _save(checkpoint, eye, muon, adam, seen, time.time() - start)
    return checkpoint


class Pace:
    """Chooses the number of threads again and again: where other work takes a core, two threads that wait for each
    other are slower than one."""

    def __init__(self, most: int | None = None, every: int = 60, trial: int = 3) -> None:
        self.choices = list(range(1, (most or torch.get_num_threads()) + 1))
        self.every, self.trial = every, trial
        self._count, self._last = 0, time.time()
        self._spent = dict.fromkeys(self.choices, 0.0)

    def step(self) -> None:
        """Call once before each step."""
        now, period = time.time(), self._count % self.every
        tried = (period - 1) // self.trial
        if period > 0 and tried < len(self.choices):
            self._spent[self.choices[tried]] += now - self._last
        if period % self.trial == 0 and period // self.trial < len(self.choices):
            choice = self.choices[period // self.trial]
            self._spent[choice] = 0.0
            torch.set_num_threads(choice)
        elif period == self.trial * len(self.choices):
            torch.set_num_threads(min(self.choices, key=lambda c: self._spent[c]))
        self._count, self._last = self._count + 1, now


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _for_muon(name: str, parameter: torch.nn.Parameter) -> bool:
    """Values, outputs and the MLP; queries and keys stay with AdamW, which keeps their start longer."""
    inside = any(part in name for part in ("v_proj", "out_proj", "fc1", "fc2"))
    return inside and parameter.dim() == 2


def _save(
    path: Path, eye: Eye, muon: torch.optim.Optimizer, adam: torch.optim.Optimizer, seen: int, spent: float
) -> None:
    part = path.with_suffix(".part")
    torch.save(
        {"eye": eye.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "seen": seen, "spent": spent},
        part,
    )
    part.replace(path)
