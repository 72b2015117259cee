import math
import random

import pytest
from making import cell_step, kernel_image, noise

from kernel_agent.errors import LineageError
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Affine


def chain(*made: tuple[int | None, Affine | None]) -> Trajectory:
    """An input and images made one after another from (parent, affine)."""
    t = Trajectory.start(images=[kernel_image(0, noise(100, 60))], header={})
    t.begin_turn("?")
    for index, (parent, affine) in enumerate(made):
        image = kernel_image(index + 1, noise(9, 9), parent=parent, affine=affine, origin=f"cell {index}")
        t.add_step(cell_step(index, "x", images=[image]))
    return t


def test_crop_then_zoom_then_quarter_turn() -> None:
    crop: Affine = (1, 0, 10, 0, 1, 20)
    zoom: Affine = (0.5, 0, 0, 0, 0.25, 0)
    turn: Affine = (0, -1, 80, 1, 0, 0)  # of an 80 wide image, turned left
    t = chain((0, crop), (1, zoom), (2, turn))
    assert t.to_input((0, 0, 4, 4), image=0) == (0, 0, 4, 4)
    assert t.to_input((0, 0, 4, 4), image="image_1") == (10, 20, 14, 24)
    assert t.to_input((0, 0, 4, 4), image=2) == (10, 20, 12, 21)
    assert t.to_input((0, 0, 4, 8), image=3) == (10 + 72 / 2, 20, 10 + 80 / 2, 20 + 4 / 4)
    assert t.to_input((-5, -5, 0, 0), image=1) == (5, 15, 10, 20)
    assert (t.root("image_3"), t.root(0)) == (0, 0)


def test_a_free_rotation_gives_the_box_around() -> None:
    c, s = math.cos(math.pi / 4), math.sin(math.pi / 4)
    t = chain((0, (c, -s, 0, s, c, 0)))
    box = t.to_input((0, 0, 2, 2), image=1)
    assert box == pytest.approx((-math.sqrt(2), 0, math.sqrt(2), 2 * math.sqrt(2)))


def test_composition_equals_mapping_step_by_step() -> None:
    r = random.Random(0)
    affines: list[Affine] = [
        (r.choice([-2, 0.5]), 0, r.uniform(-9, 9), 0, r.choice([-1, 3]), r.uniform(-9, 9)) for _ in range(5)
    ]
    t = chain(*((index, affine) for index, affine in enumerate(affines)))
    x0, y0, x1, y1 = 1.0, 2.0, 7.0, 5.0
    for a, b, c, d, e, f in reversed(affines):
        x0, y0, x1, y1 = a * x0 + b * y0 + c, d * x0 + e * y0 + f, a * x1 + b * y1 + c, d * x1 + e * y1 + f
    expected = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    assert t.to_input((1, 2, 7, 5), image=5) == pytest.approx(expected)


def test_unknown_origins_are_named() -> None:
    t = chain((None, None), (1, (1, 0, 0, 0, 1, 0)), (0, None), (3, (1, 0, 0, 0, 1, 0)), (77, (1, 0, 0, 0, 1, 0)))
    with pytest.raises(LineageError, match=r"image_1 came from no known image \(cell 0\)"):
        t.to_input((0, 0, 1, 1), image=1)
    with pytest.raises(LineageError, match="image_1, which image_2 was made from, came from no known"):
        t.root(2)
    assert t.root(4) == 0
    with pytest.raises(LineageError, match="image_3 was made from image_0, but not by a geometric operation"):
        t.to_input((0, 0, 1, 1), image=4)
    with pytest.raises(LineageError, match="names a parent"):
        t.root(5)
    with pytest.raises(LookupError, match=r"no image 'image_9' in this run; it has image_0, image_1"):
        t.root("image_9")
