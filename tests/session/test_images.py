"""Images in: every kind of source, every kind of bad input, normalisation and views."""

import base64
import http.server
import io
import struct
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kernel_agent.errors import ImageError, InputError
from kernel_agent.session.images import (
    ViewBounds,
    decode_output,
    load_image,
    make_view,
    normalise,
    pixel_sha256,
    view_size,
)
from kernel_agent.session.images_http import fetch, is_public

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
BOUNDS = ViewBounds(min_pixels=1, max_pixels=10_000_000, max_side=10_000)


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def as_plain(data):
    """What KernelImage.to_pil does."""
    from PIL import ImageOps

    image = Image.open(io.BytesIO(data))
    image.load()
    return ImageOps.exif_transpose(image)


def test_every_source_gives_the_same_pixels(tmp_path):
    path = tmp_path / "photo.png"
    data = encode(PHOTO)
    path.write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    sources = [path, str(path), data, bytearray(data), memoryview(data), PHOTO, PIXELS, PIXELS / 255.0, uri]
    loaded = [load_image(source) for source in sources]
    assert {pixel_sha256(one.pil) for one in loaded} == {pixel_sha256(PHOTO)}
    assert all(pixel_sha256(as_plain(one.data)) == pixel_sha256(one.pil) for one in loaded)
    assert loaded[0].source == loaded[1].source == "photo.png"
    assert loaded[2].data is data
    assert [one.source for one in loaded[5:]] == ["PIL image", "NumPy array", "NumPy array", "data URI"]


@pytest.mark.parametrize(
    ("form", "mime"),
    [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "png"), ("PPM", "png")],
)
def test_file_is_kept_where_a_notebook_can_hold_it(form, mime):
    data = encode(PHOTO, form)
    loaded = load_image(data)
    assert loaded.mime == f"image/{mime}"
    assert (loaded.data is data) == (form not in ("TIFF", "PPM"))
    assert pixel_sha256(as_plain(loaded.data)) == pixel_sha256(loaded.pil)


@pytest.mark.parametrize(
    ("array", "mode", "value"),
    [
        (np.full((4, 5), 7, np.uint8), "L", 7),
        (np.full((4, 5, 1), 7, np.int64), "L", 7),
        (np.ones((4, 5), bool), "L", 255),
        (np.full((4, 5), 65535, np.uint16), "L", 255),
        (np.full((4, 5, 3), 0.5, np.float32), "RGB", (128, 128, 128)),
        (np.full((4, 5, 4), 9, np.uint8), "RGBA", (9, 9, 9, 9)),
        (np.full((8, 10, 3), 9, np.uint8)[::2, ::-2], "RGB", (9, 9, 9)),
    ],
)
def test_arrays(array, mode, value):
    pil = load_image(array).pil
    assert (pil.mode, pil.size, pil.getpixel((0, 0))) == (mode, (5, 4), value)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 40, 50), np.uint8), "transpose(1, 2, 0)"),
        (np.zeros((2, 2, 2, 2), np.uint8), "(2, 2, 2, 2)"),
        (np.full((4, 4), 3.5), "floats within 0..1"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), -1), "values -1 to -1"),
        (np.zeros((0, 4), np.uint8), "at least 1x1"),
        (np.array([["a"]]), "dtype"),
    ],
)
def test_arrays_that_are_no_image(array, says):
    with pytest.raises(ImageError) as caught:
        load_image(array)
    assert says in str(caught.value)


def test_matplotlib_figure():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([1, 2])
    loaded = load_image(figure)
    assert loaded.pil.size == (100, 50)
    assert loaded.source == "matplotlib figure"


def test_bad_files_say_value_and_remedy(tmp_path):
    data = encode(PHOTO)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello there")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut.jpg").write_bytes(encode(PHOTO, "JPEG")[:700])
    (tmp_path / "header.png").write_bytes(data[:20])
    (tmp_path / "a.svg").write_text('<?xml version="1.0"?><svg xmlns="x"/>')
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "a.pdf").write_text("%PDF-1.7\n")
    cases = {
        "empty.png": "0 bytes",
        "text.png": "not an image",
        "cut.png": "truncated",
        "cut.jpg": "truncated",
        "header.png": "header.png",
        "missing.png": "no such file",
        ".": "is a folder",
        "a.svg": "Convert it to PNG",
        "a.eps": "Convert it to PNG",
        "a.pdf": "Convert the page",
        "x" * 5000: "cannot be read",
        "nul\0byte.png": "cannot be read",
    }
    for name, says in cases.items():
        with pytest.raises(ImageError) as caught:
            load_image(f"{tmp_path}/{name}")
        assert says in str(caught.value), name
    with pytest.raises(ImageError, match="no regular file"):
        load_image("/dev/zero")
    for source in (None, 3, object(), ["a.png"]):
        with pytest.raises(ImageError, match="cannot be made of"):
            load_image(source)


@pytest.mark.parametrize(
    "uri", ["data:image/png;base64", "data:image/png;base64,@@@", "data:,hello", "data:image/png;base64,"]
)
def test_bad_data_uris(uri):
    with pytest.raises(ImageError):
        load_image(uri)


def bomb_png(width, height):
    """A valid header and a small stream that claims width x height."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\x00\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 1_001), (65_535, 65_535)])
def test_bombs_are_refused_from_the_header(size):
    started = time.thread_time()
    for call in (load_image, decode_output):
        with pytest.raises(ImageError, match=r"limit is 100,000,000.*max_pixels"):
            call(bomb_png(*size))
    assert time.thread_time() - started < 1


def test_max_pixels_is_exact_and_pillow_limits_are_restored():
    before = Image.MAX_IMAGE_PIXELS
    assert load_image(encode(PHOTO), max_pixels=2400).pil.size == (60, 40)
    for source in (encode(PHOTO), PHOTO, PIXELS):
        with pytest.raises(ImageError, match="2,399"):
            load_image(source, max_pixels=2399)
    assert before == Image.MAX_IMAGE_PIXELS
    flat = Image.new("1", (9_600, 10_000))  # over Pillow's own warning, under our limit
    assert load_image(encode(flat)).pil.size == (9_600, 10_000)


def test_animated_uses_first_frame_and_says_so():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        loaded = load_image(
            encode(
                frames[0],
                form,
                save_all=True,
                append_images=frames[1:],
                **({"lossless": True} if form == "WEBP" else {}),
            )
        )
        assert loaded.pil.convert("RGB").getpixel((4, 4)) == (255, 0, 0)
        assert any("first of 3 frames" in note for note in loaded.notes)
        assert not getattr(Image.open(io.BytesIO(loaded.data)), "is_animated", False)


def test_wrong_extension_is_fine(tmp_path):
    path = tmp_path / "photo.txt"
    path.write_bytes(encode(PHOTO, "JPEG"))
    assert load_image(path).mime == "image/jpeg"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(PHOTO, "JPEG", exif=exif)
    loaded = load_image(data)
    assert loaded.data is data
    assert loaded.pil.size == ((60, 40) if orientation < 5 else (40, 60))
    assert pixel_sha256(as_plain(data)) == pixel_sha256(loaded.pil)
    assert loaded.pil.getexif().get(0x0112, 1) == 1
    assert any("orientation" in note for note in loaded.notes) == (orientation > 1)
    view = make_view(loaded.pil, data, "image/jpeg", BOUNDS)
    assert (view.data is data) == (orientation == 1)
    assert Image.open(io.BytesIO(view.data)).size == loaded.pil.size
    assert ImageOps.exif_transpose(loaded.pil).size == loaded.pil.size


def turned(how):
    """The photo in a file that Pillow turns by 180 degrees; where that is said decides whether other viewers do."""
    exif = Image.Exif()
    exif[0x0112] = 3
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    if how == "PNG text":
        info = PngInfo()
        info.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n", zip=True)
        return encode(PHOTO, "PNG", pnginfo=info)
    if how == "JPEG with XMP":
        return encode(PHOTO, "JPEG", xmp=xmp)
    data = exif.tobytes()
    if how == "JPEG with a LONG":
        data = (
            data.replace(struct.pack(">HHIH", 0x0112, 3, 1, 3), struct.pack(">HHIH", 0x0112, 4, 1, 0))[:-6]
            + b"\0\3"
            + data[-4:]
        )
    if how == "JPEG with two EXIF":
        photo = encode(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08")  # its entries stand in the next segment
        rest = data.removeprefix(b"Exif\0\0")[8:]
        at = photo.index(b"Exif") + 14
        segment = b"\xff\xe1" + struct.pack(">H", len(rest) + 8) + b"Exif\0\0" + rest
        return photo[:at] + segment + photo[at:]
    return encode(PHOTO, how.partition(" ")[0], exif=data)


@pytest.mark.parametrize("how", ["PNG", "PNG text", "WEBP", "JPEG with XMP", "JPEG with a LONG", "JPEG with two EXIF"])
def test_a_file_that_not_every_viewer_turns_is_kept_upright(how):
    """A reader of the notebook would see it otherwise than the model and the code."""
    data = turned(how)
    loaded = load_image(data)
    assert loaded.notes == ("EXIF orientation 3 applied",)
    assert (loaded.mime, loaded.data == data) == ("image/png", False)
    with Image.open(io.BytesIO(loaded.data)) as kept:
        assert kept.getexif().get(0x0112) is None
        assert pixel_sha256(kept) == pixel_sha256(loaded.pil)
    assert load_image(turned("JPEG")).data == turned("JPEG")


def of_mode(mode):
    if mode == "P+transparency":
        image = PHOTO.convert("P")
        image.info["transparency"] = 0
        return image
    if mode in ("I;16", "I", "F"):
        ramp = np.linspace(0, 65535, 2400).reshape(40, 60)
        return Image.fromarray(ramp.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    if mode == "LAB":
        return Image.merge("LAB", [PHOTO.convert("L")] * 3)
    if mode in ("La", "RGBa"):
        return PHOTO.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "PA":
        return PHOTO.convert("P").convert("PA")
    return PHOTO.convert(mode)


MODES = {
    "1": "L", "L": "L", "LA": "RGBA", "La": "RGBA", "P": "RGB", "PA": "RGBA", "P+transparency": "RGBA", "RGB": "RGB", "RGBA": "RGBA",
    "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "I;16": "L", "I": "L", "F": "L",
}  # fmt: skip


@pytest.mark.parametrize(("mode", "becomes"), MODES.items())
def test_normalise(mode, becomes):
    image = of_mode(mode)
    before = (image.mode, image.tobytes())
    result = normalise(image)
    assert (result.mode, result.size) == (becomes, (60, 40))
    assert pixel_sha256(result) == pixel_sha256(normalise(of_mode(mode)))
    assert (image.mode, image.tobytes()) == before
    assert result.info == {}
    loaded = load_image(image)
    assert pixel_sha256(loaded.pil) == pixel_sha256(as_plain(loaded.data)) == pixel_sha256(result)


def test_deep_greys_scale_as_documented():
    def one(values, dtype):
        return list(np.asarray(normalise(Image.fromarray(np.array([values], dtype)))).ravel())

    assert one([0, 128, 129, 257, 32768, 65535], np.uint16) == [0, 0, 1, 1, 128, 255]
    assert one([0, 7, 255], np.int32) == [0, 7, 255]
    assert one([0, 257, 65535], np.int32) == [0, 1, 255]
    assert one([-10, 0, 10], np.int32) == [0, 128, 255]
    assert one([0, 0.5, 1], np.float32) == [0, 128, 255]
    assert one([0, 7.4, 255], np.float32) == [0, 7, 255]
    assert one([np.nan, 1, np.inf], np.float32) == [0, 255, 0]
    assert one([5, 5], np.float32) == [5, 5]
    assert one([-5, -5], np.float32) == [0, 0]


def test_16_bit_png_and_cmyk_jpeg():
    sixteen = load_image(encode(of_mode("I;16")))
    assert (sixteen.pil.mode, sixteen.mime) == ("L", "image/png")
    cmyk = load_image(encode(PHOTO.convert("CMYK"), "JPEG"))
    assert (cmyk.pil.mode, cmyk.mime) == ("RGB", "image/png")
    assert "CMYK converted to RGB" in cmyk.notes


def test_png_with_transparent_colour_becomes_rgba():
    loaded = load_image(encode(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3)))
    assert loaded.pil.getpixel((0, 0)) == (1, 2, 3, 0)


def test_view_is_the_file_itself_where_nothing_changes():
    data = encode(PHOTO)
    assert make_view(PHOTO, data, "image/png", BOUNDS).data is data
    small = make_view(PHOTO, data, "image/png", ViewBounds(min_pixels=1, max_pixels=600, max_side=99))
    assert (small.size, small.mime) == ((30, 20), "image/png")
    webp = make_view(PHOTO, encode(PHOTO, "WEBP"), "image/webp", BOUNDS)
    assert webp.mime == "image/png"


def test_view_puts_alpha_over_white():
    image = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    view = make_view(image, encode(image), "image/png", BOUNDS)
    shown = Image.open(io.BytesIO(view.data))
    assert (shown.mode, shown.getpixel((3, 3))) == ("RGB", (255, 255, 255))


@pytest.mark.parametrize(
    "size", [(1, 1), (20_000, 10), (10, 20_000), (4000, 3000), (31, 37), (1, 300), (8000, 1), (640, 480)]
)
@pytest.mark.parametrize("bounds", [ViewBounds(), ViewBounds(min_pixels=64, max_pixels=4096, max_side=100)])
def test_view_sizes_stay_within_bounds(size, bounds):
    width, height = view_size(size, bounds)
    assert max(width, height) <= bounds.max_side
    assert max(width, height) <= 200 * min(width, height)
    assert width * height <= bounds.max_pixels + max(width, height)
    assert width * height >= bounds.min_pixels or max(width, height) == bounds.max_side
    assert view_size(size[::-1], bounds) == (height, width) or size[0] == size[1]
    if max(size) <= 100 * min(size) and min(width, height) >= 20:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.06)


def test_extreme_aspect_is_taken_and_shown():
    for size in ((20_000, 10), (1, 1)):
        image = Image.new("RGB", size, "red")
        loaded = load_image(encode(image))
        view = make_view(loaded.pil, loaded.data, loaded.mime, ViewBounds())
        assert Image.open(io.BytesIO(view.data)).size == view.size


@pytest.mark.parametrize(
    "bad", [{"min_pixels": 0}, {"min_pixels": 10, "max_pixels": 9}, {"max_side": 0}, {"max_side": 10}]
)
def test_bad_bounds(bad):
    with pytest.raises(InputError, match="="):
        ViewBounds(**bad)


def test_output_png_takes_png_and_jpeg_only():
    assert decode_output(encode(PHOTO)).size == (60, 40)
    assert decode_output(encode(PHOTO, "JPEG")).mode == "RGB"
    for bad in (encode(PHOTO, "GIF"), encode(PHOTO, "TIFF"), b"", b"junk", encode(PHOTO)[:300]):
        with pytest.raises(ImageError):
            decode_output(bad)


class Handler(http.server.BaseHTTPRequestHandler):
    routes = {}  # noqa: RUF012  (filled by the test)

    def do_GET(self):
        status, headers, body = self.routes.get(self.path, (404, {}, b""))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        try:
            for piece in body if isinstance(body, list) else [body]:
                self.wfile.write(piece)
                time.sleep(0.05 if isinstance(body, list) else 0)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_http(server):
    Handler.routes = {
        "/a.png?key=secret": (200, {}, encode(PHOTO)),
        "/moved": (302, {"Location": "/a.png?key=secret"}, b""),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/html": (200, {}, b"<html>"),
        "/big": (200, {}, bytes(5000)),
        "/slow": (200, {}, [b"x"] * 600),
    }
    loaded = load_image(f"{server}/a.png?key=secret", allow_http=True, allow_private_hosts=True)
    assert pixel_sha256(loaded.pil) == pixel_sha256(PHOTO)
    assert loaded.source == f"{server}/a.png"
    assert load_image(f"{server}/moved", allow_http=True, allow_private_hosts=True).pil.size == (60, 40)
    for path, says in {"/none": "404", "/loop": "redirects", "/file": "only http", "/html": "not an image"}.items():
        with pytest.raises(ImageError, match=says):
            load_image(server + path, allow_http=True, allow_private_hosts=True)
    with pytest.raises(ImageError, match=r"4,000 bytes"):
        fetch(f"{server}/big", allow_private=True, max_bytes=4000)
    with pytest.raises(ImageError, match=r"0\.3 s"):
        fetch(f"{server}/slow", allow_private=True, seconds=0.3)
    with pytest.raises(ImageError, match="allow_http"):
        load_image(f"{server}/a.png")
    for host in (server, server.replace("127.0.0.1", "localhost")):
        with pytest.raises(ImageError, match="no public address"):
            load_image(f"{host}/a.png", allow_http=True)
    with pytest.raises(ImageError, match="could not be fetched"):
        load_image("http://127.0.0.1:9/x.png", allow_http=True, allow_private_hosts=True)


def test_public_addresses():
    for address in ("8.8.8.8", "2606:4700::1111"):
        assert is_public(address)
    for address in (
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::",
        "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0::1",
    ):  # fmt: skip
        assert not is_public(address), address


def test_a_twelve_megapixel_jpeg_is_decoded_once(tmp_path):
    path = tmp_path / "big.jpg"
    Image.linear_gradient("L").resize((4000, 3000)).convert("RGB").save(path, quality=90)

    decoders = []

    def watch(frame, event, called):
        if event == "c_call" and called.__name__ in ("setimage", "imdecode"):
            decoders.append(type(called.__self__).__name__)

    sys.setprofile(watch)
    try:
        load_image(path)
    finally:
        sys.setprofile(None)
    assert decoders == ["ImagingDecoder"]
