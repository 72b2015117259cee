"""The eye: the vision tower of the model, pretrained alone with heads that are thrown away afterwards.

Targets are dense, because a sparse one ("the answer was wrong") taught a small tower next to nothing on
two cores: which character covers each quarter of each patch and its place in the line; how the line
lies; where it is; and, in the last layer, the k-th character of the line at every patch of column k, so
that whoever reads the tower's output finds the answer by position.

The attention starts as a convolution: the position embedding carries row and column one-hot, and most
heads of the first layers look at one neighbour (or along the row or column) from the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

from kernel_agent.tasks.strings import MAX_LENGTH
from kernel_agent.train.embedded.ring import Batch
from kernel_agent.train.embedded.views import BLANK, VIEW

GRID = 8
"""Patches per side, and slots for characters: column k of the output holds the k-th character."""
PATCH = VIEW // GRID
FRAMES = 4
"""Dense targets per patch, side by side."""
SUB = 8
"""Resolution of box edges: parts of a patch."""
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DIAGONALS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def vision_config(hidden: int = 192, layers: int = 6, heads: int = 6, mlp: int = 576) -> Idefics3VisionConfig:
    """The shipped tower's shape."""
    return Idefics3VisionConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=VIEW,
        patch_size=PATCH,
    )


class Eye(nn.Module):
    """The tower with its heads. `tower` is what is kept."""

    def __init__(self, config: Idefics3VisionConfig) -> None:
        super().__init__()
        self.tower: Any = Idefics3VisionTransformer(config)
        width = config.hidden_size
        self.dense_at = config.num_hidden_layers - 2
        self.dense_norm = nn.LayerNorm(width)
        self.dense = nn.Linear(width, FRAMES * (BLANK + 1 + MAX_LENGTH + 1))
        self.slot = nn.Linear(width, BLANK + 1)
        self.state = nn.Linear(width, 4)
        self.lies = nn.Linear(width, 6)
        self.cover = nn.Linear(width, FRAMES * FRAMES)
        self.edges = nn.Linear(width, 4 * (SUB + 2))
        initialise(self.tower)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, VIEW, VIEW) -> features after the dense layer and final features, each (n, GRID**2, width)."""
        tower = self.tower
        n, patch = pixels.size(0), tower.embeddings.patch_embedding
        patches = pixels.view(n, 3, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(n, GRID * GRID, -1)
        x = F.linear(patches, patch.weight.flatten(1), patch.bias)
        x = x + tower.embeddings.position_embedding.weight.to(x.dtype)
        middle = x
        for index, layer in enumerate(tower.encoder.layers):
            x = _run_layer(layer, x)
            if index + 1 == self.dense_at:
                middle = x
        return middle, tower.post_layernorm(x)


def _run_layer(layer: Any, x: Tensor) -> Tensor:
    """What the layer computes, twice as fast on a CPU: one product for q, k, v and batched ones for 64 x 64."""
    attention = layer.self_attn
    n, tokens, width = x.shape
    heads, size = attention.num_heads, attention.head_dim
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([p.weight for p in projections])
    bias = torch.cat([p.bias for p in projections])
    qkv = F.linear(layer.layer_norm1(x), weight, bias).view(n, tokens, 3, heads, size)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, n * heads, tokens, size).unbind(0)
    shares = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * size**-0.5, dim=-1, dtype=q.dtype)
    mixed = torch.bmm(shares, v).view(n, heads, tokens, size).transpose(1, 2).reshape(n, tokens, width)
    x = x + attention.out_proj(mixed)
    inner = F.gelu(layer.mlp.fc1(layer.layer_norm2(x)), approximate="tanh")
    out: Tensor = x + layer.mlp.fc2(inner)
    return out


@torch.no_grad()
def initialise(tower: Any, strength: float = 3.0) -> None:
    """Position one-hots in the first 2 * GRID channels and attention that starts as a convolution."""
    width, heads = tower.config.hidden_size, tower.config.num_attention_heads
    size = width // heads
    position = tower.embeddings.position_embedding.weight
    position.normal_(0, 0.05)
    cells = torch.arange(GRID * GRID)
    position[:, : 2 * GRID] = 0
    position[cells, cells // GRID] = strength
    position[cells, GRID + cells % GRID] = strength
    patch = tower.embeddings.patch_embedding
    nn.init.normal_(patch.weight, 0, 0.5 / (3 * PATCH * PATCH) ** 0.5 * 3)
    patch.weight[: 2 * GRID] = 0
    nn.init.zeros_(patch.bias)
    layers = tower.encoder.layers
    for index, layer in enumerate(layers):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            nn.init.normal_(projection.weight, 0, 0.7 / width**0.5)
            nn.init.zeros_(projection.bias)
        nn.init.normal_(layer.mlp.fc1.weight, 0, 1 / width**0.5)
        nn.init.normal_(layer.mlp.fc2.weight, 0, 0.5 / layer.mlp.fc2.in_features**0.5)
        nn.init.zeros_(layer.mlp.fc1.bias)
        nn.init.zeros_(layer.mlp.fc2.bias)
        attention.out_proj.weight.mul_(0.7)
        for weight in (attention.out_proj.weight, layer.mlp.fc2.weight):
            weight[: 2 * GRID] *= 0.1  # keep the position channels readable
        shifts = _DIAGONALS if index % 2 else _NEIGHBOURS
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            if index >= len(layers) - 2 and head >= 2:
                attention.q_proj.weight[rows] *= 0.7
                attention.k_proj.weight[rows] *= 0.7
                continue
            q, k = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
            q.mul_(0.2)
            k.mul_(0.2)
            gain = 1.1
            down, across = shifts[head] if head < len(shifts) else (0, 0)
            for cell in range(GRID):
                if head != len(shifts):  # match on the row, shifted
                    k[cell, cell] = gain
                    if 0 <= cell - down < GRID:
                        q[cell, cell - down] = gain
                if head != len(shifts) + 1:  # match on the column, shifted
                    k[GRID + cell, GRID + cell] = gain
                    if 0 <= cell - across < GRID:
                        q[GRID + cell, GRID + cell - across] = gain


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseTargets:
    """`character` and `place`: (n, GRID**2, FRAMES) class indices (BLANK and MAX_LENGTH for nothing)."""

    character: Tensor
    place: Tensor


def dense_targets(batch: Batch) -> DenseTargets:
    """Which character covers the middle of each frame of each patch, and which one of the line it is."""
    n = batch.text.size(0)
    x = (torch.arange(GRID * FRAMES) + 0.5) * (PATCH / FRAMES)
    y = (torch.arange(GRID) + 0.5) * PATCH
    g = batch.glyphs
    inside = (x >= g[:, :, 0:1]) & (x < g[:, :, 2:3])  # (n, 8, columns of frames)
    margin = PATCH * 0.4
    rows = (y > batch.box[:, 1:2] - margin) & (y < batch.box[:, 3:4] + margin)  # (n, GRID)
    present = (batch.text != BLANK)[:, :, None]
    hit = inside & present
    distance = (x - (g[:, :, 0:1] + g[:, :, 2:3]) / 2).abs().masked_fill(~hit, 1e9)
    place = distance.argmin(dim=1)
    nothing = ~hit.any(dim=1)
    character = batch.text.gather(1, place).masked_fill(nothing, BLANK)
    place = place.masked_fill(nothing, MAX_LENGTH)

    def spread(target: Tensor, fill: int) -> Tensor:
        grid = target[:, None, :].expand(n, GRID, GRID * FRAMES).masked_fill(~rows[:, :, None], fill)
        return grid.reshape(n, GRID * GRID, FRAMES)

    return DenseTargets(character=spread(character, BLANK), place=spread(place, MAX_LENGTH))


@dataclass(frozen=True, kw_only=True, slots=True)
class EyeLoss:
    """Total loss with its parts, and shares right (0..1) for the log."""

    total: Tensor
    log: dict[str, float]


def line_loss(eye: Eye, middle: Tensor, final: Tensor, batch: Batch) -> EyeLoss:
    """Loss on line views: dense characters and places, state, box, and slots where the line is upright."""
    n = final.size(0)
    logits = eye.dense(eye.dense_norm(middle)).float().view(n, GRID * GRID, FRAMES, -1)
    targets = dense_targets(batch)
    weight = torch.where(targets.character == BLANK, 0.3, 1.0)
    character = F.cross_entropy(logits[..., : BLANK + 1].flatten(0, 2), targets.character.flatten(), reduction="none")
    place = F.cross_entropy(logits[..., BLANK + 1 :].flatten(0, 2), targets.place.flatten(), reduction="none")
    dense = ((character + 0.5 * place) * weight.flatten()).sum() / weight.sum()
    upright = batch.state == 0
    slots = eye.slot(final[upright]).float()  # (u, 64, 37): the k-th character at every patch of column k
    wanted = batch.text[upright][:, None, :].expand(-1, GRID, -1).reshape(slots.size(0), GRID * GRID)
    slot = F.cross_entropy(slots.flatten(0, 1), wanted.flatten())
    state_logits = eye.state(final.mean(dim=1)).float() + 0.0
    state = F.cross_entropy(state_logits, batch.state)
    edges = edge_logits(eye, final)
    box = edge_loss(edges, batch)
    with torch.no_grad():
        text = targets.character != BLANK
        read = slots.view(-1, GRID, GRID, BLANK + 1).mean(dim=1).argmax(dim=-1)
        right = read == batch.text[upright]
        log = {
            "dense": float((logits[..., : BLANK + 1].argmax(-1) == targets.character)[text].float().mean()),
            "place": float((logits[..., BLANK + 1 :].argmax(-1) == targets.place)[text].float().mean()),
            "char": float(right[batch.text[upright] != BLANK].float().mean()),
            "exact": float(right.all(dim=1).float().mean()),
            "state": float((state_logits.argmax(-1) == batch.state).float().mean()),
            "line_off": float((find_box(edges) - batch.box).abs().mean()),
        }
    cover = cover_loss(eye, middle, batch)
    return EyeLoss(total=dense + slot + 0.5 * state + 0.7 * box + 0.3 * cover, log=log)


def scene_loss(eye: Eye, middle: Tensor, final: Tensor, batch: Batch) -> EyeLoss:
    """Loss on scene views: where text is, its box, and which of the six ways it lies (its axis is what is needed)."""
    edges = edge_logits(eye, final)
    box = edge_loss(edges, batch)
    cover = cover_loss(eye, middle, batch)
    logits = eye.lies(final.mean(dim=1)).float()
    lies = F.cross_entropy(logits, batch.state)
    with torch.no_grad():
        upended = (batch.state == 1) | (batch.state == 3)
        guess = logits.argmax(-1)
        axis = (((guess == 1) | (guess == 3)) == upended).float().mean()
        off = (find_box(edges) - batch.box).abs()
    return EyeLoss(
        total=1.0 * box + 0.3 * lies + 1.0 * cover,
        log={
            "axis": float(axis),
            "scene_box": float(box.detach()),
            "off_px": float(off.mean()),
            "box_ok": float((off.amax(dim=1) <= 4).float().mean()),
            "cover": float(cover.detach()),
        },
    )


def cover_loss(eye: Eye, middle: Tensor, batch: Batch) -> Tensor:
    """Binary cross entropy of "inside the text's box" for FRAMES x FRAMES cells of every patch."""
    n, cells = middle.size(0), GRID * FRAMES
    at = (torch.arange(cells) + 0.5) * (PATCH / FRAMES)
    across = (at >= batch.box[:, 0:1]) & (at < batch.box[:, 2:3])
    down = (at >= batch.box[:, 1:2]) & (at < batch.box[:, 3:4])
    grid = (down[:, :, None] & across[:, None, :]).float().view(n, GRID, FRAMES, GRID, FRAMES)
    target = grid.permute(0, 1, 3, 2, 4).reshape(n, GRID * GRID, FRAMES * FRAMES)
    logits = eye.cover(eye.dense_norm(middle)).float()
    return F.binary_cross_entropy_with_logits(logits, target)


def edge_logits(eye: Eye, final: Tensor) -> Tensor:
    """(n, GRID rows, GRID columns, 4 edges, SUB + 2): where each edge lies, as every patch sees it.

    Classes 0..SUB-1: in this patch's column (for left and right) or row (for top and bottom), at that
    eighth of it; SUB: before it; SUB + 1: after it.
    """
    logits: Tensor = eye.edges(final)
    return logits.float().view(-1, GRID, GRID, 4, SUB + 2)


def edge_targets(batch: Batch) -> Tensor:
    """(n, GRID, GRID, 4) class indices for `edge_logits`."""
    at = (batch.box * (SUB / PATCH)).round().long().clamp(0, GRID * SUB - 1)  # (n, 4) in SUBths of a patch
    cell = torch.arange(GRID)
    inside, sub = at // SUB, at % SUB
    wanted = torch.where(cell < inside[..., None], SUB + 1, torch.where(cell > inside[..., None], SUB, sub[..., None]))
    across = wanted[:, [0, 2]][:, None].expand(-1, GRID, -1, -1).transpose(2, 3)  # (n, rows, columns, 2)
    down = wanted[:, [1, 3]].transpose(1, 2)[:, :, None].expand(-1, -1, GRID, -1)
    return torch.stack([across[..., 0], down[..., 0], across[..., 1], down[..., 1]], dim=-1)


def edge_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy over all patches; those that hold the edge count more, and near misses are forgiven a little."""
    targets = edge_targets(batch)
    weight = torch.where(targets < SUB, 3.0, 1.0)
    loss = F.cross_entropy(logits.flatten(0, 3), targets.flatten(), reduction="none", label_smoothing=0.02)
    return (loss * weight.flatten()).sum() / weight.sum()


def find_box(logits: Tensor) -> Tensor:
    """(n, 4) box in view px: the edges most probable to all patches together."""
    scores = F.log_softmax(logits, dim=-1)
    lines = torch.stack(
        [
            scores[:, :, :, 0].mean(1),
            scores[:, :, :, 1].mean(2),
            scores[:, :, :, 2].mean(1),
            scores[:, :, :, 3].mean(2),
        ],
        dim=1,
    )  # (n, 4, GRID, SUB + 2)
    before, after = lines[..., SUB], lines[..., SUB + 1]  # of cells behind the edge, of cells ahead of it
    ahead = after.cumsum(-1) - after
    behind = before.flip(-1).cumsum(-1).flip(-1) - before
    total = (ahead + behind)[..., None] + lines[..., :SUB]
    return total.flatten(2).argmax(-1) * (PATCH / SUB)
