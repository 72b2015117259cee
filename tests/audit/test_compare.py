"""Comparing text, errors and pixels: pure functions."""

from __future__ import annotations

import io
import subprocess
import sys
import sysconfig
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kernel_agent.audit.compare_images import compare_image, distance, draw
from kernel_agent.audit.compare_text import begin_alike, compare_outputs, compare_text
from kernel_agent.audit.sanitisers import Known, spelled
from kernel_agent.audit.verdicts import Verdict
from kernel_agent.session.images import pixel_sha256
from kernel_agent.types import ErrorOutput, ImageOutput, KernelImage, Output, StreamOutput, TextOutput

PATH = sysconfig.get_paths()["purelib"]


@pytest.mark.parametrize(
    ("recorded", "again", "code", "verdict", "how"),
    [
        ("a\n", "a\n", "", Verdict.IDENTICAL, ""),
        ("<A object at 0x7f00aa1230>", "<A object at 0x7f11bb3450>", "", Verdict.NORMALISED, "memory address"),
        (
            "<function <lambda> at 0x7f00aa1230>",
            "<function <lambda> at 0x55d0aa1230>",
            "",
            Verdict.NORMALISED,
            "address",
        ),
        ("Generator(PCG64) at 0x7FDAA17BAC00", "Generator(PCG64) at 0x7FDAA17BA000", "", Verdict.NORMALISED, "address"),
        ("mask 0x7f00aa1230", "mask 0x7f11bb3450", "", Verdict.DIFFERS, ""),
        ("<5 dogs at 0x0005>", "<5 dogs at 0x0007>", "", Verdict.DIFFERS, ""),
        ("<A at 0x7f00aa1230>", "<A at 0x7f11bb3450>", "print('<A at 0x7f')", Verdict.DIFFERS, ""),
        (
            "<A at 0x7f00aa1230> <A at 0x7f00aa1230>",
            "<A at 0x7f11bb3450> <A at 0x7f11bb3460>",
            "",
            Verdict.NORMALISED,  # objects are freed, and their addresses used again
            "memory address",
        ),
        ("<A at 0x7f00aa1230> <A at 0x7f00aa1230>", "<A at 0x7f11bb3450> <B at 0x7f11bb3450>", "", Verdict.DIFFERS, ""),
        *(
            (
                "<5 at 0x7f00aa1230>",
                "<5 at 0x7f11bb3450>",
                code,
                Verdict.NOT_REPLAYABLE,
                "may have written it by itself",
            )
            for code in (
                "'<5 at '+hex(v)+'>'",
                "'<5 at ' + '0x' + d",
                "f'<5 at {v:#x}>'",
                "f'<5 at {v:#0{n}X}>'",
                "'<5 at {:#014x}>'.format(v)",
                "'<5 at %#x>' % v",
                "format(v, '#x')",
            )
        ),
        *(
            ("<5 at 0x7f00aa1230>", "<5 at 0x7f11bb3450>", code, Verdict.NORMALISED, "memory address")
            for code in ("{'a':x}", "{a: x}", "a[1:x]", "a & 0xff", "resize('x')", "10x", "p % x", "%xmode")
        ),
        ("/tmp/tmpa1b2c3d4/x", "/var/tmp/tmpz9y8x7w6/x", "", Verdict.NOT_REPLAYABLE, "entropy"),
        ("/tmp/ipykernel_7/12.py:1: W", "/tmp/ipykernel_1/12.py:1: W", "", Verdict.NOT_REPLAYABLE, "file of a cell"),
        ("Cell In[5], line 3", "Cell In[7], line 3", "", Verdict.NOT_REPLAYABLE, "may have written it by itself"),
        ("Cell In[5], line 3", "Cell In[5], line 7", "", Verdict.DIFFERS, ""),
        (
            "/tmp/cv-r27_od5m/own/tmp/ipykernel_70/12.py:1: W",
            "/tmp/ipykernel_1/12.py:1: W",
            "",
            Verdict.NOT_REPLAYABLE,
            "file of",
        ),
        ("/7/dogs/ipykernel_7/12.py:1: W", "/tmp/ipykernel_1/12.py:1: W", "", Verdict.DIFFERS, ""),
        ("/tmp/ipykernel_7/12.py:1: W", "/tmp/ipykernel_7/12.py:2: W", "", Verdict.DIFFERS, ""),
        ("ipykernel_5", "ipykernel_7", "", Verdict.DIFFERS, ""),
        ("/kernel/work/a.png", "/tmp/cv-ab12cd34/own/work/a.png", "", Verdict.NOT_REPLAYABLE, "kernel's folder"),
        (
            "/home/al/lib/python3.11/site-packages/np/a.py:5: W",
            f"{PATH}/np/a.py:5: W",
            "",
            Verdict.NORMALISED,
            "library",
        ),
        (f"{PATH}/np/a.py:5: W", "/home/7 dogs/lib/python3.11/site-packages/np/a.py:5: W", "", Verdict.DIFFERS, ""),
        (
            f"{PATH}/a.py:50: UserWarning: W",
            f"{PATH}/a.py:54: UserWarning: W",
            "",
            Verdict.NOT_REPLAYABLE,
            "another version",
        ),
        (f"{PATH}/a.py:5", f"{PATH}/a.py:7", "", Verdict.DIFFERS, ""),
        ("/there are 5 dogs/site-packages/x.py", "/there are 7 dogs/site-packages/x.py", "", Verdict.DIFFERS, ""),
        ("| 5/5 [00:00<00:00, 46.99it/s]", "| 5/5 [00:01<00:00,  4.01it/s]", "", Verdict.NORMALISED, "progress bar"),
        ("| 5/5 [05:15<00:00, 46.99it/s]", "| 5/5 [00:01<00:00,  4.01it/s]", "", Verdict.DIFFERS, ""),
        ("| 5/5 [00:01<00:00,  7.00it/s]", "| 5/5 [00:01<00:00,  4.01it/s]", "", Verdict.DIFFERS, ""),
        ("| 5/5 [00:00<05:15, 46.99it/s]", "| 5/5 [00:00<00:00, 46.99it/s]", "", Verdict.DIFFERS, ""),
        ("shows 5:15", "shows 3:40", "time.time()", Verdict.DIFFERS, ""),
        ("took 0.51 s", "took 0.49 s", "time.time()", Verdict.DIFFERS, ""),
        ("1999-12-31", "2001-01-01", "datetime.now()", Verdict.DIFFERS, ""),
        ("now here", "nowhere", "", Verdict.DIFFERS, ""),
        ("|  x |\n| x  |", "| x  |\n|  x |", "", Verdict.DIFFERS, ""),
        ("chapter 1.10", "chapter 1.1", "", Verdict.DIFFERS, ""),
        ("id 12345678901234567890.0", "id 12345678901234567891.0", "", Verdict.DIFFERS, ""),
        ("", "x", "", Verdict.MISSING, "the code writes it"),
        ("x", "", "", Verdict.MISSING, "the record has it"),
    ],
)
def test_text_agrees_only_by_named_rules(recorded: str, again: str, code: str, verdict: Verdict, how: str) -> None:
    found = compare_text("stdout", recorded, again, known=Known(spelled=spelled(code), seconds=(1.0, 1.0)))
    assert found.verdict is verdict
    assert how in found.how


@pytest.mark.parametrize("what", ["stderr", "error"])
def test_places_in_code_are_forgiven_where_python_tells_of_it(what: str) -> None:
    told = "{}\nCell In[{}], line 3\n/tmp/ipykernel_{}/12.py:1: W"
    found = compare_text(what, told.format("E", 5, 70), told.format("E", 7, 1))
    assert (found.verdict, found.how) == (Verdict.NORMALISED, "file of a cell, execution count")


def test_how_much_was_left_out_is_compared() -> None:
    one, other = ([StreamOutput(name="stdout", text="5 dogs\n", dropped=count)] for count in (5000, 0))
    (found,) = [item for item in _outputs(one, other) if item.verdict.holds is False]
    assert (found.what, found.verdict, found.texts) == ("characters left out", Verdict.DIFFERS, ("[5000]", "[0]"))
    assert [item.verdict for item in _outputs(one, one)] == [Verdict.IDENTICAL]


def test_what_was_cut_begins_as_its_head() -> None:
    def says(text: str, dropped: int) -> list[Output]:
        return [StreamOutput(name="stdout", text=text, dropped=dropped)]

    def alike(one: list[Output], other: list[Output]) -> bool:
        return begin_alike(one, other, known=Known()) and begin_alike(other, one, known=Known())

    cut = says("1\n2\n3\n4\n5\n\n[... 70 characters left out ...]\n8\n99\n", 70)
    assert alike(cut, says("1\n2\n3\n4\n5\n6\n7\n", 0))
    assert alike(cut, says("1\n2\n3\n4\n5\n\n[... 7 characters left out ...]\n30\n31\n", 7))
    assert alike(cut, says("1\n2\n", 0))
    assert not alike(cut, says("1\n2\n3\n7\n", 0))
    assert not alike(says("7 dogs\n", 1), says("5 dogs\n", 0))
    assert not alike(says("7 dogs\n\n[... 7 characters left out ...]\n", 0), says("7 dogs\n5 cats\n", 0))


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "0x1",
        "/a",
        "<",
        "<a at 0x7f",
        "[00:01<",
        " at ",
        "1.",
        "/lib/python3",
        "(...)\n",
        "format(",
        "{:0",
        "%0",
        "/tmp",
        "Cell In[",
        "<lambda>",
        "\n[... 1 ",
    ],
)
def test_rules_take_time_in_proportion_to_the_text(text: str) -> None:
    code = """
import sys
from kernel_agent.audit.compare_text import begin_alike, compare_error, compare_text
from kernel_agent.audit.sanitisers import Known, spelled
from kernel_agent.types import ErrorOutput, StreamOutput
text = sys.argv[1] * (200_000 // len(sys.argv[1]) - 1)
spelled(text)
begin_alike([StreamOutput(name="stdout", text=text, dropped=1)], [], known=Known())
compare_text("stdout", text + ".1 a", text + ".2 b", tolerance=0.1)
one, other = (ErrorOutput(ename="E", evalue="", traceback=("File /a" + text[:99_000] + end,)) for end in "ab")
compare_error(one, other, known=Known(), tolerance=0.0)
"""
    subprocess.run([sys.executable, "-c", code, text], check=True, timeout=120)


def test_float_noise_of_another_processor_is_measured_and_let_through_only_on_demand() -> None:
    recorded, again = "[0.30000000000000004,  1e-05]", "[0.3,   1.0000000001e-05]"
    strict = compare_text("result", recorded, again)
    assert (strict.verdict, strict.how) == (Verdict.DIFFERS, "numbers apart by up to 1e-15 (1e-10 of their size)")
    assert compare_text("result", recorded, again, tolerance=1e-16).verdict is Verdict.DIFFERS
    assert compare_text("result", recorded, again, tolerance=1e-15).verdict is Verdict.WITHIN_TOLERANCE
    assert compare_text("result", "3 of 10", "4 of 10", tolerance=0.9).verdict is Verdict.DIFFERS  # no noise
    assert compare_text("result", "at 0.5 now", "at 0.5now", tolerance=0.9).verdict is Verdict.DIFFERS


def test_streams_may_be_cut_elsewhere_but_say_the_same() -> None:
    shown = TextOutput(text="<Figure>")
    recorded = [StreamOutput(name="stdout", text="a\nb\n"), StreamOutput(name="stderr", text="e\n"), shown]
    again = [
        StreamOutput(name="stdout", text="a\n"),
        StreamOutput(name="stderr", text="e\n"),
        StreamOutput(name="stdout", text="b\n"),
        shown,
    ]
    assert {item.verdict for item in _outputs(recorded, [again[0], again[2], again[1], shown])} == {Verdict.IDENTICAL}
    mixed = [item for item in _outputs(recorded, again) if item.verdict is not Verdict.IDENTICAL]
    assert [(item.what, item.verdict) for item in mixed] == [("order of stdout and stderr", Verdict.NOT_REPLAYABLE)]
    late = [recorded[1], shown, recorded[0]]
    found = [item for item in _outputs(recorded, late) if item.what == "stdout"]
    assert {item.verdict for item in found} == {Verdict.MISSING}  # a caption behind another picture
    late = [recorded[0], shown, recorded[1]]
    (stderr,) = [item for item in _outputs(recorded, late) if item.what == "stderr"]
    assert stderr.verdict is Verdict.NOT_REPLAYABLE
    assert "place among the outputs" in stderr.how
    (gone,) = [item for item in _outputs(recorded, [again[0], again[2], shown]) if item.what == "stderr"]
    assert gone.verdict is Verdict.MISSING


def test_each_picture_stands_where_it_stood() -> None:
    first, second = ImageOutput(index=1), ImageOutput(index=2)
    before, after = StreamOutput(name="stdout", text="before:\n"), StreamOutput(name="stdout", text="after:\n")
    honest = [before, first, after, second]
    for forged in ([before, second, after, first], [before, first, after, first]):
        (found,) = [item for item in _outputs(forged, honest) if item.verdict.holds is False]
        assert (found.what, found.verdict) == ("order of the images", Verdict.DIFFERS)


def _outputs(recorded: list[Output], again: list[Output]) -> list:
    return compare_outputs(recorded, again, known=Known(), tolerance=0.0)


FRAMES = (
    "Traceback (most recent call last)",
    "Cell In[3], line 2\n      1 x = 1\n----> 2 f(x)\n",
    f"File {PATH}/lib.py:10, in f(x)\n---> 10     raise KeyError(x)\n",
    "KeyError: 1",
)


def _error(**changes: object) -> ErrorOutput:
    return replace(ErrorOutput(ename="KeyError", evalue="1", traceback=FRAMES), **changes)


def test_errors_are_text_but_for_frames_of_libraries() -> None:
    honest = _error()
    elsewhere = _error(
        traceback=tuple(frame.replace(PATH, "/home/al/lib/python3.11/site-packages") for frame in FRAMES)
    )
    (found,) = _outputs([elsewhere], [honest])
    assert (found.verdict, found.how) == (Verdict.NORMALISED, "library location")
    moved = _error(
        traceback=(*FRAMES[:2], f"File {PATH}/lib.py:99, in f(x)\n---> 99     raise KeyError(x)\n", FRAMES[3])
    )
    (found,) = _outputs([moved], [honest])
    assert found.verdict is Verdict.NOT_REPLAYABLE
    assert "frames of libraries" in found.how
    for forged, why in (
        (_error(ename="IndexError"), "class"),
        (_error(evalue="2"), "message"),
        (_error(traceback=(FRAMES[0], FRAMES[1].replace("line 2", "line 9"), *FRAMES[2:])), "traceback"),
        (_error(traceback=(*FRAMES, "there are 7 dogs")), "traceback"),
        (_error(traceback=(FRAMES[0], FRAMES[1].replace("x = 1", "x = 7"), *FRAMES[2:])), "traceback"),
        (_error(traceback=(*FRAMES[:3], "7 dogs\n", FRAMES[3])), "traceback"),
        (_error(traceback=("ValueError: 7 dogs\n", *FRAMES)), "traceback"),
        (_error(traceback=(*FRAMES[:2], "File /home/al/dogs.py:7, in f(x)\n---> 7 dogs\n", *FRAMES[3:])), "traceback"),
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
