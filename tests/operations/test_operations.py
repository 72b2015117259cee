"""Operations in real kernels, in varied styles, against what the code does by construction; and records made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from kernel_agent import Agent, Budget, Task, Trajectory
from kernel_agent.errors import TrajectoryError
from kernel_agent.models import ScriptedModel
from kernel_agent.operations import Applied, find_operations
from kernel_agent.operations.affine import orientation_map, parts
from kernel_agent.operations.pictures import Pictures
from kernel_agent.operations.values import ORIENTATIONS
from kernel_agent.session.png import write_png
from kernel_agent.types import ImageEncoding, KernelImage

A = Applied
SIZE = (360, 270)


def scene() -> Image.Image:
    """Grain, blobs and words: different in every orientation."""
    rng = np.random.default_rng(4)
    pixels = rng.normal(140, 5, (SIZE[1], SIZE[0], 3)) + np.linspace(-40, 40, SIZE[0])[None, :, None]
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for x, y, r, colour in (
        (60, 70, 30, "navy"),
        (140, 200, 22, "darkred"),
        (290, 210, 40, "olive"),
        (100, 130, 9, "white"),
    ):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    for row, words in enumerate(("SEVEN lamps", "orbit quiet", "maple 42")):
        draw.text((170, 20 + 40 * row), words, font=ImageFont.load_default(22), fill=(20, 20, 30))
    return picture


BOX = (40, 30, 300, 200)
CASES = [  # code on `image`, what it does, the part of the input where it is a crop
    ("result = image.rotate(90, expand=True)", {A.ROTATE90}, None),
    ("result = image.transpose(Image.Transpose.ROTATE_270)", {A.ROTATE270}, None),
    ("result = Image.fromarray(np.rot90(np.array(image), 2))", {A.ROTATE180}, None),
    ("result = cv2.flip(np.array(image), 1)", {A.FLIP_HORIZONTAL}, None),
    ("result = np.array(image)[::-1]", {A.FLIP_VERTICAL}, None),
    ("result = np.array(image).swapaxes(0, 1)", {A.TRANSPOSE}, None),
    ("a = np.array(image)\nh, w = a.shape[:2]\nresult = cv2.warpAffine(a, np.float32([[-1, 0, w - 1], [0, -1, h - 1]]), (w, h))", {A.ROTATE180}, None),
    ("def fix(im):\n    return ImageOps.mirror(im).rotate(90, expand=True)\nresult = fix(image)", {A.TRANSPOSE}, None),
    ("result = image.crop((40, 30, 300, 200))", {A.CROP}, BOX),
    ("w, h = image.size\nresult = image.crop((w // 9, h // 9, w * 300 // 360, h * 200 // 270))", {A.CROP}, BOX),
    ("result = np.asarray(image)[30:200, 40:300]", {A.CROP}, BOX),
    ("result = image.rotate(90, expand=True).crop((30, 60, 200, 320))", {A.ROTATE90, A.CROP}, (40, 30, 300, 200)),
    ("a = np.array(image)\nrows = [r[60:340].tolist() for r in a[20:210]]\nresult = np.array(rows, np.uint8)", {A.CROP}, (60, 20, 340, 210)),
    ("c = image.crop((40, 30, 300, 200))\nresult = c.resize((c.width * 2, c.height * 2), Image.LANCZOS)", {A.CROP, A.RESIZE}, BOX),
    ("a = np.array(image)[10:180, 90:330]\nresult = a.repeat(2, axis=0).repeat(2, axis=1)", {A.CROP, A.RESIZE}, (90, 10, 330, 180)),
    ("result = ImageEnhance.Contrast(ImageOps.mirror(image)).enhance(1.8)", {A.FLIP_HORIZONTAL, A.PHOTOMETRIC}, None),
    ("result = image.convert('L').point(lambda p: 255 if p > 120 else 0)", {A.PHOTOMETRIC}, None),
    ("result = cv2.medianBlur(np.array(image), 5)", {A.PHOTOMETRIC}, None),
    ("result = image.rotate(11, expand=True, fillcolor='white')", {A.FREE_ROTATION}, None),
    ("result = image.resize((180, 135))", {A.RESIZE}, None),
    ("ImageDraw.Draw(image).rectangle((50, 50, 250, 200), outline='red', width=5)\nresult = image", {A.OTHER}, None),
    ("result = ImageOps.expand(image, 20, 'black')", {A.OTHER}, None),
    ("result = ImageEnhance.Contrast(image).enhance(1.02)", set(), None),
    ("result = image.rotate(90, expand=True).rotate(-90, expand=True).copy()", set(), None),
    ("from kernel_agent.session.lineage import marks\nresult = image.rotate(180)\n"
     "marks.note_pil(result, marks.Mark(0, (0.0, 1.0, 0.0, -1.0, 0.0, 270.0)))", {A.ROTATE180}, None),
    ("plt.imshow(image)\nplt.title('look')\nplt.show()", None, None),
    ("a = np.array(image)\nresult = np.hstack([a[:, 180:], a[:, :180]])", None, None),
    ("result = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)", None, None),
]  # fmt: skip


def run(codes: list[str], picture: Image.Image, **options: object) -> Trajectory:
    replies = []
    for code in codes:
        arguments = {"code": code, "description": "Crop [1, 2, 3, 4], flip horizontally, rotate.", "image_index": 0}
        replies.append(f"<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>")
    model = ScriptedModel([*replies, "<answer>done</answer>"])
    budget = Budget(steps=len(codes) + 1, images=3 * len(codes), pixels=10**9)
    return Agent(model, budget=budget, **options).run(Task(question="What?", images=(picture,)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done():
    trajectory = run([code for code, _, _ in CASES], scene())
    return trajectory, find_operations(trajectory)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_in_a_real_kernel(done, number):
    code, applied, box = CASES[number]
    trajectory, found = done
    assert trajectory.steps[number].cell.status == "ok", trajectory.steps[number].observation
    step = found[number]
    if applied is None:
        assert step.unknown
        assert not step.applied
        return
    assert set(step.applied) == applied, f"{code}\n{step}"
    assert not step.unknown
    if box is not None:
        assert step.pictures[0].root == 0
        assert step.pictures[0].box == pytest.approx(box, abs=1e-6)


def test_a_plain_picture_tells_nothing():
    codes = [
        "result = image.rotate(180)",
        "result = image.crop((10, 10, 90, 60))",
        "result = np.array(image)[:, ::-1]",
    ]
    found = find_operations(run(codes, Image.new("RGB", (200, 140), (90, 110, 130))))
    assert [step.unknown for step in found[:3]] == [True] * 3
    assert not any(step.applied for step in found)


def test_over_steps_and_with_loss():
    codes = [
        "result = image.rotate(90, expand=True)",
        "result = image_1.rotate(90, expand=True)",
        "result = image_2.crop((60, 70, 320, 240))",
        "result = image_0.copy(); display(image_0.rotate(180), ImageOps.mirror(image_0))",
    ]
    trajectory = run(codes, scene(), encoding=ImageEncoding(notebook="jpeg"))
    found = find_operations(trajectory)
    assert [set(step.applied) for step in found[:3]] == [{A.ROTATE90}, {A.ROTATE90}, {A.CROP}]
    assert [step.pictures[0].lies for step in found[:3]] == [A.ROTATE90, A.ROTATE180, A.ROTATE180]
    assert found[2].pictures[0].box == (40, 30, 300, 200)
    assert {A.ROTATE180, A.FLIP_HORIZONTAL} <= set(found[3].applied)
    assert find_operations(trajectory) == found


@pytest.mark.parametrize("orientation", [None, *ORIENTATIONS])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_map_taken_apart(orientation, scale):
    a, b, c, d, e, f = orientation_map(orientation, SIZE)
    found = parts((a * scale, b * scale, c, d * scale, e * scale, f))
    assert found is not None
    assert (found.orientation, found.free) == (orientation, False)
    assert found.scale == pytest.approx((scale, scale))


def test_maps_that_are_no_operation():
    assert parts((0, 0, 1, 0, 0, 1)) is None
    assert parts((1, 0.5, 0, 0, 1, 0)) is None
    turned = parts((0.98480775, -0.17364818, 0, 0.17364818, 0.98480775, 0))
    assert turned is not None
    assert turned.free
    assert turned.angle == pytest.approx(np.radians(10))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"no picture", (8, 8)),
        (write_png("RGB", (4, 4), bytes(48)).replace(b"IDAT", b"IDAT" + bytes(9)), (4, 4)),
        (write_png("L", (4, 4), bytes(16)), (9, 9)),
    ],
)
def test_a_record_changed_by_hand_is_named(data, size):
    image = KernelImage(
        index=0, name="image_0", data=data, mime="image/png", size=size, pixel_sha256=f"{size}{len(data)}",
        view=data, view_mime="image/png", view_size=size,
    )  # fmt: skip
    with pytest.raises(TrajectoryError, match="image_0"):
        Pictures({0: image})[0]
