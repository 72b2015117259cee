"""A live run watched and steered, with real kernels and the scripted model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kernel_agent.blocking import background_loop
from kernel_agent.errors import InputError, LiveError
from kernel_agent.live import EventLog, LiveRun, RunOptions, Runs
from kernel_agent.live.run import RunState
from kernel_agent.models import ScriptedModel
from kernel_agent.provisioners.sandbox.probes import choose
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Answer, Isolation, KernelOptions, RunCode, Status, StopReason
from tests.dictated import Dictated

CROP = """<think>The left half.</think>
<tool_call>{"name": "code_image_tool", "arguments": {"code": "x = 1\\nresult = image_0.crop((0, 0, 30, 40))", "description": "crop", "image_index": 0}}</tool_call>"""
TURN = """<think>Turn it.</think>
<tool_call>{"name": "code_image_tool", "arguments": {"code": "x += 1\\nprint('x =', x)\\nresult = image_1.rotate(90, expand=True)", "description": "turn", "image_index": 1}}</tool_call>"""
DONE = "<think>Seen.</think>\n<answer>red</answer>"


@pytest.fixture
def runs_of(tmp_path: Path) -> Iterator[Callable[..., Runs]]:
    made: list[Runs] = []

    def make(*replies: Any, folder: bool = True, **options: Any) -> Runs:
        model = options.pop("model", None) or ScriptedModel(replies)
        kernel = KernelOptions(isolation="none") if options.pop("plain", True) else KernelOptions()
        runs = Runs(tmp_path / "runs" if folder else None, choose=lambda name, url: model, kernel=kernel, **options)
        made.append(runs)
        return runs

    yield make
    for runs in made:
        runs.close()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def kinds(run: LiveRun) -> list[str]:
    return [str(event["type"]) for event in run.log.after(-1)]


def test_a_run_tells_all_that_happens(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, TURN, DONE)
    run = runs.start("What colour is it?", [picture])
    seen: list[Any] = []
    run.log.follow(seen.append)
    assert run.wait().answer == "red"
    until(lambda: run.state is RunState.IDLE)
    step = ["running", "step", "budget"]
    expected = ["turn", "state", "action", *step, "action", *step, "action", "step", "budget", "answer", "state"]
    told = [event["type"] for event in seen if event["type"] not in ("writing", "run")]
    assert told == ["state", *expected]  # idle, before the question
    assert seen[0]["type"] == "run"
    numbers = [event["seq"] for event in seen]
    assert numbers == sorted(set(numbers))
    steps = [event for event in run.log.after(-1) if event["type"] == "step"]
    assert [step["status"] for step in steps] == ["ok", "ok", None]
    assert steps[1]["outputs"][0] == {"kind": "stream", "name": "stdout", "text": "x = 2\n", "dropped": 0}
    turned = steps[1]["images"][0]
    assert (turned["parent"], turned["root"], turned["size"]) == (1, 0, [40, 30])
    assert turned["outline"] == [[30, 0], [30, 40], [0, 40], [0, 0]]
    assert run.trajectory.path is not None
    assert Trajectory.load(run.trajectory.path) == run.trajectory
    assert not [event for event in run.log.after(-1) if event["type"] == "writing"]


def test_late_and_returning_readers_miss_nothing(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    model = Dictated("<think>one two three four five six</think><answer>a b</answer>")
    runs = runs_of(model=model)
    run = runs.start("?", [picture])
    model.let(3)
    until(lambda: run.log.after(-1)[-1].get("text") == "<think>one two three ")
    text = run.log.after(-1)[-1]
    assert text["type"] == "writing"
    assert text["whole"] is True
    rest: list[Any] = []
    run.log.follow(rest.append, after=text["seq"])
    model.let()
    run.wait()
    until(lambda: run.state is RunState.IDLE)
    assert [event["seq"] for event in rest] == list(range(text["seq"] + 1, run.log.last + 1))
    assert text["text"] + "".join(e["text"] for e in rest if e["type"] == "writing") == (
        "<think>one two three four five six</think><answer>a b</answer>"
    )


def test_stop_keeps_the_run_and_it_can_be_asked_on(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    slow = CROP.replace("x = 1", "x = 1; import time; time.sleep(30)")
    runs = runs_of(slow, DONE)
    run = runs.start("?", [picture])
    until(lambda: "running" in kinds(run))
    time.sleep(0.3)
    run.do("stop")
    assert run.state is RunState.IDLE
    assert run.trajectory.stop_reason is StopReason.INTERRUPTED
    assert run.trajectory.steps[0].cell is not None
    run.do("ask", question="And now?")
    assert run.wait().answer == "red"
    with pytest.raises(LiveError, match="no code waits for approval"):
        run.do("approve")


def test_stop_in_the_moment_of_the_question_ends_the_turn(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    """The turn is begun and cancelled in one round of the loop, before it has taken its first step."""
    runs = runs_of(DONE, DONE, DONE)
    run = runs.start("?", [picture])
    run.wait()
    held = threading.Event()
    background_loop().call_soon_threadsafe(held.wait)
    done = [run.submit("ask", question="And now?"), run.submit("stop")]
    held.set()
    for command in done:
        command.result(60)
    assert run.state is RunState.IDLE
    assert run.trajectory.stop_reason is StopReason.INTERRUPTED
    run.do("ask", question="And now?")
    assert run.wait().answer == "red"


def test_who_has_asked_finds_the_question_on_top_of_the_list(
    runs_of: Callable[..., Runs], picture: Image.Image
) -> None:
    runs = runs_of(*[DONE] * 5)
    for number in range(5):
        run = runs.start(f"Question {number}?", [picture])
        assert [runs.listed()[0][name] for name in ("id", "question")] == [run.id, f"Question {number}?"]


def test_a_list_is_made_while_runs_and_their_notebooks_come_and_go(
    runs_of: Callable[..., Runs], picture: Image.Image
) -> None:
    runs = runs_of(DONE)
    run = runs.start("?", [picture])
    path = run.wait().path
    assert path is not None
    run.do("close")
    data, over = path.read_bytes(), threading.Event()
    lines: list[list[str]] = []

    def come_and_go() -> None:
        try:
            for _ in range(20):
                copies = [path.with_name(f"copy-{number}.ipynb") for number in range(50)]
                for copy in copies:
                    copy.write_bytes(data)
                runs.open(path).do("close")
                for copy in copies:
                    copy.unlink()
        finally:
            over.set()

    with ThreadPoolExecutor() as threads:
        changing = threads.submit(come_and_go)
        while not (lines and over.is_set()):
            lines.append([line["id"] for line in runs.listed()])
        changing.result()
    assert all(set(ids) == {run.id} for ids in lines)


def test_pause_holds_the_run_and_its_clock(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, DONE, defaults=RunOptions(seconds=10))
    run = runs.start("?", [picture], RunOptions(approve_each=True))
    until(lambda: run.state is RunState.WAITING)
    time.sleep(10.2)  # longer than the turn may take
    with pytest.raises(LiveError, match="the run is waiting: ask again when this turn is over"):
        run.do("ask", question="more?")
    run.do("pause")
    run.do("approve")
    until(lambda: run.state is RunState.PAUSED)
    run.do("resume")
    assert run.wait().answer == "red"
    assert [event.kind for event in run.trajectory.events if event.kind == "approved"] == ["approved"]


def test_code_is_edited_or_refused_by_a_person(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    model_saw: list[str] = []

    def last(request: Any) -> str:
        model_saw.append("".join(getattr(p, "text", "") for m in request.messages[-2:] for p in m.content))
        return DONE

    runs = runs_of(CROP, TURN, last)
    run = runs.start("?", [picture], RunOptions(approve_each=True))
    until(lambda: run.state is RunState.WAITING)
    action = next(event for event in run.log.after(-1) if event["type"] == "action")
    assert action["approval"] is True
    run.do("approve", code="result = image_0.crop((0, 0, 10, 10))")
    until(lambda: run.state is RunState.WAITING and len(run.trajectory.steps) == 1)
    run.do("refuse", reason="not that one")
    trajectory = run.wait()
    assert trajectory.images[1].size == (10, 10)
    first, second = trajectory.steps[:2]
    assert isinstance(first.action, RunCode)
    assert "10, 10" in first.action.code
    assert first.completion.text == CROP
    assert second.observation is not None
    assert second.observation.status is Status.REFUSED
    assert "not that one" in second.observation.text
    edited = next(event for event in trajectory.events if event.kind == "code_edited")
    assert edited.data["step"] == 0
    assert "(0, 0, 30, 40)" in edited.data["written"]
    assert edited.data["by"] == "user"
    assert "This is what ran" in first.observation.text  # type: ignore[union-attr]
    assert "not that one" in model_saw[0]
    assert Trajectory.load(trajectory.path) == trajectory  # type: ignore[arg-type]


def test_rewind_is_a_branch_with_the_kernel_of_that_moment(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, TURN, DONE, TURN, DONE)
    run = runs.start("What colour?", [picture])
    run.wait()
    until(lambda: run.state is RunState.IDLE)
    before = run.trajectory.path.read_bytes()  # type: ignore[union-attr]
    branch = run.do("rewind", steps=1)
    assert branch is not None
    assert branch.parent == (run.id, 1)
    assert branch.id != run.id
    assert [len(branch.trajectory.steps), len(branch.trajectory.images)] == [1, 2]
    assert kinds(run)[-1] == "branch"
    assert not list(runs.folder.glob("*.codevision"))  # type: ignore[union-attr]  # no journal of an idle run stays
    branch.do("ask", question="Again?")
    assert branch.wait().answer == "red"
    assert "x = 2" in branch.trajectory.steps[1].observation.text  # type: ignore[union-attr]
    assert [turn.stop_reason for turn in branch.trajectory.turns] == [StopReason.INTERRUPTED, StopReason.ANSWER]
    assert run.trajectory.path.read_bytes() == before  # type: ignore[union-attr]
    loaded = Trajectory.load(branch.trajectory.path)  # type: ignore[arg-type]
    assert loaded.header["branch_of"] == {"run": run.id, "steps": 1}
    assert loaded == branch.trajectory
    with pytest.raises(LiveError, match="no state after 9 steps: this run has made 3"):
        run.do("rewind", steps=9)


def test_edit_and_continue(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, TURN, DONE, "<answer>turned</answer>")
    run = runs.start("What colour?", [picture])
    run.wait()
    branch = run.do("edit", step=1, code="x += 10\nprint(x)\nresult = image_1.rotate(180)")
    assert branch is not None
    trajectory = branch.wait()
    assert trajectory.answer == "turned"
    assert [turn.question for turn in trajectory.turns] == ["What colour?"]
    assert [isinstance(step.action, Answer) for step in trajectory.steps] == [False, False, True]
    assert "11" in trajectory.steps[1].observation.text  # type: ignore[union-attr]
    assert [event["edited"] for event in branch.log.after(-1) if event["type"] == "step"] == [False, True, False]
    assert run.trajectory.answer == "red"
    with pytest.raises(LiveError, match="step 2 has no code"):
        run.do("edit", step=2, code="1")


@pytest.mark.parametrize(("steps", "last"), [(1, 0), (2, 1)])
def test_an_edit_of_the_last_step_stays_within_the_budget(
    runs_of: Callable[..., Runs], picture: Image.Image, steps: int, last: int
) -> None:
    runs = runs_of(*[CROP, TURN][:steps], DONE, defaults=RunOptions(steps=steps))
    run = runs.start("What colour?", [picture])
    assert run.wait().stop_reason is StopReason.STEP_LIMIT
    assert run.trajectory.steps[last].cell is None  # the model was told to answer, so its code did not run
    branch = run.do("edit", step=last, code="print('edited')")
    assert branch is not None
    trajectory = branch.wait()
    assert (len(trajectory.steps), trajectory.stop_reason) == (steps, StopReason.STEP_LIMIT)
    told = trajectory.steps[last].observation
    assert told is not None
    assert "edited" in told.text
    assert "last message" not in told.text  # the turn is over: there is none
    branch.do("ask", question="So?")  # a new turn has a budget of its own
    assert branch.wait().answer == "red"
    assert not [finding for finding in trajectory.audit().findings if finding.outcome == "fails"]


def test_a_fork_shares_the_state_and_parts(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, DONE, TURN, DONE, TURN, DONE, folder=False)
    run = runs.start("?", [picture])
    run.wait()
    fork = run.do("fork")
    assert fork is not None
    for one in (fork, run):
        one.do("ask", question="on")
        one.wait()
        assert "x = 2" in one.trajectory.steps[-2].observation.text  # type: ignore[union-attr]


def test_saved_runs_are_listed_found_and_opened(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, DONE, "<answer>blue</answer>", TURN, DONE)
    first = runs.start("What colour is the LEFT half?", [picture])
    first.wait()
    second = runs.start("And this?", [picture])
    second.wait()
    assert [line["answer"] for line in runs.listed()] == ["blue", "red"]
    first_id = first.id
    first.do("close")
    assert [line["live"] for line in runs.listed("left half")] == [False]
    assert runs.listed("nowhere") == []
    again = runs.get(first_id)
    assert again is not first
    assert again.state is RunState.IDLE
    assert [event["type"] for event in again.log.after(-1)] == ["run", "turn", "step", "step", "answer", "state"]
    again.do("ask", question="Go on?")
    assert again.wait().answer == "red"
    assert "x = 2" in again.trajectory.steps[2].observation.text  # type: ignore[union-attr]
    for bad in ("../etc", "0" * 31, "0" * 32, None, "A" * 32):
        with pytest.raises(LiveError):
            runs.get(bad)  # type: ignore[arg-type]


def test_idle_runs_beyond_the_limit_give_their_kernels_back(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, DONE, CROP, DONE, TURN, DONE, idle_kernels=1)
    first = runs.start("?", [picture])
    first.wait()
    second = runs.start("?", [picture])
    second.wait()
    until(lambda: first.conversation.session.isolation == "not started")
    assert second.conversation.session.isolation == "none"
    first.do("ask", question="still there?")
    first.wait()
    assert "x = 2" in first.trajectory.steps[2].observation.text  # type: ignore[union-attr]


def test_a_failure_is_told_and_survived(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, DONE)
    run = runs.start("?", [picture])
    run.wait()
    run.do("ask", question="more")  # the script is used up
    run.wait()
    until(lambda: run.state is RunState.IDLE)
    told = [event for event in run.log.after(-1) if event["type"] == "answer"][-1]
    assert told["stop_reason"] == "model_error"
    assert "script" in told["failure"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"stepz": 3}, "there is no option 'stepz'"),
        ({"steps": True}, "steps=True"),
        ({"steps": 0}, "steps=0"),
        ({"isolation": "none"}, "isolation 'none': take one of auto, strong"),
        ({"by": "somebody"}, "no option 'by'"),
        ([], "an object of names"),
    ],
)
def test_options_are_checked(bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunOptions.from_json(bad)


def test_a_face_cannot_weaken_the_isolation() -> None:
    model = ScriptedModel([])
    strong = KernelOptions(isolation="strong")
    assert RunOptions(isolation="medium").agent(model, strong).kernel.isolation == "strong"
    assert RunOptions(isolation="strong").agent(model, KernelOptions(isolation="none")).kernel.isolation == "strong"
    assert RunOptions(isolation="auto").agent(model, strong).kernel.isolation == "strong"
    best = choose().level  # what "auto" gives on this machine
    for asked in ("strong", "medium", "container"):
        got = RunOptions(isolation=asked).agent(model).kernel.isolation
        assert list(Isolation).index(best if got == "auto" else Isolation(got)) <= list(Isolation).index(
            Isolation(asked)
        )


@contextlib.contextmanager
def model_server(keys: list[str | None]) -> Iterator[str]:
    """An HTTP server that notes the key of each request and answers none."""

    class Notes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization"))
            self.send_error(400)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Notes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_the_key_goes_to_the_default_server_alone(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEVISION_API_KEY", "sk-ours")
    ours: list[str | None] = []
    theirs: list[str | None] = []
    with model_server(ours) as default, model_server(theirs) as other:
        runs = Runs(
            None,
            defaults=RunOptions(base_url=default, model="m"),
            api_key="sk-ours",
            kernel=KernelOptions(isolation="none"),
        )
        for url in (None, other):
            assert runs.start("?", [picture], RunOptions(base_url=url)).wait().answer is None
        runs.close()
    assert set(ours) == {"Bearer sk-ours"}
    assert set(theirs) == {None}


def test_idle_runs_make_room_for_new_ones(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(DONE, DONE, DONE, CROP.replace("x = 1", "x = 1; import time; time.sleep(30)"), max_live=2)
    made = []
    for _ in range(3):
        made.append(runs.start("?", [picture]))
        made[-1].wait()
        until(lambda: made[-1].state is RunState.IDLE)
    assert made[0].state is RunState.CLOSED
    assert runs.get(made[0].id).trajectory.answer == "red"  # its notebook is there
    runs.max_live = 1
    busy = runs.start("?", [picture])
    with pytest.raises(LiveError, match="1 runs are at work: wait for one"):
        runs.start("?", [picture])
    busy.do("stop")


def test_a_text_is_whole_whatever_comes_between() -> None:
    log = EventLog()
    log.append("writing", step=0, text="one ")
    log.append("state", state="running")
    log.append("writing", step=0, text="two")
    told = log.after(-1)
    assert [(event["seq"], event["type"]) for event in told] == [(1, "state"), (2, "writing")]
    assert (told[1]["text"], told[1]["whole"]) == ("one two", True)
    log.append("action", step=0)
    assert [event["type"] for event in log.after(-1)] == ["state", "action"]


def test_a_fork_of_an_open_turn_is_cut(runs_of: Callable[..., Runs], picture: Image.Image) -> None:
    runs = runs_of(CROP, TURN, DONE)
    run = runs.start("?", [picture])
    until(lambda: "step" in kinds(run))
    branch = run.trajectory.branch(1)
    assert [turn.stop_reason for turn in branch.turns] == [StopReason.INTERRUPTED]
    run.wait()
