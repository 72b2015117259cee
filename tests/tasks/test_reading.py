import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kernel_agent.tasks import fonts
from kernel_agent.tasks.fonts import ALPHABET, HELD_OUT_FAMILIES, Face, NoFontsError, discover, held_out_faces
from kernel_agent.tasks.orientation import Orientation, is_ambiguous
from kernel_agent.tasks.reading import draw_task
from kernel_agent.tasks.strings import MAX_LENGTH, MIN_LENGTH, draw_text


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    import matplotlib

    folder = fonts.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [face for face in discover([folder]) if face.family.startswith("dejavusans")]


def test_matplotlib_fonts_are_found_and_symbol_fonts_are_not(faces: list[Face]) -> None:
    assert {"dejavusans", "dejavusansmono"} <= {face.family for face in faces}
    assert all(0.5 < face.cap_ratio < 1 for face in faces)


def test_a_file_that_is_no_font_is_passed_over(tmp_path: fonts.Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"<!doctype html>")
    assert discover([tmp_path]) == []
    with pytest.raises(NoFontsError, match="font-caladea"):
        held_out_faces([tmp_path])


def test_held_out_and_training_families_are_disjoint() -> None:
    for family in HELD_OUT_FAMILIES:
        assert fonts.is_held_out(family)
        assert not fonts.is_for_training(family)
    assert fonts.is_for_training("dejavusans")
    assert not fonts.is_for_training(fonts.normalise_family("Source Sans 3"))
    assert not fonts.is_for_training("cambo")


def test_the_same_seed_gives_the_same_picture(faces: list[Face]) -> None:
    one, two, other = draw_task(7, 3, faces), draw_task(7, 3, faces), draw_task(8, 3, faces)
    assert one.answer == two.answer
    assert one.image.tobytes() == two.image.tobytes()
    assert one.image.tobytes() != other.image.tobytes()


def test_tasks_are_in_range_and_orientations_take_turns(faces: list[Face]) -> None:
    tasks = [draw_task(1, index, faces) for index in range(24)]
    assert [t.orientation for t in tasks[:6]] == list(Orientation)
    for task in tasks:
        assert MIN_LENGTH <= len(task.answer) <= MAX_LENGTH
        assert set(task.answer) <= set(ALPHABET)
        assert 14 <= task.glyph_height <= 80
        x0, y0, x1, y1 = task.text_box
        assert 0 <= x0 < x1 <= task.image.width
        assert 0 <= y0 < y1 <= task.image.height
        assert (x1 - x0 < y1 - y0) == task.orientation.swaps_axes
        assert task.score(task.answer) == 1.0
        assert task.score(f" {task.answer}\n") == 1.0
        assert task.score(task.answer[:-1]) == 0.0
        assert task.score(None) == 0.0


def test_the_text_box_holds_the_contrast(faces: list[Face]) -> None:
    """Inside the box there is ink: the box has more contrast than its height alone would explain."""
    for index in range(12):
        task = draw_task(2, index, faces)
        box = tuple(round(v) for v in task.text_box)
        inside = np.asarray(task.image.convert("L").crop(box), dtype=float)
        assert np.ptp(inside) >= 30


@pytest.mark.parametrize("orientation", list(Orientation))
def test_orientation_and_inverse_cancel(orientation: Orientation) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    turned = orientation.apply(image)
    assert orientation.inverse.apply(turned).tobytes() == image.tobytes()
    assert (turned.size != image.size) == orientation.swaps_axes


@pytest.mark.parametrize("orientation", list(Orientation))
def test_boxes_go_where_the_pixels_go(orientation: Orientation) -> None:
    pixels = np.zeros((20, 30), dtype=np.uint8)
    pixels[4:9, 3:17] = 255
    turned = np.asarray(orientation.apply(Image.fromarray(pixels)))
    x0, y0, x1, y1 = (int(v) for v in orientation.apply_to_box((3, 4, 17, 9), (30, 20)))
    expected = np.zeros_like(turned)
    expected[y0:y1, x0:x1] = 255
    assert np.array_equal(turned, expected)


@pytest.mark.parametrize("text", ["HOX8", "AHT", "MOW", "B0D", "69", "N0S"])
def test_strings_that_read_as_another_are_rejected(text: str) -> None:
    assert is_ambiguous(text)


@pytest.mark.parametrize("text", ["FR7", "PQG4", "KJR2"])
def test_plain_strings_are_kept(text: str) -> None:
    assert not is_ambiguous(text)


def test_drawn_strings_use_the_whole_alphabet_and_every_length() -> None:
    rng = np.random.default_rng(0)
    texts = [draw_text(rng) for _ in range(600)]
    assert {len(t) for t in texts} == set(range(MIN_LENGTH, MAX_LENGTH + 1))
    assert set("".join(texts)) == set(ALPHABET)
    assert not any(is_ambiguous(t) for t in texts)


def test_tasks_need_no_torch() -> None:
    code = "import sys, kernel_agent.tasks.reading; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
