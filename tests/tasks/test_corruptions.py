import numpy as np
import pytest
from PIL import Image

from kernel_agent.tasks.corruptions import apply
from kernel_agent.tasks.ground_truth import Corruption, CorruptionKind
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.pages import draw_page
from kernel_agent.tasks.typefaces import Split, typefaces

PAGE = Image.fromarray(draw_page(np.random.default_rng(1), typefaces(Split.TRAIN)).pixels).crop((80, 80, 480, 380))
MOVING = (CorruptionKind.SKEW, CorruptionKind.PERSPECTIVE)
PILLOW = {
    Orientation.ROT90: Image.Transpose.ROTATE_90,
    Orientation.ROT180: Image.Transpose.ROTATE_180,
    Orientation.ROT270: Image.Transpose.ROTATE_270,
    Orientation.FLIP_H: Image.Transpose.FLIP_LEFT_RIGHT,
    Orientation.FLIP_V: Image.Transpose.FLIP_TOP_BOTTOM,
}


def damaged(kind: CorruptionKind, severity: int, seed: int = 0) -> np.ndarray:
    return np.asarray(apply(PAGE, Corruption(kind=kind, severity=severity, seed=seed)).image)


@pytest.mark.parametrize("orientation", list(Orientation))
def test_orientations_are_exact_and_lossless(orientation: Orientation) -> None:
    shown = orientation.apply(PAGE)
    if orientation in PILLOW:
        assert shown.tobytes() == PAGE.transpose(PILLOW[orientation]).tobytes()
        assert shown.tobytes() != PAGE.tobytes()
    assert orientation.inverse.apply(shown).tobytes() == PAGE.tobytes()
    pixels = orientation.apply_to_pixels(np.asarray(PAGE))
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, np.asarray(shown))


@pytest.mark.parametrize("orientation", list(Orientation))
def test_a_box_goes_where_its_pixels_go(orientation: Orientation) -> None:
    picture = np.zeros((40, 70, 3), np.uint8)
    picture[5:12, 20:55] = 255
    shown = np.asarray(orientation.apply(Image.fromarray(picture)))
    ys, xs = np.nonzero(shown[:, :, 0])
    box = orientation.apply_to_box((20, 5, 55, 12), (70, 40))
    assert box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert orientation.inverse.apply_to_box(box, shown.shape[1::-1]) == (20, 5, 55, 12)


@pytest.mark.parametrize("kind", list(CorruptionKind))
def test_damage_is_its_seed_and_grows_with_severity(kind: CorruptionKind) -> None:
    assert np.array_equal(damaged(kind, 3, 5), damaged(kind, 3, 5))
    seeded = kind not in (CorruptionKind.JPEG,)  # a quality has nothing to draw
    many = [damaged(kind, 3, seed).tobytes() for seed in range(6)]
    assert (len(set(many)) > 1) is seeded
    if kind in MOVING:
        return
    clean = np.asarray(PAGE, dtype=np.float64)
    harm = [float(np.mean([np.abs(damaged(kind, s, seed) - clean).mean() for seed in range(4)])) for s in range(1, 6)]
    assert harm == sorted(harm)
    assert harm[0] > 0


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("severity", range(1, 6))
def test_outlines_follow_what_moves(kind: CorruptionKind, severity: int) -> None:
    picture = np.full((300, 400, 3), 255, np.uint8)
    picture[90:150, 120:260] = 0
    for seed in range(4):
        moved = apply(Image.fromarray(picture), Corruption(kind=kind, severity=severity, seed=seed))
        ys, xs = np.nonzero(np.asarray(moved.image)[:, :, 0] < 128)
        ink = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert moved.box((120, 90, 260, 150)) == pytest.approx(ink, abs=1.5)
        outline = ((120.0, 90.0), (260.0, 90.0), (260.0, 150.0))
        assert np.allclose(moved.to_original(moved.to_shown(outline)), outline)
        whole = moved.to_shown(((0, 0), (400, 0), (400, 300), (0, 300)))
        assert all(-0.5 <= x <= moved.image.width + 0.5 and -0.5 <= y <= moved.image.height + 0.5 for x, y in whole)


@pytest.mark.parametrize("kind", [kind for kind in CorruptionKind if kind not in MOVING])
def test_the_others_leave_every_pixel_at_its_place(kind: CorruptionKind) -> None:
    done = apply(PAGE, Corruption(kind=kind, severity=2))
    assert done.image.size == PAGE.size
    assert done.image.mode == "RGB"
    assert done.box((1, 2, 3, 4)) == (1, 2, 3, 4)


def test_occlusion_keeps_clear() -> None:
    keep = (150, 100, 260, 160)
    for seed in range(20):
        done = apply(PAGE, Corruption(kind=CorruptionKind.OCCLUSION, severity=5, seed=seed), keep=keep)
        assert done.image.crop(keep).tobytes() == PAGE.crop(keep).tobytes()
        assert done.image.tobytes() != PAGE.tobytes()


def test_any_mode_is_taken() -> None:
    for mode in ("L", "RGBA", "P", "1"):
        assert apply(PAGE.convert(mode), Corruption(kind=CorruptionKind.BLUR)).image.mode == "RGB"
