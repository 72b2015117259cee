"""What a self-contained notebook needs to run again in any Jupyter kernel: Pillow and NumPy, nothing of ours.

export.py writes `open_images` as it stands here into the notebook's first code cell; that is why it imports inside. It does
what `session.kernel_side` does for pixels and names (every picture a cell shows becomes the next image), without lineage
or limits on text.
"""

from typing import Any


def open_images(
    inputs: list[str],
    skipped: dict[int, str],
    *,
    pattern: str = "image_{i}",
    first: int = 0,
    saved_files: bool = False,
    max_images: int = 10_000,
) -> list[Any]:
    """Name the input images (base64 files), and from now on every picture that a cell shows.

    `skipped` are the pictures of cells that are not run again, by index.
    """
    import base64
    import importlib
    import io
    import re
    from pathlib import Path

    import numpy as np
    from IPython.core.getipython import get_ipython
    from IPython.display import display
    from PIL import Image, ImageOps

    shell: Any = get_ipython()
    format_anything, save_file = shell.display_formatter.format, Image.Image.save
    held: list[Any] = []
    saved: list[Path] = []
    pillow = [
        "Image",
        *(f"Image{part}" for part in ("Chops", "Color", "Draw", "Enhance", "Filter", "Font", "Ops", "Stat")),
    ]
    modules = {"PIL": "PIL", "np": "numpy", "numpy": "numpy", "math": "math", "cv2": "cv2"}
    modules |= {"plt": "matplotlib.pyplot", "matplotlib": "matplotlib"} | {name: f"PIL.{name}" for name in pillow}

    def decode(data: str | bytes) -> Any:
        picture = Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))
        picture.load()
        return normalise(picture)

    def normalise(picture: Any) -> Any:
        """Upright, and 8-bit L, RGB or RGBA."""
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            values = np.nan_to_num(np.asarray(picture, np.float64), posinf=0, neginf=0)
            low, high = values.min(), values.max()
            if picture.mode.startswith("I;16") or (picture.mode == "I" and low >= 0 and 255 < high <= 65535):
                values = values / 257
            elif picture.mode == "F" and low >= 0 and high <= 1:
                values = values * 255
            elif low < 0 or high > 255:
                values = (values - low) * (255 / (high - low))
            return Image.fromarray(np.rint(values).astype(np.uint8))
        if picture.mode in ("LA", "La", "PA", "RGBa") or "transparency" in picture.info:
            mode = "RGBA"
        else:
            mode = {"1": "L", "L": "L", "RGBA": "RGBA"}.get(picture.mode, "RGB")
        picture = picture.copy() if picture.mode == mode else picture.convert(mode)
        picture.info = {}
        return picture

    def as_picture(value: Any) -> Any:
        """A PIL image, or an array that is one; else None."""
        if isinstance(value, Image.Image):
            return value
        if not isinstance(value, np.ndarray) or value.dtype not in (np.uint8, np.bool_):
            return None
        if value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (3, 4)) or min(value.shape[:2]) < 8:
            return None
        return Image.fromarray(np.ascontiguousarray(value * 255 if value.dtype == np.bool_ else value).astype(np.uint8))

    def bind() -> None:
        shell.user_ns["images"] = list(held)
        shell.user_ns.update({pattern.format(i=index + first): picture for index, picture in enumerate(held)})

    def hold(picture: Any) -> str:
        name = pattern.format(i=len(held) + first)
        held.append(picture)
        if saved_files:
            save_file(picture, f"{name}.png")
        if len(held) in skipped:
            hold(decode(skipped.pop(len(held))))
        bind()
        return name

    def format_picture(value: Any, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        if items and all(as_picture(item) is not None for item in items):
            for item in items:
                display(item)
            return {}, {}
        picture = as_picture(value)
        if picture is None:
            data, metadata = format_anything(value, include=include, exclude=exclude)
            encoded = data.get("image/png") or data.get("image/jpeg")
            if encoded is None:
                return data, metadata
            picture = decode(encoded)
        if len(held) >= max_images:
            return {}, {}
        shown, file = normalise(picture), io.BytesIO()
        name = hold(shown)
        save_file(shown, file, "PNG", compress_level=1)
        return {"image/png": file.getvalue(), "text/plain": f"{name}: {shown.width}x{shown.height} px"}, {}

    def before_cell(info: Any) -> None:
        bind()
        saved.clear()
        for word in set(re.findall(r"[A-Za-z_]\w*", info.raw_cell or "")) & modules.keys():
            if word not in shell.user_ns:
                try:
                    shell.user_ns[word] = importlib.import_module(modules[word])
                except ImportError:
                    continue

    def after_cell(_: Any) -> None:
        for path in filter(Path.is_file, saved):
            display(Image.open(path))
        saved.clear()

    def save_and_show(picture: Any, fp: Any, format: str | None = None, **options: Any) -> None:
        save_file(picture, fp, format, **options)
        if isinstance(fp, (str, Path)):
            saved.append(Path(fp))

    if saved_files:
        Image.Image.save = save_and_show  # type: ignore
        shell.events.register("post_run_cell", after_cell)
    Image.Image.show = lambda picture, *_, **__: display(picture)  # type: ignore[method-assign]
    shell.display_formatter.format = format_picture
    shell.events.register("pre_run_cell", before_cell)
    for data in inputs:
        hold(decode(data))
    return list(held)
