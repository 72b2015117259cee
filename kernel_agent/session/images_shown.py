"""Images out of cells: what a cell shows gets its name, its place in the limits, and files that are made when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel_agent.errors import ImageError
from kernel_agent.session.images import ViewBounds, decode_output
from kernel_agent.session.pixels import Exact, Files, Pixels, Room
from kernel_agent.types import Affine, ImageEncoding, KernelImage, Names


@dataclass(kw_only=True)
class ShownImages:
    """Makes the images that a session's cells show.

    Attributes:
        limit: most images of the session, inputs among them.
        image_bytes: how many bytes they may hold together; None for no limit.
        exact: pixels of the running cell's images that are stored with loss.
        room: for pixels that wait to be made into files.
    """

    names: Names
    encoding: ImageEncoding
    bounds: ViewBounds
    max_pixels: int
    image_bytes: int | None = None
    limit: int = 0
    exact: Exact = field(default_factory=Exact, init=False)
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        self.room = Room(most=self.image_bytes)

    def take(
        self, origin: str, source: Pixels | bytes, index: int, parent: int | None, affine: Affine | None
    ) -> KernelImage:
        """An image from its pixels; from a file only by its pixels, so that nothing else in it is kept. ImageError."""
        if index >= self.limit:  # the kernel counts too, unless the code changed that
            raise ImageError(f"image {index} is over the limit of {self.limit} images")
        self.room.check()
        if isinstance(source, bytes):
            source = Pixels.of(decode_output(source, max_pixels=self.max_pixels))
        width, height = source.size
        if width * height > self.max_pixels:
            raise ImageError(f"an image of {width * height:,} pixels; the limit is {self.max_pixels:,}")
        files = Files(source, self.encoding, self.bounds)
        if not files.lossless:
            self.exact.keep(index, source)
        image = KernelImage.later(
            files,
            index=index,
            name=self.names(index),
            mime=files.mime,
            size=source.size,
            pixel_sha256=source.sha256(),
            view_mime=files.view_mime,
            view_size=files.view_size,
            parent=parent,
            affine=affine,
            origin=origin,
            lossless=files.lossless,
        )
        self.room.keep(image, files, source)
        return image
