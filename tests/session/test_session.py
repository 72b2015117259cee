from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from kernel_agent import Budget, KernelOptions, Session, Status
from kernel_agent.errors import ImageError, KernelError
from kernel_agent.types import CellResult, ErrorOutput, ImageOutput, Isolation, Names, StreamOutput, TextOutput


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """One kernel for the tests that leave it whole."""
    red = Image.new("RGB", (60, 40), "red")
    with Session([red], budget=Budget(cell_seconds=60, images=200, output_chars=2000)) as shared:
        yield shared


def text(cell: CellResult) -> str:
    return "".join(output.text for output in cell.outputs if isinstance(output, (StreamOutput, TextOutput)))


def shown(cell: CellResult) -> list[tuple[int, int]]:
    indices = [output.index for output in cell.outputs if isinstance(output, ImageOutput)]
    assert indices == [image.index for image in cell.images]
    return [image.size for image in cell.images]


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_state_stays_between_cells(session: Session) -> None:
    assert session.run("kept = 41").status is Status.OK
    assert text(session.run("kept + 1")) == "42"


@pytest.mark.parametrize(
    ("code", "sizes"),
    [
        ("image_0.crop((0, 0, 20, 10))", [(20, 10)]),
        ("display(image_0); display(image_0.rotate(90, expand=True))", [(60, 40), (40, 60)]),
        ("result = image_0.resize((30, 20))", [(30, 20)]),
        ("output = image_0.resize((31, 20))\nprint('done')", [(31, 20)]),
        ("result = image_0.resize((32, 20))\ndisplay(result)", [(32, 20)]),
        ("[image_0, image_0.resize((10, 10))]", [(60, 40), (10, 10)]),
        ("np.asarray(image_0)[::2, ::2]", [(30, 20)]),
        ("np.asarray(image_0)[..., 0] > 3", [(60, 40)]),
        ("image_0.resize((12, 12)).show()", [(12, 12)]),
        ("image_0.convert('CMYK')", [(60, 40)]),
        ("image_0.convert('L').convert('I')", [(60, 40)]),
        ("cv2.resize(np.asarray(image_0), (24, 16))", [(24, 16)]),
        (
            "def crop(box):\n    return image_0.crop(box)\nresult = [crop((0, 0, n, n)) for n in sorted([9, 12])][1]",
            [(12, 12)],
        ),
        ("1 + 1", []),
        ("result = 5", []),
    ],
)
def test_whatever_a_cell_shows_is_an_observation(session: Session, code: str, sizes: list[tuple[int, int]]) -> None:
    cell = session.run(code)
    assert cell.status is Status.OK, cell.outputs
    assert shown(cell) == sizes


def test_every_figure_of_a_loop_is_shown(session: Session) -> None:
    cell = session.run("for n in range(3):\n    plt.figure(figsize=(2 + n, 2))\n    plt.plot([0, n])\n    plt.show()")
    assert len(cell.images) == 3
    assert len({image.size for image in cell.images}) == 3


def test_names_are_variables_and_indices(session: Session) -> None:
    cell = session.run("image_0.crop((0, 0, 7, 9))")
    image = cell.images[0]
    assert image.name == f"image_{image.index}"
    assert text(session.run(f"({image.name}.size, images[{image.index}].size)")) == "((7, 9), (7, 9))"


def test_deleted_and_overwritten_names_come_back(session: Session) -> None:
    session.run("del images; image_0 = 'gone'")
    assert text(session.run("(image_0.size, images[0].size)")) == "((60, 40), (60, 40))"


def test_chosen_image_is_bound_as_a_copy(session: Session) -> None:
    cell = session.run("draw.rectangle((0, 0, 60, 40), fill='blue')\nresult = img", image_index=0)
    assert cell.images[0].to_pil().getpixel((5, 5)) == (0, 0, 255)
    assert text(session.run("image_0.getpixel((5, 5))")) == "(255, 0, 0)"


def test_error_gives_the_whole_traceback_without_codes(session: Session) -> None:
    cell = session.run("def inner():\n    return 1 / 0\n\ninner()")
    assert cell.status is Status.ERROR
    (error,) = [output for output in cell.outputs if isinstance(output, ErrorOutput)]
    whole = "\n".join(error.traceback)
    assert error.ename == "ZeroDivisionError"
    assert "inner()" in whole
    assert "return 1 / 0" in whole
    assert "\x1b" not in whole


def test_tracebacks_show_the_users_line_and_not_our_wrappers(session: Session) -> None:
    cell = session.run("a = np.asarray(image_0)\ncv2.resize(a, (0, 0))")
    (error,) = [output for output in cell.outputs if isinstance(output, ErrorOutput)]
    whole = "\n".join(error.traceback)
    assert "----> 2 cv2.resize(a, (0, 0))" in whole
    assert "kernel_agent" not in whole


def test_syntax_error_is_an_observation(session: Session) -> None:
    cell = session.run("def broken(:\n  pass")
    assert cell.status is Status.ERROR
    assert any(isinstance(output, ErrorOutput) and output.ename == "SyntaxError" for output in cell.outputs)


def test_impossible_pictures_name_their_size(session: Session) -> None:
    cell = session.run("image_0.crop((5, 5, 5, 9))")
    assert cell.status is Status.ERROR
    assert "0x4" in str(cell.outputs)


def test_long_output_keeps_head_and_tail(session: Session) -> None:
    cell = session.run("print('first'); print('x' * 10**8); print('last')")
    (stream,) = cell.outputs
    assert isinstance(stream, StreamOutput)
    assert stream.text.startswith("first")
    assert stream.text.endswith("last\n")
    assert len(stream.text) < 2200
    assert stream.dropped == 10**8 + len("first\n\nlast\n") - 2000
    assert [event.kind for event in cell.events] == ["output_cut"]


def test_cells_that_run_cells_are_one_cell(session: Session) -> None:
    cell = session.run("get_ipython().run_cell('display(image_0.rotate(5)); 5'); print('x' * 10**6)")
    assert len(cell.images) == 1
    assert len(text(cell)) < 2200


def test_many_small_writes_are_capped(session: Session) -> None:
    cell = session.run("for n in range(200_000): print(n)")
    assert cell.status is Status.OK
    assert "199999" in text(cell)
    assert len(text(cell)) < 2200


def test_terminal_codes_and_surrogates_are_cleaned(session: Session) -> None:
    cell = session.run(r"print('\x1b[31mred\x1b[0m \x07 \ud800 end')")
    assert text(cell) == "red \ufffd ? end\n"


def test_progress_bars_leave_their_last_state(session: Session) -> None:
    assert text(session.run(r"print('10%\r50%\r100%')")) == "100%\n"


def test_child_processes_do_not_speak_into_later_cells(session: Session) -> None:
    session.run("import os; os.system('echo intruder')")
    assert text(session.run("print('mine')")) == "mine\n"


def test_output_between_cells_does_not_shift_results(session: Session) -> None:
    cell = session.run(
        "import threading, time\n"
        "thread = threading.Thread(target=lambda: (time.sleep(0.2), print('intruder')))\nthread.start()\n"
        "print(thread.native_id)"
    )
    assert session._channel is not None
    kernel = session._channel.pid
    wait_for(lambda: text(cell).split()[0] not in _threads(kernel))
    assert text(session.run("print('mine')")) == "mine\n"


def test_a_fork_that_returns_does_not_answer_twice(session: Session) -> None:
    cell = session.run("import os\npid = os.fork()\nprint('forked' if pid else 'child')\nif not pid: os._exit(0)")
    assert cell.status is Status.OK
    assert text(session.run("2 + 2")) == "4"


def test_input_is_refused_at_once(session: Session) -> None:
    cell = session.run("input('name?')")
    assert cell.status is Status.ERROR


def test_secrets_of_the_environment_stay_outside(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEVISION_API_KEY", "sk-secret")
    with Session() as fresh:
        assert "CODEVISION_API_KEY" not in text(fresh.run("import os; print(sorted(os.environ))"))
        assert "sk-secret" not in text(fresh.run("print(dict(os.environ))"))


def test_too_many_images_are_refused_and_said(picture: Image.Image) -> None:
    with Session([picture], budget=Budget(images=2)) as small:
        cell = small.run("for n in range(5): display(image_0)")
        assert len(cell.images) == 2
        assert [(event.kind, event.data["count"]) for event in cell.events] == [("images_refused", 3)]


def test_hanging_cell_is_interrupted_and_state_kept(picture: Image.Image) -> None:
    with Session([picture]) as fresh:
        fresh.run("x = 1")
        cell = fresh.run("import time\nprint('before')\ntime.sleep(1e6)", seconds=2)
        assert cell.status is Status.TIMEOUT
        assert text(cell) == "before\n"
        assert [event.kind for event in cell.events if event.kind != "interrupted_again"] == ["interrupted"]
        assert text(fresh.run("x")) == "1"


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)",
        "display(image_0.rotate(180))\nimport time\nwhile True:\n    try:\n        time.sleep(9)\n    except BaseException:\n        pass",
    ],
    ids=["exit", "sigkill", "segfault", "ignores-interrupt"],
)
def test_dead_kernel_comes_back_with_its_state(picture: Image.Image, code: str) -> None:
    with Session([picture]) as fresh:
        fresh.run("x = 7\nresult = image_0.crop((0, 0, 30, 20))")
        fresh.run("y = x + 1\nraise ValueError(y)")
        before = list(fresh.images)
        cell = fresh.run(code, seconds=3)
        assert cell.status is Status.KILLED
        assert [event.kind for event in cell.events][-2:] == ["kernel_restarted", "cells_replayed"]
        assert "replay_differs" not in [event.kind for event in cell.events]
        assert fresh.images[: len(before)] == before
        sizes = [image.size for image in fresh.images]
        assert text(fresh.run("(x, y, [im.size for im in images])")) == str((7, 8, sizes))
        assert fresh.run("image_0.rotate(90)").images[0].index == len(sizes)


def test_two_calls_in_flight_never_mix(picture: Image.Image) -> None:
    async def both() -> list[str]:
        async with Session([picture]) as a, Session([picture]) as b:
            cells = await asyncio.gather(*(s.arun(f"print({i})") for i in range(6) for s in (a, b)))
        return [text(cell) for cell in cells]

    assert asyncio.run(both()) == [f"{i}\n" for i in range(6) for _ in range(2)]


def test_cancel_interrupts_the_cell_and_keeps_it(picture: Image.Image) -> None:
    async def cancelled() -> tuple[CellResult, str]:
        async with Session([picture]) as fresh:
            running = asyncio.create_task(fresh.arun("import time; time.sleep(1e6)"))
            await asyncio.sleep(0.5)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            return fresh.cells[-1], text(await fresh.arun("print('alive')"))

    cell, after = asyncio.run(cancelled())
    assert cell.status is Status.TIMEOUT
    assert cell.events[0].data["why"] == "cancelled"
    assert after == "alive\n"


def test_resume_brings_back_variables_and_images(picture: Image.Image) -> None:
    with Session([picture]) as first:
        first.run("x = 3\nresult = image_0.rotate(90, expand=True)")
        first.run("import time; display(image_1); time.sleep(1e6)", seconds=3)
        images, cells = list(first.images), list(first.cells)

    async def second() -> tuple[str, list[str]]:
        session = Session()
        session.resume_from(images, cells)
        async with session:
            cell = await session.arun("print(x, [im.size for im in images])")
            return text(cell), [event.kind for event in session.take_events()]

    assert asyncio.run(second()) == ("3 [(60, 40), (40, 60), (40, 60)]\n", ["cells_replayed"])


def test_no_process_and_no_folder_is_left(picture: Image.Image) -> None:
    fresh = Session([picture])
    with fresh:
        fresh.run("import subprocess; child = subprocess.Popen(['sleep', '300'])")
        assert fresh._channel is not None
        folder, kernel = Path(fresh._channel.connection["ip"]).parent, fresh._channel.pid
        assert kernel is not None
        tasks = Path(f"/proc/{kernel}/task").iterdir()
        (pid,) = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        assert folder.stat().st_mode & 0o007 == 0
    assert not folder.exists()
    for process in (pid, kernel):
        wait_for(lambda process=process: _gone(process))


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _threads(pid: int | None) -> set[str]:
    """Ids of a process's threads as they are known in its own namespace."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.add(status.read_text().partition("\nNSpid:")[2].splitlines()[0].split()[-1])
    return found


def test_bad_image_raises_before_any_kernel(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing"):
        Session([tmp_path / "missing.png"])


def test_unknown_provisioner_is_a_clear_error(picture: Image.Image) -> None:
    with (
        pytest.raises(KernelError, match="could not be started"),
        Session([picture], kernel=KernelOptions(provisioner="no-such-one")),
    ):
        pass


def test_names_of_other_styles(picture: Image.Image) -> None:
    with Session([picture], names=Names(pattern="image_clue_{i}")) as session:
        cell = session.run("image_clue_0.resize((9, 9))")
        assert cell.images[0].name == "image_clue_1"
        assert text(session.run("image_clue_1.size")) == "(9, 9)"
    with Session([picture, picture], names=Names(first=1)) as session:
        assert text(session.run("('image_0' in dir(), image_2.size)")) == "(False, (60, 40))"


def test_styles_that_pass_files(picture: Image.Image) -> None:
    with Session([picture], names=Names(saved_files=True)) as session:
        cell = session.run(
            "im = Image.open('image_0.png')\nim.crop((0, 0, 30, 20)).save('part.png')\nprint('part.png')"
        )
        assert [image.size for image in cell.images] == [(30, 20)]
        assert text(session.run("Image.open('image_1.png').size")) == "(30, 20)"


@pytest.mark.parametrize("fork", [True, False])
@pytest.mark.parametrize("level", ["strong", "medium"])
def test_a_cell_writes_files_in_its_working_folder(level: str, fork: bool) -> None:
    with Session(kernel=KernelOptions(isolation=Isolation(level), fork=fork)) as session:
        assert text(session.run("with open('note.txt', 'w') as file:\n    print(file.write('abc'))")) == "3\n"
        assert text(session.run("print(open('note.txt').read())")) == "abc\n"
