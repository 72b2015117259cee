"""What a kernel shows comes out with exactly its pixels, however it is encoded; what is forged does not come in."""

from __future__ import annotations

import base64
import copy
import io
import pickle
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernel_agent import Budget, KernelOptions, Session, Status
from kernel_agent.errors import InputError
from kernel_agent.session.images import ViewBounds, encode_png, pixel_sha256
from kernel_agent.session.pixels import Exact, Files, Pixels, Room
from kernel_agent.session.png import CHANNELS, read_png, write_png
from kernel_agent.types import CellResult, ImageEncoding, KernelImage

SIZES = [(1, 1), (1, 7), (9, 1), (1, 20000), (20000, 1), (33, 17), (300, 200), (90000, 3)]
LOSSY = ImageEncoding(notebook="jpeg", view="jpeg")


def picture(mode: str, size: tuple[int, int], *, seed: int = 0, colours: int = 256) -> Image.Image:
    shape = (size[1], size[0], CHANNELS[mode])
    return Image.frombytes(mode, size, np.random.default_rng(seed).integers(0, colours, shape, np.uint8).tobytes())


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    red = Image.new("RGB", (60, 40), "red")
    with Session([red], budget=Budget(images=500, output_chars=2000), max_pixels=4_000_000) as shared:
        yield shared


def refused(cell: CellResult) -> list[str]:
    return [str(event.data["reason"]) for event in cell.events if event.kind == "output_refused"]


# ---------------------------------------------------------------------- the PNG writer


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", CHANNELS)
def test_png_has_the_pixels_in_every_reader(mode: str, size: tuple[int, int], pure: bool) -> None:
    import cv2

    for colours in (256, 2):
        image = picture(mode, size, colours=colours)
        data = write_png(mode, size, image.tobytes(), pure=pure)
        found = opened(data)
        assert (found.mode, found.size, found.tobytes(), found.info) == (mode, size, image.tobytes(), {})
        other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        order = {"L": [0], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[mode]
        expected = np.asarray(image).reshape(size[1], size[0], -1)[..., order]
        assert np.array_equal(other.reshape(expected.shape), expected)


def test_png_is_not_much_larger_than_pillows() -> None:
    photo = Image.effect_noise((400, 300), 20).resize((800, 600), Image.Resampling.BICUBIC).convert("RGB")
    flat = Image.new("RGB", (800, 600), "white")
    flat.paste((20, 20, 60), (100, 100, 300, 200))
    for image in (photo, flat, Image.linear_gradient("L").resize((800, 600)).convert("RGB")):
        pillow = io.BytesIO()
        image.save(pillow, "PNG", compress_level=1)
        for pure in (False, True):
            size = len(write_png("RGB", image.size, image.tobytes(), pure=pure))
            assert size <= 1.2 * len(pillow.getvalue()) + 1500, (size, len(pillow.getvalue()), pure)


@pytest.mark.parametrize("length", [0, 11, 13])
def test_png_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes are no RGB image of 2x2"):
        write_png("RGB", (2, 2), bytes(length))


# ---------------------------------------------------------------------- out of a kernel


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_every_mode_and_size_comes_out_of_a_kernel_exactly(session: Session, mode: str) -> None:
    sizes = [(1, 1), (1, 9), (9, 1), (1, 3000), (3000, 1), (33, 17), (640, 480)]
    code = f"""
rng = np.random.default_rng(5)
for w, h in {sizes}:
    shape = (h, w, {CHANNELS[mode]}) if {mode!r} != "L" else (h, w)
    display(PIL.Image.fromarray(rng.integers(0, 256, shape, np.uint8)))
"""
    cell = session.run(code)
    assert cell.status is Status.OK
    assert not cell.events
    rng = np.random.default_rng(5)
    for image, (width, height) in zip(cell.images, sizes, strict=True):
        shape = (height, width, CHANNELS[mode]) if mode != "L" else (height, width)
        expected = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        assert image.size == (width, height)
        assert image.lossless
        assert image.mime == "image/png"
        assert opened(image.data).mode == mode
        assert image.to_pil().tobytes() == expected.tobytes()
        assert image.pixel_sha256 == pixel_sha256(expected)


def test_a_view_that_needs_no_change_is_the_same_file(session: Session) -> None:
    image = session.run("image_0.resize((200, 100))").images[0]
    assert image.view is image.data
    assert session.run("image_0.resize((200, 100)).convert('RGBA')").images[0].view_size == (200, 100)


def test_captured_pictures_take_no_name_until_they_are_shown(session: Session) -> None:
    cell = session.run(
        "from IPython.utils.capture import capture_output\n"
        "with capture_output() as kept:\n    display(image_0.resize((50, 20)))\n"
        "display(image_0.resize((51, 20)))\nkept.outputs[0].display()"
    )
    assert [image.size for image in cell.images] == [(51, 20), (50, 20)]
    names = [image.name for image in cell.images]
    found = session.run(f"print({names[0]}.size, {names[1]}.size)").outputs[0]
    assert getattr(found, "text", "") == "(51, 20) (50, 20)\n"


def test_an_updated_display_shows_the_new_picture(session: Session) -> None:
    cell = session.run("h = display(image_0, display_id=True)\nh.update(image_0.resize((30, 20)))")
    assert [image.size for image in cell.images] == [(60, 40), (30, 20)]
    assert session.run("image_0.resize((31, 20))").images[0].size == (31, 20)


def test_a_picture_shown_raw_is_held_like_any_other(session: Session) -> None:
    cell = session.run(
        "import base64, io\nfile = io.BytesIO()\nimage_0.resize((44, 20)).save(file, 'JPEG')\n"
        "display({'image/jpeg': base64.b64encode(file.getvalue()).decode()}, raw=True)"
    )
    assert [image.size for image in cell.images] == [(44, 20)]
    assert cell.images[0].mime == "image/png"
    assert session.run(f"{cell.images[0].name}.size == (44, 20)").outputs[0].text == "True"  # type: ignore[union-attr]


# ---------------------------------------------------------------------- forged

SEND = """
import base64, io
shell = get_ipython()
def forge(record, buffers=(), data=None):
    content = {"data": data or {"text/plain": "x"}, "metadata": {"codevision": record} if record is not None else {}}
    pub = shell.display_pub
    message = pub.session.msg("display_data", content, parent=pub.parent_header)
    pub.session.send(pub.pub_socket, message, ident=pub.topic, buffers=list(buffers))
n = len(images)
"""


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        ('forge({"index": n, "mode": "RGB", "size": [2, 2]}, [b"x" * 11])', "11 bytes of pixels where RGB of 2x2 has 12"),
        ('forge({"index": n, "mode": "RGB", "size": [2, 2]}, [b"x" * 13])', "13 bytes of pixels where"),
        ('forge({"index": n, "mode": "RGB", "size": [2, 2]}, [])', "pixels in 0 buffers"),
        ('forge({"index": n, "mode": "RGB", "size": [2, 2]}, [b"x" * 12, b""])', "pixels in 2 buffers"),
        ('forge({"index": n, "mode": "RGB", "size": [10**6, 10**6]}, [b"x"])', "1 bytes of pixels where"),
        ('forge({"index": n, "mode": "RGB", "size": [10**15, 1]}, [b"x"])', "sides from 1 to"),
        ('forge({"index": n, "mode": "L", "size": [5000, 1000]}, [bytes(5_000_000)])', "5,000,000 pixels; the limit is 4,000,000"),
        ('forge({"index": n, "mode": "RGB", "size": [-2, -2]}, [b"x" * 12])', "sides from 1 to"),
        ('forge({"index": n, "mode": "RGB", "size": [0, 2]}, [b""])', "sides from 1 to"),
        ('forge({"index": n, "mode": "RGB", "size": [2.0, 2]}, [b"x" * 12])', "two whole numbers"),
        ('forge({"index": n, "mode": "RGB", "size": [True, 1]}, [b"x" * 3])', "two whole numbers"),
        ('forge({"index": n, "mode": "RGB", "size": "22"}, [b"x" * 12])', "two whole numbers"),
        ('forge({"index": n, "mode": "CMYK", "size": [2, 2]}, [b"x" * 16])', "only L, RGB, RGBA"),
        ('forge({"index": n, "mode": ["RGB"], "size": [2, 2]}, [b"x" * 12])', "only L, RGB, RGBA"),
        ('forge({"index": n + 7, "mode": "L", "size": [2, 2]}, [b"xxxx"])', "was due"),
        ('forge({"index": True, "mode": "L", "size": [2, 2]}, [b"xxxx"])', "was due"),
        ('forge({}, [b"xxxx"])', "index"),
        ('forge(None, [b"xxxx"])', "does not hold it"),
        ('forge(None, data={"image/png": "iVBORw0KGgo="})', "does not hold it"),
        ('forge({"index": n}, data={"image/png": "not base64!"})', "ase64"),
        ('forge({"index": n}, data={"image/png": ["list"]})', ""),
        ('forge({"index": n}, data={"image/png": base64.b64encode(b"<svg/>" * 9).decode()})', ""),
    ],
)  # fmt: skip
def test_what_is_forged_is_refused_and_the_cell_goes_on(session: Session, forged: str, reason: str) -> None:
    cell = session.run(f"{SEND}{forged}\nprint('on')\nimage_0.resize((25, 20))")
    assert cell.status is Status.OK
    assert len(found := refused(cell)) == 1, cell.events
    assert reason in found[0]
    assert [image.size for image in cell.images] == [(25, 20)]
    assert session.run("image_0.resize((26, 20))").images[0].size == (26, 20)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_foreign_file_is_encoded_anew_and_nothing_else_in_it_is_kept(session: Session) -> None:
    plain = encode_png(picture("RGB", (12, 10)))
    comment = chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")
    hostile = plain[:33] + comment + plain[33:] + b"PK\x03\x04 trailing <script>"
    cell = session.run(
        f"{SEND}forge({{'index': n}}, data={{'image/png': {base64.b64encode(hostile).decode()!r}}})\nNone"
    )
    (image,) = cell.images
    assert image.data == plain
    assert b"script" not in image.data
    cell = session.run(f"print({image.name}.size)\nimage_0.resize((27, 20))")
    assert cell.outputs[0].text == "(12, 10)\n"  # type: ignore[union-attr]
    assert cell.images[0].size == (27, 20)


def test_a_kernel_that_counts_its_images_wrong_is_put_right() -> None:
    with Session([Image.new("L", (9, 9))]) as session:
        cell = session.run(
            "from kernel_agent.session import kernel_side\nkernel_side._kernel.held.append(image_0)\nimage_0.resize((30, 20))"
        )
        assert cell.status is Status.OK
        assert not cell.images
        assert len(refused(cell)) == 1
        (image,) = session.run("print(len(images))\nimage_0.resize((31, 20))").images
        assert (image.index, image.size) == (1, (31, 20))
        cell = session.run("kernel_side.settle = None\nkernel_side._kernel.held.clear()\nimage_0.resize((32, 20))")
        assert cell.status is Status.KILLED
        assert [event.kind for event in cell.events] == [
            "output_refused",
            "kernel_killed",
            "kernel_restarted",
            "cells_replayed",
        ]
        (image,) = session.run("image_1.rotate(90, expand=True)").images
        assert (image.index, image.size) == (2, (20, 31))


def test_a_text_bomb_in_a_foreign_file_is_refused(session: Session) -> None:
    plain = encode_png(picture("RGB", (12, 10)))
    bomb = chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(300_000_000), 9))
    hostile = base64.b64encode(plain[:33] + bomb + plain[33:]).decode()
    with Session([Image.new("L", (9, 9))]) as other:
        cell = other.run(f"{SEND}forge({{'index': n}}, data={{'image/png': {hostile!r}}})\nprint('on')")
        assert cell.status is Status.OK
        assert not cell.images
        assert len(refused(cell)) == 1
        assert other.run("image_0").images


# ---------------------------------------------------------------------- with loss


def test_lossy_images_say_so_and_keep_the_hash_of_the_pixels() -> None:
    code = "PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8))"
    with Session(encoding=LOSSY) as lossy, Session() as exact:
        image, right = lossy.run(code).images[0], exact.run(code).images[0]
        assert (image.mime, image.lossless, image.view_mime) == ("image/jpeg", False, "image/jpeg")
        assert image.pixel_sha256 == right.pixel_sha256 == pixel_sha256(right.to_pil())
        assert pixel_sha256(image.to_pil()) != image.pixel_sha256
        assert right.lossless
        grey, alpha = lossy.run("[image_0.convert('L'), image_0.convert('RGBA')]").images
        assert (grey.mime, grey.lossless, opened(grey.data).mode) == ("image/jpeg", False, "L")
        assert (alpha.mime, alpha.lossless, alpha.view_mime) == ("image/png", True, "image/jpeg")


@pytest.mark.parametrize(
    ("encoding", "mimes"),
    [
        (ImageEncoding(), ("image/png", "image/png")),
        (ImageEncoding(view="jpeg"), ("image/png", "image/jpeg")),
        (ImageEncoding(notebook="jpeg"), ("image/jpeg", "image/png")),
        (LOSSY, ("image/jpeg", "image/jpeg")),
    ],
)
@pytest.mark.parametrize("size", [(100, 80), (1600, 1200)])
def test_each_file_is_made_once(encoding: ImageEncoding, mimes: tuple[str, str], size: tuple[int, int]) -> None:
    pixels = Pixels.of(picture("RGB", size))
    files = Files(pixels, encoding, ViewBounds())
    for first in ("data", "view"):
        facts = {"index": 0, "name": "image_0", "size": size, "pixel_sha256": pixels.sha256(), "mime": files.mime}
        image = KernelImage.later(files, view_mime=files.view_mime, view_size=files.view_size, **facts)
        getattr(image, first)
        assert (image.mime, image.view_mime) == mimes
        assert files.lossless is (mimes[0] == "image/png")
        assert (image.view is image.data) is (mimes[0] == mimes[1] and size == image.view_size)
        assert image.data is image.data
        assert opened(image.view).size == image.view_size
        assert opened(image.data).format == mimes[0].removeprefix("image/").upper()
        if files.lossless:
            assert image.to_pil().tobytes() == pixels.data


def test_an_image_not_yet_encoded_is_like_any_other(session: Session) -> None:
    code = "image_0.resize((70, 50))"
    one, two, three = (session.run(code).images[0] for _ in range(3))
    assert copy.deepcopy(one) == one
    assert pickle.loads(pickle.dumps(two)) == two
    assert replace(three, name="x").data == one.data
    assert "data" not in repr(one)
    with pytest.raises(AttributeError, match="no attribute 'date'"):
        one.date  # type: ignore[attr-defined]  # noqa: B018


def test_pixels_wait_only_up_to_a_limit_and_go_once_files_are_made() -> None:
    room = Room(limit=10_000)
    waiting = [Pixels.of(picture("L", (80, 50), seed=seed)) for seed in range(3)]
    files = [Files(pixels, ImageEncoding(), ViewBounds()) for pixels in waiting]
    assert [room.holds(made, pixels) for made, pixels in zip(files, waiting, strict=True)] == [True, True, False]
    del files[0]
    assert room.used == 4000
    with Session() as session:
        (first,) = session.run("PIL.Image.new('L', (100, 80))").images
        assert session._shown.room.used == 8000
        assert first.data
        assert first.view
        assert session._shown.room.used == 0
        made = session.run("for _ in range(7): display(PIL.Image.new('RGB', (3000, 2000)))").images
        assert session._shown.room.used == 5 * 18_000_000
        assert [pixel_sha256(image.to_pil()) == image.pixel_sha256 for image in made] == [True] * 7


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(InputError, match="image encoding view='webp': take png or jpeg"):
        ImageEncoding(view="webp")  # type: ignore[arg-type]


def test_images_of_a_cell_that_killed_its_kernel_stay_lossless_and_come_back_exactly() -> None:
    noise = "PIL.Image.fromarray(np.random.default_rng({}).integers(0, 256, (40, 50, 3), np.uint8))"
    with Session(encoding=LOSSY) as session:
        (first,) = session.run(noise.format(1)).images
        cell = session.run(
            f"import os, signal, time\ndisplay({noise.format(2)})\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)"
        )
        assert cell.status is Status.KILLED
        (second,) = cell.images
        assert (first.lossless, second.lossless, second.mime) == (False, True, "image/png")
        assert pixel_sha256(second.to_pil()) == second.pixel_sha256
        again = session.run(f"[{first.name}, {second.name}]").images
        assert [image.pixel_sha256 for image in again] == [first.pixel_sha256, second.pixel_sha256]
        assert not [event for event in (*cell.events, *session.take_events()) if event.kind == "restored_with_loss"]


def test_a_picture_that_can_only_come_back_with_loss_is_an_event(tmp_path: Path) -> None:
    flag = tmp_path / "once"
    code = (
        "import os\nnoise = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)\n"
        f"if not os.path.exists({str(flag)!r}):\n    open({str(flag)!r}, 'w').close()\n    display(PIL.Image.fromarray(noise))"
    )
    with Session(encoding=LOSSY, kernel=KernelOptions(isolation="none")) as session:  # the file has to stay
        (image,) = session.run(code).images
        cell = session.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        assert cell.status is Status.KILLED
        (event,) = [event for event in cell.events if event.kind == "restored_with_loss"]
        assert event.data["images"] == [image.name]
        assert session.run(image.name).images[0].pixel_sha256 == pixel_sha256(image.to_pil())


def test_exact_pixels_beyond_the_limit_are_held_as_files() -> None:
    with Session(encoding=LOSSY) as session:
        made = session.run(
            "[image_0.resize((40, 30)) for image_0 in [PIL.Image.linear_gradient('L')] for _ in range(3)]"
        )
        exact = Exact(raw_bytes=1000)
        picture = Image.linear_gradient("L").resize((40, 30))
        for image in made.images:
            exact.keep(image.index, Pixels.of(picture))
        assert [image.lossless for image in made.images] == [False] * 3
        for image in exact.restore(made.images):
            assert (image.lossless, image.mime) == (True, "image/png")
            assert pixel_sha256(image.to_pil()) == image.pixel_sha256
        exact.clear()
        assert exact.restore(made.images) == list(made.images)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_our_png_is_read_back_and_others_are_left(mode):
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 255, (23, 17, 4), dtype=np.uint8)).convert(mode)
    for pure in (False, True):
        data = write_png(mode, picture.size, picture.tobytes(), pure=pure)
        read = read_png(data)
        assert read is not None
        assert read.tobytes() == picture.tobytes()
        with pytest.raises(ValueError, match="damaged"):
            read_png(data[:41] + bytes(8) + data[49:])
    other = io.BytesIO()
    picture.save(other, "PNG", dpi=(72, 72))
    assert read_png(other.getvalue()) is None
    assert read_png(data[:-9]) is None
    assert read_png(b"") is None
