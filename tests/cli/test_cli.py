"""The `codevision` command as a user types it: a real process, a real kernel, a real HTTP server that plays a script."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kernel_agent import StopReason, Trajectory
from kernel_agent.errors import TrajectoryError
from tests.model_server import call
from tests.stock_kernels import options

CODEVISION = str(Path(sys.executable).with_name("codevision"))
SECRET = "sk-very-secret-key"


TURN, ANSWER = call("result = image.rotate(90, expand=True)"), "<answer>AB12</answer>"


def codevision(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CODEVISION_API_KEY": SECRET, "COLUMNS": "120", **environment}
    command = [CODEVISION, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_ask_prints_one_json_object_and_saves_the_notebook(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    done = codevision(
        "ask", "What?", picture_file, "-o", "run.ipynb", "--json", "--base-url", serve(TURN, ANSWER), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert {"answer", "notebook", "steps", "stop_reason", "isolation", "seconds"} <= summary.keys()
    assert (summary["answer"], summary["steps"], summary["stop_reason"]) == ("AB12", 2, "answer")
    trajectory = Trajectory.load(tmp_path / summary["notebook"])
    assert trajectory.answer == "AB12"
    assert not (tmp_path / "run.codevision").exists()
    assert SECRET not in (tmp_path / "run.ipynb").read_text()


def test_progress_goes_to_stderr_and_the_answer_to_stdout(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    done = codevision("ask", "What?", picture_file, "--base-url", serve(TURN, ANSWER), cwd=tmp_path)
    assert done.stdout == "AB12\n"
    assert "image.rotate(90" in done.stderr
    assert "image_1: 40x60 px" in done.stderr
    assert len(list(tmp_path.glob("codevision-*.ipynb"))) == 1


def test_continue_goes_on_in_the_same_notebook(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    url = serve(TURN, ANSWER, call("result = image_1.rotate(180)", 1), "<answer>CD</answer>")
    assert codevision("ask", "What?", picture_file, "-o", "run.ipynb", "--base-url", url, cwd=tmp_path).returncode == 0
    done = codevision("ask", "--continue", "run.ipynb", "and the date?", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "CD\n"), done.stderr
    trajectory = Trajectory.load(tmp_path / "run.ipynb")
    assert [turn.answer for turn in trajectory.turns] == ["AB12", "CD"]
    assert len(trajectory.images) == 3


def test_no_answer_is_exit_code_3(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    done = codevision("ask", "What?", picture_file, "--json", "--base-url", serve("talk"), cwd=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["stop_reason"] == "malformed"


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, ["401", "key"]), (404, ["404", "model"])],
)
def test_refusals_name_the_remedy_and_never_the_key(
    serve: Any, picture_file: Path, tmp_path: Path, status: int, words: list[str]
) -> None:
    done = codevision("ask", "What?", picture_file, "--base-url", serve(status), cwd=tmp_path)
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


def test_failure_in_the_middle_keeps_the_work(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    done = codevision(
        "ask", "What?", picture_file, "-o", "run.ipynb", "--json", "--base-url", serve(TURN, 401), cwd=tmp_path
    )
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["stop_reason"], summary["error"]["type"]) == (1, "model_error", "ModelRefused")
    assert len(Trajectory.load(tmp_path / "run.ipynb").steps) == 1


def test_runs_are_signed_where_there_is_a_key_also_those_that_fail(
    serve: Any, picture_file: Path, tmp_path: Path
) -> None:
    conf = {"XDG_CONFIG_HOME": str(tmp_path / "conf")}

    def ask(name: str, *more: str | int) -> tuple[int, bool]:
        given = ("ask", "What?", picture_file, "-o", name, "--base-url", serve(TURN, more[0]), *map(str, more[1:]))
        done = codevision(*given, cwd=tmp_path, **conf)
        ours = json.loads((tmp_path / name).read_text())["metadata"]["codevision"] if (tmp_path / name).exists() else {}
        return done.returncode, "seal" in ours

    assert ask("a.ipynb", ANSWER) == (0, False)
    assert ask("b.ipynb", ANSWER, "--sign") == (1, False)  # there is no key: told before anything is asked
    assert not (tmp_path / "b.ipynb").exists()
    assert codevision("sign", "a.ipynb", cwd=tmp_path, **conf).returncode == 0
    assert ask("c.ipynb", ANSWER) == (0, True)
    assert ask("d.ipynb", 401) == (1, True)
    assert ask("e.ipynb", ANSWER, "--no-sign") == (0, False)
    for name in ("a.ipynb", "c.ipynb", "d.ipynb"):
        assert codevision("audit", name, cwd=tmp_path, **conf).returncode == 0
    for command in (("audit", "a.ipynb"), ("diff", "a.ipynb", "c.ipynb")):
        done = codevision(*command, "--html", "none/report.html", cwd=tmp_path, **conf)
        assert (done.returncode, done.stdout, "there is no folder none" in done.stderr) == (2, "", True)
    for again, told in (
        ((TURN, ANSWER), "it writes all as recorded"),
        ((TURN, 401), "not all as recorded: findings: 1"),
    ):
        asked = ("--no-code", "--replay-model", "--base-url", serve(*again), "--html", "report.html")
        done = codevision("audit", "c.ipynb", *asked, cwd=tmp_path, **conf)
        assert f"Asked again: {told}" in done.stdout, done.stdout
        assert told in (tmp_path / "report.html").read_text()


def test_a_key_that_cannot_be_used_and_a_broken_seal_are_told_and_stop_nothing(
    serve: Any, picture_file: Path, tmp_path: Path
) -> None:
    def ask(name: str, *more: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        given = ("-o", name, "--force", "--quiet", "--base-url", serve(ANSWER))
        return codevision("ask", *more, *given, cwd=tmp_path, **{"XDG_CONFIG_HOME": str(tmp_path / "conf"), **env})

    def sealed(name: str) -> bool:
        return "seal" in json.loads((tmp_path / name).read_text())["metadata"]["codevision"]

    done = ask("a.ipynb", "What?", picture_file, CODEVISION_SIGNING_KEY=str(tmp_path))
    assert (done.returncode, done.stdout, sealed("a.ipynb")) == (0, "AB12\n", False)
    assert done.stderr.startswith(f"nothing is signed: {tmp_path} cannot be read: it is no regular file")
    done = ask("b.ipynb", "What?", picture_file, "--sign", CODEVISION_SIGNING_KEY=str(tmp_path))
    assert (done.returncode, (tmp_path / "b.ipynb").exists()) == (1, False)
    assert codevision("sign", "a.ipynb", cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path / "conf")).returncode == 0
    run = json.loads((tmp_path / "a.ipynb").read_text())
    run["metadata"]["codevision"]["header"]["kernel_seed"] += 1
    (tmp_path / "a.ipynb").write_text(json.dumps(run))
    for name, source in (("c.ipynb", "a.ipynb"), ("d.ipynb", "c.ipynb")):
        done = ask(name, "--continue", source, "And now?")
        assert (done.returncode, sealed(name)) == (0, False), done.stderr
        assert f"{name} is not signed by itself: its seal did not hold" in done.stderr
    done = ask("e.ipynb", "--continue", "a.ipynb", "And now?", "--sign")
    assert (done.returncode, sealed("e.ipynb")) == (1, False)
    assert "e.ipynb is not signed: its seal did not hold before: run, codevision.header.kernel_seed" in done.stderr
    assert Trajectory.load(tmp_path / "e.ipynb").answer == "AB12"
    done = codevision("sign", "a.ipynb", cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path / "conf"))
    assert "did not hold before: run, codevision.header.kernel_seed. The new signature replaces" in done.stderr
    again = codevision("sign", "a.ipynb", cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path / "conf"))
    assert (done.returncode, again.returncode, again.stderr) == (0, 0, "")


def test_counterfactuals_of_a_model_that_does_not_look(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    url = serve(TURN, ANSWER)
    assert codevision("ask", "What?", picture_file, "-o", "a.ipynb", "--base-url", url, cwd=tmp_path).returncode == 0
    given = ("counterfactuals", "a.ipynb", "--change", "blank")
    done = codevision(*given, "--base-url", url, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["score"], [item["change"] for item in told["branches"]]) == (0.0, ["control", "blank"])
    assert "--base-url" in codevision(*given, cwd=tmp_path).stderr  # the file does not choose the server
    assert "Faithfulness: 0.00" in codevision(*given, "--base-url", url, cwd=tmp_path).stdout


def test_unreachable_server(picture_file: Path, tmp_path: Path) -> None:
    done = codevision("ask", "What?", picture_file, "--base-url", "http://127.0.0.1:9/v1", "--model", "m", cwd=tmp_path)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def broken_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("missing.png", "empty.png", "text.png", "cut.png", "page.svg")}
    files["empty.png"].write_bytes(b"")
    files["text.png"].write_text("hello")
    Image.effect_noise((200, 200), 50).save(files["cut.png"])
    files["cut.png"].write_bytes(files["cut.png"].read_bytes()[:5000])
    files["page.svg"].write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return files


@pytest.mark.parametrize("name", ["missing.png", "empty.png", "text.png", "cut.png", "page.svg"])
def test_bad_images(serve: Any, tmp_path: Path, name: str) -> None:
    path = broken_files(tmp_path)[name]
    done = codevision("ask", "What?", path, "-o", "run.ipynb", "--base-url", serve(ANSWER), cwd=tmp_path)
    assert done.returncode == 1
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run.ipynb").exists()


def test_too_large_an_image_names_the_limit(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    done = codevision("ask", "?", picture_file, "--max-pixels", "1000", "--base-url", serve(ANSWER), cwd=tmp_path)
    assert done.returncode == 1
    assert "1000" in done.stderr.replace(",", "").replace(" ", "")
    assert "--max-pixels" in done.stderr or "max_pixels" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["ask", "What?"], "at least one image"),
        (["ask", "  ", "PICTURE"], "question is empty"),
        (["ask", "What?", "PICTURE", "--protocol", "nope"], "native"),
        (["ask", "What?", "PICTURE", "-o", "no/such/folder/run.ipynb"], "no/such/folder"),
        (["ask", "--continue", "PICTURE", "What?"], "picture.png"),
        (["recover", "none.ipynb"], "none.ipynb"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_told_in_one_go(
    serve: Any, picture_file: Path, tmp_path: Path, arguments: list[str], word: str
) -> None:
    arguments = [str(picture_file) if argument == "PICTURE" else argument for argument in arguments]
    extra = ["--base-url", serve(ANSWER)] if arguments[0] == "ask" else []
    done = codevision(*arguments, *extra, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_an_existing_notebook_needs_force(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run.ipynb").write_text("mine")
    arguments = ["ask", "What?", picture_file, "-o", "run.ipynb", "--base-url", serve(ANSWER)]
    done = codevision(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert (tmp_path / "run.ipynb").read_text() == "mine"
    assert codevision(*arguments, "--force", cwd=tmp_path).returncode == 0


def running(argument: str) -> list[str]:
    """The processes of this machine with this argument, whatever namespace they are in."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            line = path.read_bytes()
            found += [line.decode()] if argument.encode() in line.split(b"\0") else []
    return found


def until(true: Callable[[], bool], process: subprocess.Popen[Any] | None = None, seconds: float = 60.0) -> None:
    """Wait; `process` has to go on meanwhile."""
    deadline = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def has_a_step(notebook: Path) -> bool:
    """Whether a run that goes on has written one; a look in the middle of its writing sees half of it."""
    with contextlib.suppress(TrajectoryError):
        return len(Trajectory.load(notebook).steps) > 0
    return False


def test_ctrl_c_leaves_a_valid_notebook_and_no_process(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    mark = f"6{os.getpid()}.5"
    url = serve(TURN, call(f"import subprocess\nsubprocess.run(['sleep', '{mark}'])"), ANSWER)
    command = [CODEVISION, "ask", "What?", str(picture_file), "-o", "run.ipynb", "--base-url", url]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    path = tmp_path / "run.ipynb"
    try:
        until(lambda: has_a_step(path), process)
        until(lambda: bool(running(mark)), process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run.ipynb" in errors
    trajectory = Trajectory.load(path)
    assert (trajectory.stop_reason, len(trajectory.steps)) == (StopReason.INTERRUPTED, 2)
    cell = trajectory.steps[1].cell
    assert cell is not None
    until(lambda: not running(mark))


def test_a_killed_run_is_recovered(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    url = serve(TURN, call("import time; time.sleep(60)"), ANSWER)
    command = [CODEVISION, "ask", "What?", str(picture_file), "-o", "run.ipynb", "--base-url", url]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = tmp_path / "run.ipynb"
    try:
        until(lambda: has_a_step(path), process)
    finally:
        process.kill()
        process.wait()
    path.write_bytes(path.read_bytes()[:-500])
    done = codevision("recover", "run.ipynb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trajectory = Trajectory.load(path)
    assert (trajectory.stop_reason, len(trajectory.steps)) == (StopReason.CRASHED, 1)


def test_reruns_show_saved_files_and_the_tail_of_long_output(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    save = "<code>```python\nImage.open('image_0.png').resize((15, 15)).save('a.png')\n```</code>"
    long = "<code>```python\nfor n in range(5000): print('line', n)\nImage.open('image_1.png').resize((9, 9)).save('b.png')\n```</code>"
    arguments = ["--protocol", "thyme", "--base-url", serve(save, long, ANSWER), "-o", "run.ipynb"]
    assert codevision("ask", "?", picture_file, *arguments, cwd=tmp_path).returncode == 0
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "run.ipynb",
        "--output",
        "again.ipynb",
        *options(tmp_path),
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")})  # fmt: skip
    first, again = Trajectory.load(tmp_path / "run.ipynb"), Trajectory.load(tmp_path / "again.ipynb")
    assert [image.pixel_sha256 for image in again.images] == [image.pixel_sha256 for image in first.images]
    cells = json.loads((tmp_path / "again.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert "line 4999" in json.dumps(outputs)


def test_terminal_codes_of_the_model_stay_off_the_terminal(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    url = serve("<think>\x1b]0;PWN\x07\x1b[31mred</think><answer>\x1b[2Jx\x1b]52;c;eA==\x07</answer>")
    done = codevision("ask", "?", picture_file, "--base-url", url, cwd=tmp_path)
    assert done.stdout == "x\n"
    assert "\x1b]" not in done.stderr


def test_answers_survive_a_terminal_without_unicode(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    done = codevision(
        "ask",
        "?",
        picture_file,
        "-q",
        "--base-url",
        serve("<answer>다</answer>"),
        cwd=tmp_path,
        PYTHONIOENCODING="ascii",
    )
    assert (done.returncode, done.stdout) == (0, "\\ub2e4\n")


def test_failed_continue_leaves_no_journal(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    assert (
        codevision("ask", "?", picture_file, "-o", "run.ipynb", "--base-url", serve(ANSWER), cwd=tmp_path).returncode
        == 0
    )
    for _ in range(2):
        assert codevision("ask", "--continue", "run.ipynb", "?", "--protocol", "nope", cwd=tmp_path).returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png", "run.ipynb"]


def test_a_full_disk_names_the_run_so_far(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    noise = "import numpy as np\nresult = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8))"
    url = serve(call("result = image"), call(noise), ANSWER)
    limited = [
        "bash",
        "-c",
        'ulimit -f 120; exec "$0" "$@"',
        CODEVISION,
        "ask",
        "?",
        str(picture_file),
        "-o",
        "run.ipynb",
        "--json",
        "--base-url",
        url,
    ]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert summary["error"]["type"] == "StorageError"
    assert summary["steps"] >= 1
    assert summary["notebook"] == "run.ipynb"


def test_export_is_refused_over_an_existing_file(serve: Any, picture_file: Path, tmp_path: Path) -> None:
    assert (
        codevision(
            "ask", "?", picture_file, "-o", "a.ipynb", "--base-url", serve(TURN, ANSWER), cwd=tmp_path
        ).returncode
        == 0
    )
    assert codevision("export", "a.ipynb", "-o", "b.ipynb", cwd=tmp_path).returncode == 0
    assert "b.ipynb exists" in codevision("export", "a.ipynb", "-o", "b.ipynb", cwd=tmp_path).stderr
    assert "kernel_agent" not in "".join(
        "".join(cell["source"])
        for cell in json.loads((tmp_path / "b.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    )


def test_help_has_examples(tmp_path: Path) -> None:
    done = codevision("ask", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--continue run.ipynb" in done.stdout


def test_import_stays_light() -> None:
    heavy = {
        "torch",
        "transformers",
        "vllm",
        "openai",
        "jupyter_client",
        "nbformat",
        "IPython",
        "typer",
        "rich",
        "numpy",
    }
    code = f"import sys, kernel_agent; print(sorted(set(sys.modules) & {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_reads_no_run() -> None:
    """What `codevision --help` loads is what every command waits for."""
    code = (
        "import sys, kernel_agent.cli.commands; print('kernel_agent.trajectory' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
