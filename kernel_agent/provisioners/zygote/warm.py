"""What the warm parent holds before the first fork: the kernel's application and shell, and the picture libraries.

Guarantees: afterwards there is no ZMQ context and no event loop; OpenCV has no worker threads, and its number of threads is
put back in each kernel; pyplot's backend is not chosen yet. A library that is not installed is left out. That no
thread and no open file is left behind is checked by the server, not here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import re
import shutil
import sys
import tempfile
from typing import Any

from jupyter_client.session import Session

from kernel_agent.provisioners.zygote.warm_app import WarmApp

_LARGEST_GAP, _SMALLEST_GAP = 1 << 16, 24
"""Bytes: of the gaps in the heap that are filled."""
_MODULES = (
    "PIL.Image",
    "PIL.ImageChops",
    "PIL.ImageColor",
    "PIL.ImageDraw",
    "PIL.ImageEnhance",
    "PIL.ImageFilter",
    "PIL.ImageFont",
    "PIL.ImageOps",
    "PIL.ImageStat",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "IPython.core.pylabtools",
    "IPython.extensions.storemagic",
    "faulthandler",
    "tornado.platform.asyncio",
    "kernel_agent.session.images",
    "kernel_agent.session.kernel_side",
    "kernel_agent.session.lineage.arrays",
    "kernel_agent.session.lineage.imports",
    "kernel_agent.session.lineage.opencv",
    "kernel_agent.session.lineage.pillow",
    "kernel_agent.session.lineage.proof",
    "stack_data",
    "executing",
)


def warm_up() -> WarmApp:
    """Make the application, import and use the libraries, and return the application, ready to be forked."""
    folder = tempfile.mkdtemp(prefix="cv-")
    os.environ["IPYTHONDIR"] = folder  # a kernel gets its own; nobody's settings are read here
    try:
        app = WarmApp.prepare()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for use in (_numpy, _opencv, _pillow, _pyplot):
        with contextlib.suppress(ImportError):
            use(app)
    app.kernel.shell.run_cell("1 + 1", silent=True)
    session: Any = Session(parent=app)  # with a key of its own, and thrown away: a kernel makes its own
    session.serialize(session.msg("status"))
    with contextlib.suppress(Exception):
        _traceback(app.kernel.shell)
    return app


_filling: list[bytes] = []


def fill_gaps() -> None:
    """Take every free slot between the parent's objects, for good.

    A kernel then puts its own objects into memory of its own, and copies 1.6 MB less of the parent's pages by writing
    between them. Does nothing where the allocators, Python's and glibc's, do not tell their free slots.
    """
    with contextlib.suppress(AttributeError):
        _fill_pools()
    with contextlib.suppress(AttributeError):
        _fill_heap()


def _fill_pools() -> None:
    """Python's allocator, for objects of up to 512 bytes."""
    with tempfile.TemporaryFile() as said:
        errors = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(errors, 2)
            os.close(errors)
        said.seek(0)
        # class, size, pools, blocks in use, free blocks
        rows = re.findall(rb"^ *\d+ +(\d+) +\d+ +\d+ +(\d+) *$", said.read(), re.MULTILINE)
    overhead = sys.getsizeof(b"")
    for size, free in rows:
        if int(size) > overhead:
            _filling.extend(bytes(int(size) - overhead) for _ in range(int(free)))


class _Heap(ctypes.Structure):
    """What `mallinfo2` of glibc says, in bytes: malloc.h."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("unused", ctypes.c_size_t * 7),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def _fill_heap() -> None:
    """The C library's, for everything else: blocks from large to small, as long as they come from what is free inside."""
    libc: Any = ctypes.CDLL(None)
    libc.mallinfo2.restype, libc.malloc.restype, libc.malloc.argtypes = _Heap, ctypes.c_void_p, [ctypes.c_size_t]
    libc.malloc_trim(0)
    size = _LARGEST_GAP
    while size >= _SMALLEST_GAP:
        before = libc.mallinfo2()
        if before.fordblks - before.keepcost >= size:  # less the end of the heap, which is no gap
            libc.malloc(size)
            after = libc.mallinfo2()
            if after.arena == before.arena and after.keepcost == before.keepcost:
                continue
        size = size * 3 // 4


def _numpy(app: WarmApp) -> None:
    import numpy as np

    np.random.default_rng(0).integers(0, 255, (8, 8))
    np.random.get_state()
    np.ones((8, 8)) @ np.ones((8, 8))


def _opencv(app: WarmApp) -> None:
    import cv2
    import numpy as np

    app.opencv_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a pool of threads does not survive a fork: a kernel would wait for it for ever
    picture = cv2.resize(np.zeros((16, 16, 3), np.uint8), (8, 8))
    cv2.imdecode(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))[1], cv2.IMREAD_COLOR)


def _pillow(app: WarmApp) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (16, 16)).rotate(30).resize((8, 8))
    ImageDraw.Draw(image).text((0, 0), "x")
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        Image.open(io.BytesIO(buffer.getvalue())).load()


def _pyplot(app: WarmApp) -> None:
    # Nothing that picks pyplot's backend (importing matplotlib_inline does): the kernel's first figure does, and connects
    # it with the shell. And no text: fonts are read as they are used, through a file that stays open.
    import matplotlib.pyplot  # noqa: F401
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1])
    axes.set_axis_off()
    canvas.print_png(io.BytesIO())
    font_manager.findfont("DejaVu Sans")


def _traceback(shell: Any) -> None:
    """Format one, which loads pygments and the like."""
    try:
        exec(compile("1 / 0", "<cell>", "exec"))
    except ZeroDivisionError:
        shell.InteractiveTB.structured_traceback(*sys.exc_info())
