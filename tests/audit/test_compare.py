"""Comparing text, errors and pixels: pure functions."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kernel_agent.audit.compare_images import compare_image, distance, draw
from kernel_agent.audit.compare_text import compare_outputs, compare_text
from kernel_agent.audit.sources import drawn_on, sources, written
from kernel_agent.audit.verdicts import Verdict
from kernel_agent.session.images import pixel_sha256
from kernel_agent.types import ErrorOutput, KernelImage, Output, StreamOutput, TextOutput

NONE: frozenset[str] = frozenset()
TIME = frozenset({"time"})


@pytest.mark.parametrize(
    ("recorded", "again", "used", "verdict", "how"),
    [
        ("a\n", "a\n", NONE, Verdict.IDENTICAL, ""),
        ("<A object at 0x7f00aa12>", "<A object at 0x7f11bb34>", NONE, Verdict.NORMALISED, "memory address"),
        ("mask 0x7f00aa12", "mask 0x7f11bb34", NONE, Verdict.DIFFERS, ""),
        ("/tmp/tmpa1b2c3d4/x", "/var/tmp/tmpz9y8x7w6/x", NONE, Verdict.NORMALISED, "temporary path"),
        ("/tmp/ipykernel_7/12.py:1", "/tmp/ipykernel_1/12.py:1", NONE, Verdict.NORMALISED, "kernel process"),
        ("/kernel/work/a.png", "/tmp/cv-ab12cd34/own/work/a.png", NONE, Verdict.NORMALISED, "kernel folder"),
        (
            "/a/lib/python3.11/ast.py:50: W",
            "/b/lib/python3.11/ast.py:54: W",
            NONE,
            Verdict.NORMALISED,
            "library location",
        ),
        ("took 0.51 s", "took 0.49 s", TIME, Verdict.NORMALISED, "duration"),
        ("the film lasts 7 s", "the film lasts 8 s", NONE, Verdict.DIFFERS, ""),
        ("2026-01-02 03:04:05", "2026-02-03 04:05:06", TIME, Verdict.NORMALISED, "clock time"),
        ("2026-01-02", "2026-02-03", NONE, Verdict.DIFFERS, ""),
        ("took 0.51 s, found 3", "took 0.49 s, found 4", TIME, Verdict.DIFFERS, ""),
        ("", "x", NONE, Verdict.MISSING, "the code writes it"),
        ("x", "", NONE, Verdict.MISSING, "the record has it"),
    ],
)
def test_text_agrees_only_by_named_rules(
    recorded: str, again: str, used: frozenset[str], verdict: Verdict, how: str
) -> None:
    found = compare_text("stdout", recorded, again, used=used)
    assert found.verdict is verdict
    assert how in found.how


def test_float_noise_of_another_processor_is_measured_and_let_through_only_on_demand() -> None:
    recorded, again = "[0.30000000000000004, 1e-05]", "[0.3,   1.0000000001e-05]"
    strict = compare_text("result", recorded, again)
    assert (strict.verdict, strict.how) == (Verdict.DIFFERS, "numbers apart by up to 1e-15 (1e-10 of their size)")
    assert compare_text("result", recorded, again, tolerance=1e-16).verdict is Verdict.DIFFERS
    assert compare_text("result", recorded, again, tolerance=1e-15).verdict is Verdict.WITHIN_TOLERANCE
    assert compare_text("result", "3 of 10", "4 of 10", tolerance=0.9).verdict is Verdict.DIFFERS  # no noise


def test_streams_may_be_cut_elsewhere_but_say_the_same() -> None:
    shown = TextOutput(text="<Figure>")
    recorded = [StreamOutput(name="stdout", text="a\nb\n"), StreamOutput(name="stderr", text="e\n"), shown]
    again = [
        StreamOutput(name="stdout", text="a\n"),
        StreamOutput(name="stderr", text="e\n"),
        StreamOutput(name="stdout", text="b\n"),
        shown,
    ]
    assert {item.verdict for item in _outputs(recorded, again)} == {Verdict.IDENTICAL}
    late = [recorded[1], shown, recorded[0]]
    (stdout,) = [item for item in _outputs(recorded, late) if item.what == "stdout"]
    assert (stdout.verdict, stdout.how) == (Verdict.NORMALISED, "place among the outputs")
    (gone,) = [item for item in _outputs(recorded, [again[0], again[2], shown]) if item.what == "stderr"]
    assert gone.verdict is Verdict.MISSING


def _outputs(recorded: list[Output], again: list[Output]) -> list:
    return compare_outputs(recorded, again, used=NONE, tolerance=0.0)


def _error(**changes: object) -> ErrorOutput:
    frames = (
        "Traceback (most recent call last)",
        "Cell In[3], line 2\n      1 x = 1\n----> 2 f(x)\n",
        "File /a/site-packages/lib.py:10, in f(x)\n---> 10     raise KeyError(x)\n",
        "KeyError: 1",
    )
    return replace(ErrorOutput(ename="KeyError", evalue="1", traceback=frames), **changes)


def test_errors_go_by_class_message_and_the_users_frames() -> None:
    honest = _error()
    moved = _error(traceback=(*honest.traceback[:2], "File /b/lib.py:99, in f(x)\n", "KeyError: 1"))
    (found,) = _outputs([honest], [moved])
    assert (found.verdict, found.how) == (Verdict.NORMALISED, "library frames")
    for forged, why in (
        (_error(ename="IndexError"), "class"),
        (_error(evalue="2"), "message"),
        (_error(traceback=("Cell In[3], line 9\n----> 9 f(x)\n", "KeyError: 1")), "frames"),
    ):
        (found,) = _outputs([forged], [honest])
        assert found.verdict is Verdict.DIFFERS
        assert why in found.how
    assert [item.verdict for item in _outputs([honest], [])] == [Verdict.MISSING]


def _image(pixels: np.ndarray, *, level: int = 6, **changes: object) -> KernelImage:
    picture, out = Image.fromarray(pixels), io.BytesIO()
    picture.save(out, "PNG", compress_level=level)
    facts = {"data": out.getvalue(), "view": out.getvalue(), "pixel_sha256": pixel_sha256(picture), **changes}
    size = picture.size
    return KernelImage(
        index=1, name="image_1", mime="image/png", size=size, view_mime="image/png", view_size=size, **facts
    )


NOISE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


def test_png_bytes_do_not_count_and_one_bit_of_a_pixel_does() -> None:
    one, other = _image(NOISE, level=0), _image(NOISE, level=9)
    assert one.data != other.data
    assert compare_image(one, other, max_pixels=10**6).verdict is Verdict.IDENTICAL
    bit = NOISE.copy()
    bit[7, 9, 2] ^= 1
    found = compare_image(_image(bit), one, max_pixels=10**6)
    assert found.verdict is Verdict.DIFFERS
    assert found.how == "1 pixels (0.08%) differ, by up to 1 of 255, within (9, 7, 10, 8)"
    assert len(found.pictures) == 3
    assert compare_image(_image(bit), one, max_pixels=10**6, tolerance=1).verdict is Verdict.WITHIN_TOLERANCE
    swapped = replace(one, data=_image(bit).data)  # the hash was kept
    assert "other pixels than the record says" in compare_image(swapped, one, max_pixels=10**6).how


def test_a_bomb_in_the_record_is_refused_from_its_header() -> None:
    bomb = _image(np.zeros((2000, 2000), np.uint8))
    found = compare_image(bomb, _image(NOISE), max_pixels=10**6)
    assert found.verdict is Verdict.DIFFERS
    assert "4,000,000 pixels; the limit is 1,000,000" in found.how


def test_a_single_pixel_is_seen_in_a_large_difference() -> None:
    pixels = np.full((1500, 2000, 3), 200, np.uint8)
    other = pixels.copy()
    other[700, 1234] = 0
    one, two = Image.fromarray(pixels), Image.fromarray(other)
    assert distance(one, two).box == (1234, 700, 1235, 701)
    with Image.open(io.BytesIO(draw(one, two)[2])) as shown:
        red = np.argwhere((np.asarray(shown.convert("RGB")) == (230, 0, 40)).all(axis=2))
    assert 1 <= len(red) <= 4
    assert abs(red[0] / shown.size[::-1] - np.array([700 / 1500, 1234 / 2000])).max() < 0.01


def test_sources_are_named_and_a_seeded_generator_is_none() -> None:
    def names(code: str, **header: object) -> dict[str, bool]:
        return {source.name: source.pinned for source in sources(drawn_on(code), header)}

    assert names("import time\ntime.time()") == {"time": False}
    assert names("random.random()") == {"random": False}
    assert names("random.random()", kernel_seed=3) == {"random": True}
    assert names("np.random.default_rng(3).integers(5)", kernel_seed=3) == {"random": True}
    assert names("np.random.default_rng().integers(5)", kernel_seed=3) == {"random": True, "entropy": False}
    assert names("os.urandom(3)") == {"entropy": False}
    assert names("'time, random'") == {}
    assert names("import time, sys\ntime.sleep(1)\nprint(file=sys.stderr)") == {}
    assert names("from time import perf_counter as p\np()") == {"time": False}
    assert "time" in names("%time f()")


def test_what_a_cell_may_leave_changed() -> None:
    code = "import time\nt = time.time()\nfound.append(t)\nd['a'] = 1\nimage_0.rotate(5)\nplt.plot(t)"
    assert written(code) == {"t", "found", "d"}
