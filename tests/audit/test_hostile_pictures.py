"""Pictures that lie: files that viewers show otherwise, another digit within a loss, labels and sizes, floods."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib.figure
import numpy as np
import orjson
import pytest
from forging import forge, record
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from kernel_agent import KernelPool, Session
from kernel_agent.audit.audit import audit, audit_file
from kernel_agent.audit.compare_images import compare_image
from kernel_agent.audit.finding import Outcome
from kernel_agent.audit.pictures import check_pictures
from kernel_agent.audit.rerun import rerun
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.said import check_record
from kernel_agent.audit.verdicts import Verdict
from kernel_agent.blocking import run_blocking
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.session.images import encode_png, pixel_sha256
from kernel_agent.session.images_plain import not_plain
from kernel_agent.session.images_view import ViewBounds, encode_jpeg
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import CellResult, KernelImage

NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (37, 53, 3), dtype=np.uint8))
HEAD = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
async def pool():
    async with KernelPool(1) as made:
        yield made


def _file(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """The file with one more chunk after its header."""
    return png[:33] + _chunk(kind, body) + png[33:]


def _png(width: int, height: int, rows: bytes, *, depth: int = 8, interlaced: int = 0) -> bytes:
    """A grey PNG of these rows, as many as there are."""
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlaced)
    return HEAD + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _adam7(width: int, height: int) -> bytes:
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = ((len(range(left, width, x)), len(range(top, height, y))) for left, top, x, y in starts)
    return _png(
        width, height, b"".join((b"\0" + b"\1" * across) * down for across, down in sizes if across), interlaced=1
    )


def _text_chunk(keyword: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(keyword, '<x tiff:Orientation="3"/>')
    return info


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def _figure() -> bytes:
    figure, out = matplotlib.figure.Figure(), io.BytesIO()
    figure.subplots().plot([1, 3, 2])
    figure.savefig(out, format="png")
    return out.getvalue()


PNG = encode_png(NOISE)
GAMMA = struct.pack(">I", 100)
HOSTILE_PNG = {
    "acTL": _file(NOISE, save_all=True, append_images=[NOISE.rotate(180)]),
    "gAMA": _with_chunk(PNG, b"gAMA", GAMMA),
    "cHRM": _with_chunk(PNG, b"cHRM", b"\0" * 32),
    "sRGB": _with_chunk(PNG, b"sRGB", b"\0"),
    "iCCP": _file(NOISE, icc_profile=b"x" * 200),
    "eXIf": _file(NOISE, exif=_exif()),
    "EXIF or XMP": _file(NOISE, pnginfo=_text_chunk("XML:com.adobe.xmp")),
    "as text": _file(NOISE, pnginfo=_text_chunk("Raw profile type exif")),
    "follow its end": PNG + b"x",
    "not square": _file(NOISE, dpi=(72, 144)),
    "bits a sample": _file(NOISE.convert("I;16")),
    "rows": _png(4, 4, b"\0\1\2\3\4"),  # Pillow makes the rest black, a browser draws nothing there
    "IHDR twice": _with_chunk(PNG, b"IHDR", PNG[16:29]),
    "in order": PNG[:-12] + _chunk(b"tEXt", b"a\0b") + PNG[33:-12] + PNG[-12:],
    "is damaged": PNG[:60] + b"\0" + PNG[61:],
}
JPEG = encode_jpeg(NOISE)
HOSTILE_JPEG = {
    "APP1": _file(NOISE, "JPEG", exif=_exif()),
    "APP2": _file(NOISE, "JPEG", icc_profile=b"x" * 200),
    "APP14": _file(NOISE.convert("CMYK"), "JPEG"),
    "0xc2": _file(NOISE, "JPEG", progressive=True),
    "follow its end": JPEG + JPEG,
    "end is missing": JPEG[:-2],
    "not square": JPEG[:14] + b"\0\1\0\2" + JPEG[18:],
}


@pytest.mark.parametrize("told", HOSTILE_PNG)
def test_a_png_that_viewers_may_show_otherwise_is_not_plain(told: str) -> None:
    assert told in str(not_plain(HOSTILE_PNG[told], "image/png"))


@pytest.mark.parametrize("told", HOSTILE_JPEG)
def test_a_jpeg_that_viewers_may_show_otherwise_is_not_plain(told: str) -> None:
    assert told in str(not_plain(HOSTILE_JPEG[told], "image/jpeg"))


def test_what_pillow_opencv_matplotlib_and_we_write_is_plain() -> None:
    modes = ("1", "L", "P", "RGB", "RGBA", "LA")
    files = [_file(NOISE.convert(mode), optimize=optimize) for mode in modes for optimize in (False, True)]
    files += [_file(NOISE.quantize(2**bits), bits=bits) for bits in (1, 2, 4)]
    files += [_file(NOISE.convert("P"), transparency=3), _file(NOISE, dpi=(72, 72), pnginfo=_text_chunk("Comment"))]
    files += [encode_png(NOISE.convert(mode)) for mode in ("L", "RGB", "RGBA")]
    files += [_figure(), cv2.imencode(".png", np.asarray(NOISE))[1].tobytes()]
    files += [_adam7(*size) for size in ((1, 1), (3, 9), (5, 7), (16, 16))]
    assert [not_plain(file, "image/png") for file in files] == [None] * len(files)
    pictures = [
        encode_jpeg(NOISE),
        encode_jpeg(NOISE.convert("L")),
        cv2.imencode(".jpg", np.asarray(NOISE))[1].tobytes(),
    ]
    assert [not_plain(file, "image/jpeg", (53, 37)) for file in pictures] == [None] * 3
    assert not_plain(PNG, "image/png", (53, 38)) == "it is 53x37 px, the record says 53x38"
    assert not_plain(PNG, "image/jpeg") == "it is no JPEG"


def _change(**facts: Any) -> Callable[[CellResult], CellResult]:
    """The cell with other facts of its first image; `view` is `data` where that is all there is."""

    def change(cell: CellResult) -> CellResult:
        image = cell.images[0]
        if "data" in facts and image.view == image.data:
            return replace(cell, images=(replace(image, **{"view": facts["data"], **facts}), *cell.images[1:]))
        return replace(cell, images=(replace(image, **facts), *cell.images[1:]))

    return change


LARGE = "image_0.resize((300, 200), Image.Resampling.NEAREST)"


@pytest.fixture
async def run(picture: Image.Image, pool: KernelPool) -> Trajectory:
    return await record([LARGE, "image_0.rotate(90, expand=True)"], picture, pool=pool)


def _wrong(run: Trajectory) -> list[tuple[str, str]]:
    return [(item.cell, item.field) for item in check_record(run, max_pixels=10**7) if item.outcome is Outcome.FAILS]


async def test_an_output_with_an_honest_hash_whose_file_is_not_plain_fails_with_and_without_running_code(
    run: Trajectory, pool: KernelPool, tmp_path: Path
) -> None:
    image = run.images[1]
    assert _wrong(forge(run, 9, lambda cell: cell)) == []
    hostile = _with_chunk(image.data, b"gAMA", GAMMA)
    forged = forge(run, 0, _change(data=hostile))
    report = await audit(forged, pool=pool)
    assert report.exit_code == 1
    assert [(item.cell, item.field) for item in report.findings] == [("step 1", "image_1")]
    forged.save(tmp_path / "forged.ipynb")
    report, _ = await audit_file(tmp_path / "forged.ipynb", RerunOptions(code=False))
    assert ("step 1", "image_1") in {(item.cell, item.field) for item in report.findings}


def _replaced(path: Path, change: Callable[[bytes], bytes], **metadata: Any) -> tuple[int, str]:
    """Audit a notebook whose first picture of a cell is another file; the record stays."""
    notebook = orjson.loads(path.read_bytes())
    output = next(cell for cell in notebook["cells"] if cell["id"] == "step-0")["outputs"][0]
    data = change(base64.b64decode(output["data"]["image/png"]))
    output["data"]["image/png"] = base64.b64encode(data).decode()
    output["metadata"] |= metadata
    other = path.with_stem("other")
    other.write_text(json.dumps(notebook))
    report, _ = run_blocking(audit_file(other, RerunOptions(code=False)))
    return report.exit_code, " ".join(item.field for item in report.findings)


def _again(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.copy()


async def test_a_picture_written_anew_counts_by_its_pixels_if_it_holds_nothing_else(
    run: Trajectory, tmp_path: Path
) -> None:
    path = run.save(tmp_path / "run.ipynb")
    assert _replaced(path, lambda data: data) == (0, "")
    assert _replaced(path, lambda data: _file(_again(data), dpi=(72, 72), pnginfo=_text_chunk("Software"))) == (0, "")
    for change in (
        lambda data: _with_chunk(data, b"gAMA", GAMMA),
        lambda data: data + b"trailing",
        lambda data: _file(_again(data), save_all=True, append_images=[_again(data).rotate(180)]),
        lambda data: _file(_again(data).rotate(180), exif=_exif()),
    ):
        assert _replaced(path, change)[0] == 1


async def test_a_picture_made_small_by_its_outputs_metadata_is_found(run: Trajectory, tmp_path: Path) -> None:
    path = run.save(tmp_path / "run.ipynb")
    hidden = _replaced(path, lambda data: data, **{"image/png": {"width": 1, "height": 1}})
    assert hidden == (1, "outputs[0].metadata.image/png.height outputs[0].metadata.image/png.width")
    assert _replaced(path, lambda data: data, needs_background="dark")[0] == 1


def _digit(text: str, size: tuple[int, int] = (320, 240)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((150, 100), text, fill="black", font=ImageFont.load_default(28))
    return image


def _lossy(picture: Image.Image, data: bytes) -> KernelImage:
    facts = {"mime": "image/jpeg", "view_mime": "image/jpeg", "size": picture.size, "view_size": picture.size}
    return KernelImage(
        index=1, name="image_1", data=data, view=data, lossless=False, pixel_sha256=pixel_sha256(picture), **facts
    )


def test_a_lossy_picture_with_another_digit_differs_and_other_encoders_files_do_not() -> None:
    three, eight = _digit("3"), _digit("8")
    png = encode_png(three)
    again = replace(_lossy(three, png), mime="image/png", view_mime="image/png", lossless=True)

    def verdict(data: bytes, tolerance: int = 0) -> Verdict:
        return compare_image(_lossy(three, data), again, max_pixels=10**6, tolerance=tolerance).verdict

    gap = np.abs(np.asarray(_again(encode_jpeg(three)), np.int16) - np.asarray(_again(encode_jpeg(eight)), np.int16))
    assert gap.mean() < 1  # so a mean over the picture says nothing
    assert verdict(encode_jpeg(eight)) is Verdict.DIFFERS
    assert verdict(encode_jpeg(three)) is Verdict.IDENTICAL
    pale = np.array(three)
    pale[(np.asarray(three) == 255) & (np.asarray(eight) < 128)] -= 12
    assert verdict(encode_jpeg(Image.fromarray(pale))) is Verdict.DIFFERS
    assert verdict(_file(three, "JPEG", quality=70)) is Verdict.DIFFERS
    assert verdict(encode_jpeg(Image.fromarray(pale)), tolerance=40) is Verdict.WITHIN_TOLERANCE
    photo = Image.fromarray(
        cv2.GaussianBlur(np.random.default_rng(1).integers(0, 255, (200, 300, 3), dtype=np.uint8), (0, 0), 3)
    )
    for picture in (three, photo, NOISE, _again(_figure()).convert("RGB")):
        theirs = cv2.imencode(".jpg", np.asarray(picture)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        one = _lossy(picture, theirs)
        other = replace(one, data=encode_png(picture), mime="image/png", lossless=True)
        assert compare_image(one, other, max_pixels=10**6).verdict is Verdict.IDENTICAL


async def test_a_run_without_loss_cannot_be_relabelled(run: Trajectory) -> None:
    data = encode_jpeg(run.images[1].to_pil().rotate(180))
    facts = {"data": data, "mime": "image/jpeg", "view_mime": "image/jpeg", "lossless": False}
    assert ("step 1", "image_1") in _wrong(forge(run, 0, _change(**facts)))


def _with_input(run: Trajectory, **facts: Any) -> Trajectory:
    state = run._state
    changed = Trajectory.start(images=[replace(run.images[0], **facts)], header=run.header)
    changed.begin_turn(run.turns[0].question)
    for step in state.steps:
        changed.add_step(step)
    changed.end_turn(run.answer, run.stop_reason)
    return changed


async def test_views_are_those_of_their_images_whatever_the_header_claims(run: Trajectory) -> None:
    black = encode_png(Image.new("RGB", run.images[0].view_size))
    assert ("input", "view of image_0") in _wrong(_with_input(run, view=black))
    assert ("input", "image_0") in _wrong(_with_input(run, view=black, lossless=False))
    small = forge(run, 1, lambda cell: cell)
    image = small.images[2]
    assert image.view != image.data
    seen = np.array(_again(image.view))
    seen[10:18, 10:14] = 0
    packages = {**run.header["environment"]["packages"], "pillow": "1.0"}
    claimed = {"environment": {**run.header["environment"], "packages": packages}}
    forged = forge(run, 1, _change(view=encode_png(Image.fromarray(seen))), **claimed)
    assert ("step 2", "view of image_2") in _wrong(forged)
    jpeg = forge(run, 1, _change(view=encode_jpeg(Image.fromarray(seen)), view_mime="image/jpeg"))
    assert ("step 2", "view of image_2") in _wrong(jpeg)


async def test_another_pillow_may_scale_by_one_level_otherwise_and_no_more(run: Trajectory) -> None:
    packages = {**run.header["environment"]["packages"], "pillow": "1.0"}
    other = {"environment": {**run.header["environment"], "packages": packages}}
    exact = np.array(_again(run.images[2].view)).astype(np.int16)
    near = Image.fromarray(np.clip(exact + np.indices(exact.shape).sum(axis=0) % 2, 0, 255).astype(np.uint8))
    far = Image.fromarray(np.clip(exact - 2, 0, 255).astype(np.uint8))
    encoding = {"image_encoding": {"notebook": "png", "view": "jpeg"}}

    def found(view: bytes, mime: str = "image/png", **header: object) -> list[Outcome]:
        forged = forge(run, 1, _change(view=view, view_mime=mime), **header)
        fields = check_record(forged, max_pixels=10**7)
        return [item.outcome for item in fields if (item.cell, item.field) == ("step 2", "view of image_2")]

    assert found(encode_png(near)) == [Outcome.FAILS]
    assert found(encode_png(near), **other) == []
    assert found(encode_png(far), **other) == [Outcome.FAILS]
    jpeg = encode_jpeg(near)
    assert found(jpeg, "image/jpeg", **encoding) == [Outcome.FAILS]
    assert found(jpeg, "image/jpeg", **encoding, **other) == [Outcome.UNCHECKED]
    wiped = encode_jpeg(Image.new("RGB", near.size))
    assert found(wiped, "image/jpeg", **encoding, **other) == [Outcome.FAILS]


async def test_labels_sizes_and_lineage_are_those_of_the_run(run: Trajectory, picture: Image.Image) -> None:
    tiny = encode_png(Image.new("RGB", (2, 2)))
    forgeries = [
        (_change(name="image_7"), "image_7"),
        (_change(size=(4000, 3000), view_size=(4000, 3000)), "image_1"),
        (_change(view=tiny, view_size=(2, 2)), "view of image_1"),
        (_change(origin="input"), "image_1"),
        (_change(parent=1), "lineage of image_1"),
        (_change(affine=(1, 0, float("nan"), 0, 1, 0)), "lineage of image_1"),
        (_change(mime="image/gif"), "image_1"),
    ]
    for change, field in forgeries:
        assert ("step 1", field) in _wrong(forge(run, 0, change)), field
    for facts, field in (
        ({"name": "image_3"}, "image_3"),
        ({"size": (600, 400)}, "image_0"),
        ({"parent": 0, "affine": (1, 0, 0, 0, 1, 0)}, "image_0"),
        ({"data": _file(picture, save_all=True, append_images=[picture.rotate(180)])}, "image_0"),
    ):
        assert ("input", field) in _wrong(_with_input(run, **facts)), field


async def test_images_of_a_follow_up_may_have_other_bounds_and_are_then_unchecked(run: Trajectory) -> None:
    more = ScriptedModel([f"I look.\n```python\n{LARGE}\n```", "<answer>7</answer>"])
    await asyncio.to_thread(run.ask, "and now?", model=more, bounds=ViewBounds(min_pixels=1, max_pixels=100))
    run.close()
    found = list(check_pictures(run, max_pixels=10**7))
    assert [(item.outcome, item.field) for item in found] == [(Outcome.UNCHECKED, "view of image_3")]


async def test_pictures_have_a_deadline(run: Trajectory) -> None:
    (found,) = check_pictures(run, max_pixels=10**7, seconds=-1)
    assert (found.outcome, found.message) == (Outcome.UNCHECKED, "3 of 3 were not looked at: -1 s were up")


FLOOD = "rng = np.random.default_rng(1)\nfor _ in range({n}):\n    display(rng.integers(0, 255, (400, 400, 3), dtype=np.uint8))"


async def test_a_session_takes_no_more_bytes_of_pictures_than_it_may(pool: KernelPool) -> None:
    async with Session(pool=pool, image_bytes=1_000_000) as session:
        cell = await session.arun(FLOOD.format(n=9))
        assert (len(cell.images), session.images_refused) == (3, True)
        assert any("hold 1,440,000 bytes; the limit is 1,000,000" in str(event.data) for event in cell.events)
        assert len((await session.arun("1")).images) == 0
    async with Session(pool=pool) as session:
        assert len((await session.arun(FLOOD.format(n=9))).images) == 9


async def test_a_replay_that_floods_this_process_is_stopped_and_the_cell_says_so(
    picture: Image.Image, pool: KernelPool
) -> None:
    honest = await record(["1", FLOOD.format(n=4), "2"], picture, pool=pool)
    options = RerunOptions(image_bytes=1_000_000)
    assert (await rerun(honest, pool=pool)).verdict is Verdict.IDENTICAL
    verdicts = (await rerun(honest, options, pool=pool)).cells
    assert [cell.verdict for cell in verdicts] == [Verdict.IDENTICAL, Verdict.NOT_REPLAYABLE, Verdict.NOT_REPLAYABLE]
    assert verdicts[1].why.startswith("the pictures up to step 2 hold more than the 1,000,000 bytes")

    def less(cell: CellResult) -> CellResult:
        return replace(cell, images=cell.images[:1], outputs=cell.outputs[:1])

    verdicts = (await rerun(forge(honest, 1, less), options, pool=pool)).cells
    assert verdicts[1].verdict is Verdict.MISSING
    assert "1 in the record, 3 and more in the replay" in verdicts[1].comparisons[0].how
