"""A ring of training views in shared memory, filled by a worker process while the trainer draws from it.

Every view is used a few times before it is overwritten; the worker waits when it is ahead of that, so it
takes no more of the machine than the trainer needs. A view being overwritten while it is read is torn
(its pixels from one sample, its targets from another): rare, and left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import Tensor

from kernel_agent.tasks.strings import MAX_LENGTH
from kernel_agent.train.embedded.views import VIEW, FontShelf, View, draw_line_view, draw_scene_view


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`pixels` (n, 3, VIEW, VIEW) float32 in -1..1; `state` (n,); `text` (n, 8); `glyphs` (n, 8, 4); `box` (n, 4)."""

    pixels: Tensor
    state: Tensor
    text: Tensor
    glyphs: Tensor
    box: Tensor


class Ring:
    """Fixed number of slots of one kind of view, with a worker that fills them."""

    def __init__(
        self, draw: Callable[[np.random.Generator], View], *, slots: int, colour: bool, reuse: float, seed: int
    ) -> None:
        shape = (slots, VIEW, VIEW, 3) if colour else (slots, VIEW, VIEW)
        self.pixels = torch.zeros(shape, dtype=torch.uint8).share_memory_()
        self.state = torch.zeros(slots, dtype=torch.int64).share_memory_()
        self.text = torch.zeros(slots, MAX_LENGTH, dtype=torch.int64).share_memory_()
        self.glyphs = torch.zeros(slots, MAX_LENGTH, 4).share_memory_()
        self.box = torch.zeros(slots, 4).share_memory_()
        self.counts = torch.zeros(2, dtype=torch.int64).share_memory_()  # produced, consumed
        self.slots, self.reuse = slots, reuse
        self._worker = mp.get_context("fork").Process(target=self._fill, args=(draw, seed), daemon=True)
        self._worker.start()

    def _fill(self, draw: Callable[[np.random.Generator], View], seed: int) -> None:
        torch.set_num_threads(1)
        rng = np.random.default_rng(seed)
        while True:
            made, used = (int(v) for v in self.counts)
            if made >= 2048 and made * self.reuse > used + self.reuse * 4096:
                time.sleep(0.05)
                continue
            view = draw(rng)
            slot = made % self.slots
            self.pixels[slot] = torch.from_numpy(view.pixels.copy())
            self.state[slot] = view.state
            self.text[slot] = torch.from_numpy(view.text)
            self.glyphs[slot] = torch.from_numpy(view.glyphs)
            self.box[slot] = torch.from_numpy(view.box)
            self.counts[0] = made + 1

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """`count` views drawn uniformly from the slots filled so far; waits for the first ones."""
        while int(self.counts[0]) < min(self.slots, 1024):
            time.sleep(0.2)
        index = torch.randint(0, min(int(self.counts[0]), self.slots), (count,), generator=rng)
        self.counts[1] += count
        pixels = self.pixels[index].float() / 127.5 - 1
        pixels = pixels[:, None].expand(-1, 3, -1, -1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        return Batch(
            pixels=pixels,
            state=self.state[index],
            text=self.text[index],
            glyphs=self.glyphs[index],
            box=self.box[index],
        )

    def close(self) -> None:
        """Ends the worker."""
        self._worker.terminate()
        self._worker.join()


@dataclass(frozen=True, kw_only=True, slots=True)
class LineDraw:
    """Draws line views: `tight_share` of them tight, `upright_share` of the tight ones upright."""

    shelf: FontShelf
    tight_share: float
    upright_share: float

    def __call__(self, rng: np.random.Generator) -> View:
        """One view."""
        tight = rng.random() < self.tight_share
        upright = tight and rng.random() < self.upright_share
        return draw_line_view(rng, self.shelf, tight=tight, state=0 if upright else int(rng.integers(4)))


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneDraw:
    """Draws scene views."""

    shelf: FontShelf

    def __call__(self, rng: np.random.Generator) -> View:
        """One view."""
        return draw_scene_view(rng, self.shelf)
