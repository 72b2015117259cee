"""Files outside the sandbox, and the folder that host and kernel share."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from PIL import Image

from perf.attacks.case import EVERYWHERE, SANDBOXED, Result, case
from perf.attacks.scene import Scene, recovers, said
from perf.attacks.world import World

READ = """
import os, ctypes
ways = [path, "/proc/1/root" + path, "/proc/self/root" + path, "/proc/self/cwd/" + "../" * 30 + path]
for way in ways:
    try:
        with open(way) as file: print(file.read())
    except Exception as error: print(type(error).__name__)
try:
    folder = os.open(os.path.dirname(path), os.O_PATH)
    print(os.read(os.open(os.path.basename(path), os.O_RDONLY, dir_fd=folder), 99))
except Exception as error: print(type(error).__name__)
"""

WRITE = """
import os
for way in (path, "/proc/1/root" + path):
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        try: os.write(os.open(way, flags, 0o666), b"# changed\\n")
        except OSError as error: print(error.strerror)
    try:
        os.makedirs(os.path.dirname(way), exist_ok=True)
        with open(way + ".new", "w") as file: file.write("x")
        os.replace(way + ".new", way)
    except OSError as error: print(error.strerror)
"""

CHANGE = """
import os
for change in (
    lambda: os.chmod(path, 0o4777), lambda: os.setxattr(path, "user.canary", b"x"), lambda: os.utime(path, (1, 1)),
    lambda: os.truncate(path, 0), lambda: os.unlink(path), lambda: os.rename(path, path + ".moved"),
    lambda: os.link(path, path + ".linked"), lambda: os.symlink("/", path + ".symlink"), lambda: os.mkdir(path + ".made"),
):
    try: change()
    except OSError as error: print(error.strerror)
"""

METADATA = """
import os
for change in (
    lambda: os.chmod(path, 0o4777), lambda: os.setxattr(path, "user.canary", b"x"), lambda: os.utime(path, (1, 1)),
    lambda: os.chown(path, -1, os.getgid()), lambda: os.removexattr(path, "user.mine"),
):
    try: change()
    except OSError as error: print(error.strerror)
"""

PLANT = """
import os
work = os.getcwd(); shared = os.path.dirname(work)
for folder in (work, shared):
    try: names = os.listdir(folder)
    except OSError: names = []
    for name in {*names, "kernel.json", "kernel.log", "image_0.png", *(f"input-{n}.raw" for n in range(4)), "ipython"}:
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path): continue
        if how == "fifo" and name.startswith("k") and "-" in name: continue
        try: os.rename(path, path + ".old")
        except OSError: pass
        try:
            if how == "symlink": os.symlink(target, path)
            elif how == "hardlink": os.link(target, path)
            else: os.mkfifo(path)
        except OSError as error: print(name, error.strerror)
os._exit(0)
"""


def read(scene: Scene, path: Path) -> str:
    return scene.leak(READ, path.read_text(), path=str(path))


@case("~/.ssh", Result.BLOCKED, SANDBOXED)
def ssh_key(scene: Scene) -> str:
    """A private key in a home's .ssh is not read."""
    return read(scene, scene.world.ssh_key)


@case("home", Result.BLOCKED, SANDBOXED)
def home(scene: Scene) -> str:
    """A file in the home of the user who runs the host is not read."""
    return read(scene, scene.world.home_file)


@case("/etc/shadow", Result.BLOCKED, SANDBOXED, control=os.geteuid() == 0)
def shadow(scene: Scene) -> str:
    """The machine's password hashes are not read."""
    code = """
import hashlib
for path in ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/proc/1/root/etc/shadow"):
    try: data = open(path, "rb").read()
    except OSError as error: print(error.strerror); continue
    print("READ", hashlib.sha256(data).hexdigest(), data[:5] == b"root:")
"""
    text = said(scene.run(code))
    known = [Path(path) for path in ("/etc/shadow", "/etc/shadow-", "/etc/gshadow") if os.access(path, os.R_OK)]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in known]
    if any(word in text for word in hashes) or (not known and "READ" in text):
        return "a file of password hashes was read"
    return ""


@case(".env in project", Result.BLOCKED, SANDBOXED)
def project_env(scene: Scene) -> str:
    """Settings in the folder the host works in are not read."""
    return read(scene, scene.world.project_env)


@case(".env beside the package", Result.BLOCKED, SANDBOXED, control=False)
def package_env(scene: Scene) -> str:
    """A file beside this package's own source is not read, though the kernel imports from there."""
    return read(scene, scene.world.package_env) if scene.world.package_env else ""


@case("write home", Result.BLOCKED, SANDBOXED)
def write_home(scene: Scene) -> str:
    """Files in a home, old or new, are not written."""
    problems = [_write(scene, path) for path in (scene.world.home_file, scene.world.home_file.with_name(".bashrc"))]
    return next(filter(None, problems), "")


def _write(scene: Scene, path: Path) -> str:
    def named() -> set[Path]:  # the folder may be everybody's, and others write there too
        return {entry for entry in path.parent.iterdir() if entry.name.startswith(path.name)}

    before = path.read_bytes() if path.exists() else None
    found = named()
    scene.run(WRITE, path=str(path))
    after = path.read_bytes() if path.exists() else None
    appeared = named() - found
    for entry in appeared:
        entry.unlink()
    if before is not None and after != before:
        path.write_bytes(before)
    return f"{path.name} was written" if after != before or appeared else ""


@case("write venv .pth", Result.BLOCKED, SANDBOXED, control=False)
def write_pth(scene: Scene) -> str:
    """No .pth file, which runs in every later Python, is put into the environment."""
    return _write(scene, scene.world.pth)


@case("write /usr", Result.BLOCKED, SANDBOXED, control=False)
def write_usr(scene: Scene) -> str:
    """No program is put where users find programs."""
    return _write(scene, scene.world.program)


@case("chmod/setxattr outside", Result.BLOCKED, SANDBOXED)
def metadata(scene: Scene) -> str:
    """Mode, times and extended attributes of a file outside are not changed, though the kernel's user owns it."""
    return _changed(scene, METADATA)


@case("unlink/rename outside", Result.BLOCKED, SANDBOXED)
def names(scene: Scene) -> str:
    """A file outside is not removed, renamed, linked or emptied, though the kernel's user owns it and its folder."""
    return _changed(scene, CHANGE)


def _changed(scene: Scene, code: str) -> str:
    path = scene.world.file(scene.world.folder / "owned" / "canary")
    if os.geteuid() == 0:
        uid = scene.kernel_uid()
        os.chown(path, uid, uid)
        os.chown(path.parent, uid, uid)

    def state() -> object:
        if not path.exists():
            return None
        about = path.stat()
        names = sorted(entry.name for entry in path.parent.iterdir())
        return (stat.S_IMODE(about.st_mode), about.st_mtime, about.st_size, os.listxattr(path), names)

    before = state()
    scene.run(code, path=str(path))
    problem = "" if state() == before else "it was changed"
    for entry in path.parent.iterdir():
        entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return problem


def _plant(scene: Scene, how: str) -> str:
    """Links or pipes under every name the host may write, then a kernel that dies, so that it writes them."""
    world: World = scene.world
    target = world.file(world.folder / "target")
    before = target.read_bytes()
    with scene.fresh((Image.new("RGB", (32, 16), "red"),)) as session:
        scene.run(PLANT, session=session, how=how, target=str(target))
        problem = recovers(session)
        if not problem and said(session.run("image_0.size")) != "(32, 16)":
            problem = "the images did not come back"
    if target.read_bytes() != before:
        return "the host wrote through it into a file outside"
    return problem


@case("symlink in shared folder", Result.CONTAINED, SANDBOXED, control=False)
def symlinks(scene: Scene) -> str:
    """Symbolic links under the names that the host writes lead it nowhere, and the session recovers."""
    return _plant(scene, "symlink")


@case("hardlink in shared folder", Result.CONTAINED, SANDBOXED, control=False)
def hardlinks(scene: Scene) -> str:
    """The same with hard links."""
    return _plant(scene, "hardlink")


@case("FIFO in shared folder", Result.CONTAINED, SANDBOXED, control=False)
def fifos(scene: Scene) -> str:
    """The same with pipes, which make a writer wait for ever."""
    return _plant(scene, "fifo")


@case("symlink as saved image", Result.CONTAINED, SANDBOXED, control=False)
def saved_link(scene: Scene) -> str:
    """A saved "picture" that is a link to a file outside is not handed over as an image."""
    from kernel_agent.types import Names

    picture = scene.world.folder / "private.png"
    Image.new("RGB", (37, 23), "blue").save(picture)
    picture.chmod(0o666)
    code = """
import os
from PIL import Image
Image.new("RGB", (9, 9)).save("out.png")
os.unlink("out.png")
try: os.symlink(path, "out.png")
except OSError as error: print(error.strerror)
"""
    with scene.fresh(names=Names(saved_files=True)) as session:
        cell = scene.run(code, session=session, path=str(picture))
        if any(image.size == (37, 23) for image in cell.images):
            return "a picture from outside was handed over"
        return recovers(session)


@case("replace connection file", Result.CONTAINED, EVERYWHERE)
def connection_file(scene: Scene) -> str:
    """Other keys and addresses in the connection file lead the host nowhere: later cells are right, before and after a restart."""
    code = """
import json, os
path = os.path.join(os.path.dirname(os.getcwd()), "kernel.json")
try:
    with open(path) as file: old = json.load(file)
except (OSError, ValueError): old = {"transport": "tcp"}
old.update(key="0" * 32, transport="tcp", ip="127.0.0.1", shell_port=port, iopub_port=port, control_port=port)
for make in (lambda: open(path, "w"), lambda: open(path + "~", "w")):
    try:
        with make() as file: json.dump(old, file)
        if file.name.endswith("~"): os.replace(path + "~", path)
    except OSError as error: print(error.strerror)
"""
    with scene.fresh() as session:
        scene.run(code, session=session, port=scene.world.ears.port("tcp"))
        problem = recovers(session)
        session.run("import os; os._exit(0)")
        problem = problem or recovers(session)
    return problem or ("the host went to a false address" if scene.world.ears.heard() else "")
