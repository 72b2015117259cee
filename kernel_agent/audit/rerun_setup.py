"""How cells are run again: the options, the isolation that is asked for, and a session as the run had it.

Guarantees: what a record says of names, images, sizes and seeds is held within bounds before a kernel sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_agent.audit.compare_images import compare_input
from kernel_agent.audit.pictures import names_of
from kernel_agent.audit.verdicts import Comparison
from kernel_agent.environment import environment
from kernel_agent.errors import ImageError, InputError, TrajectoryError
from kernel_agent.session import Session
from kernel_agent.session.images import LoadedImage, ViewBounds, load_image
from kernel_agent.types import Budget, Isolation, Json, KernelOptions

if TYPE_CHECKING:
    from kernel_agent.session import KernelPool
    from kernel_agent.trajectory import Trajectory

_WHOLE = ViewBounds(min_pixels=1, max_pixels=2**40, max_side=2**31)  # nobody looks at the views: they cost nothing then
_MOST_IMAGES = 10_000
_MOST_CHARS = 10_000_000
_SPARE_BYTES, _PER_BYTE = 128 * 2**20, 8
"""Of pictures, that a replay may hold: so much, and so many times the record's own files (a lossless file of what it has as JPEG)."""


@dataclass(frozen=True, kw_only=True)
class RerunOptions:
    """How to run again.

    Attributes:
        tolerance: how far numbers in text may be apart, absolute or relative; 0 for not at all.
        pixel_tolerance: the largest difference of a colour channel (of 255) that is let through.
        kernel: of the audit's kernel; not used with a pool.
        unsafe: whether a kernel without isolation may be used.
        cell_seconds: longest deadline of one cell; it gets three times what it took and 10 s.
        seconds: longest time of all cells together.
        max_pixels: largest image, in pixels.
        image_bytes: how many bytes of pictures the code may show to this process, all together; a record with few of its own gets
            less (128 MiB, and 8 times its files).
        pictures: whether pictures of differences are made.
        code: whether the cells are run at all; else only the inputs are compared.
    """

    tolerance: float = 0.0
    pixel_tolerance: int = 0
    kernel: KernelOptions = KernelOptions()
    unsafe: bool = False
    cell_seconds: float = 600.0
    seconds: float = 3600.0
    max_pixels: int = 100_000_000
    image_bytes: int = 2**30
    pictures: bool = True
    code: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.tolerance < 1 and 0 <= self.pixel_tolerance <= 255):
            raise InputError(
                f"tolerance {self.tolerance}, pixel tolerance {self.pixel_tolerance}: give a number from 0 up to 1, and one from"
                " 0 to 255"
            )

    def told(self, kernel: KernelOptions) -> dict[str, Json]:
        """What was asked for, with this kernel, as a report has it."""
        names = (
            "code",
            "tolerance",
            "pixel_tolerance",
            "unsafe",
            "cell_seconds",
            "seconds",
            "max_pixels",
            "image_bytes",
        )
        asked = {"isolation": str(kernel.isolation), "memory_mb": kernel.memory_mb, "provisioner": kernel.provisioner}
        return {name: getattr(self, name) for name in names} | asked


def check_isolation(kernel: KernelOptions, *, unsafe: bool) -> None:
    """InputError for a kernel that keeps nothing in, unless that is what the auditor wants."""
    if unsafe:
        return
    if kernel.isolation is Isolation.NONE or kernel.provisioner != "codevision":
        raise InputError(
            "An audit runs code that nobody has vouched for, so it runs in isolation only. Take isolation auto, strong, medium"
            " or container; or, if the code is your own, say so with --unsafe-no-sandbox."
        )


def recorded_in(trajectory: Trajectory) -> dict[str, str]:
    """What a run says it was made with."""
    then = trajectory.header.get("environment")
    known: Mapping[str, Json] = then if isinstance(then, Mapping) else {}
    told = {name: str(known.get(name, "unknown"))[:200] for name in ("python", "platform")}
    return told | {"isolation": trajectory.isolation[:80]}


def environment_changes(header: Mapping[str, Json]) -> dict[str, tuple[str, str]]:
    """Versions that are not as recorded: name -> (recorded, here)."""
    then, now = header.get("environment"), environment()
    if not isinstance(then, Mapping):
        return {"environment": ("not recorded", str(now["python"]))}
    found = {
        name: (str(then.get(name)), str(now[name])) for name in ("python", "platform") if then.get(name) != now[name]
    }
    packages = then.get("packages")
    old: Mapping[str, Json] = packages if isinstance(packages, Mapping) else {}
    new: Mapping[str, str] = now["packages"]
    for name in sorted({*old, *new}, key=str):
        if old.get(name) != new.get(name):
            found[str(name)[:80]] = (str(old.get(name, "none"))[:80], new.get(name, "none"))
    return found


def inputs_of(trajectory: Trajectory, options: RerunOptions) -> tuple[list[Comparison], list[LoadedImage]]:
    """The images that no step made, decoded under limits and compared with their hashes."""
    made = {image.index for step in trajectory.steps for image in step.images}
    compared: list[Comparison] = []
    loaded: list[LoadedImage] = []
    for image in trajectory.images:
        if image.index in made:
            continue
        if image.index != len(loaded):
            raise TrajectoryError(
                f"the input images are not counted from 0: image {image.index} comes as number {len(loaded)}"
            )
        try:
            loaded.append(load_image(image.data, max_pixels=options.max_pixels))
        except ImageError as error:
            raise TrajectoryError(f"the input {image.name} cannot be opened: {error}") from error
        compared.append(compare_input(image, loaded[-1].pil))
    return compared, loaded


def session_for(
    trajectory: Trajectory, inputs: Sequence[LoadedImage], options: RerunOptions, pool: KernelPool | None
) -> Session:
    """A session as the run had it; what a file says is held within bounds."""
    header = trajectory.header
    recorded = header.get("budget")
    budget: Mapping[str, Json] = recorded if isinstance(recorded, Mapping) else {}
    made = sum(len(step.images) for step in trajectory.steps)
    held = sum(len(image.data) for step in trajectory.steps for image in step.images)
    usual = Budget()
    return Session(
        inputs,
        names=names_of(header),
        budget=Budget(
            images=min(max(_whole(budget.get("images"), usual.images), made), _MOST_IMAGES),
            output_chars=min(_whole(budget.get("output_chars"), usual.output_chars), _MOST_CHARS),
        ),
        bounds=_WHOLE,
        max_pixels=min(_whole(header.get("max_pixels"), options.max_pixels), options.max_pixels),
        kernel=options.kernel,
        seed=_whole(header.get("kernel_seed"), 0) % 2**32,
        pool=pool,
        image_bytes=min(options.image_bytes, _SPARE_BYTES + _PER_BYTE * held),
    )


def _whole(value: Json, usual: int) -> int:
    return value if isinstance(value, int) and value > 0 else usual
