"""%codevision in a real ipykernel, with a real model server that plays a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kernel_agent import Trajectory
from kernel_agent.audit.keys import default_key, make_key
from tests.magic.conftest import Cell, Notebook
from tests.model_server import call, in_order, playing

TURN = call("seen = 1\nprint('turning')\nresult = image_0.rotate(90, expand=True)", thought="Turn it.")
AGAIN = call("seen += 1\nprint('seen', seen)\nresult = image_1.rotate(90, expand=True)", index=1)
ANSWER = "<answer>AB12</answer>"
SLOW = call("import time\nfor _ in range(3000): time.sleep(0.1)")  # longer than a test waits

Serve = Callable[..., str]


@pytest.fixture
def asked(notebook: Notebook, serve: Serve) -> Callable[..., Notebook]:
    """The notebook, its default server playing these replies."""

    def start(*replies: str | int, **options: Any) -> Notebook:
        notebook.good(f"%codevision_config --base-url {serve(*replies, **options)}")
        return notebook

    return start


def test_it_answers_shows_a_live_view_and_leaves_a_static_rendering(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, ANSWER)
    cell = notebook.good('%codevision "What is written?" photo')
    [view] = [content["data"] for content in cell.all("display_data")]
    assert "application/vnd.jupyter.widget-view+json" in view
    assert "answer='AB12'" in cell.result["text/plain"]
    assert 'class="codevision-static"' in cell.result["text/html"]
    told = [event["type"] for event in cell.events()]
    assert told[-4:] == ["step", "budget", "answer", "state"]


def test_the_static_rendering_stands_once_where_the_result_is_not_shown(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, ANSWER)
    for line in ('t = %codevision "What?" photo', '%codevision "What?" photo --to t'):
        cell = notebook.good(line)
        _, static = [content["data"] for content in cell.all("display_data")]
        assert 'class="codevision-static"' in static["text/html"]
        assert notebook.good("print(t.answer, len(t.steps), t.images[1].size)").text == "AB12 2 (40, 60)\n"


def test_quiet_shows_nothing(asked: Callable[..., Notebook]) -> None:
    cell = asked(TURN, ANSWER).good('t = %codevision "What?" photo --quiet')
    assert not cell.all("display_data")
    assert not cell.text


IMAGES = {
    "photo": [(60, 40)],
    "array": [(30, 20)],
    "figure": [(100, 100)],
    "pair": [(60, 40), (30, 20)],
    "photos[0]": [(60, 40)],
    "small.png photo": [(12, 8), (60, 40)],
    "'a b.png'": [(12, 8)],
    '"a b.png" array': [(12, 8), (30, 20)],
}


@pytest.mark.parametrize(("words", "sizes"), [item for item in IMAGES.items() if item[1]])
def test_what_can_be_an_image(
    asked: Callable[..., Notebook], words: str, sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    for name in ("small.png", "a b.png"):
        Image.new("RGB", (12, 8), "blue").save(tmp_path / name)
    notebook = asked(ANSWER)
    notebook.good(
        "import numpy as np\nfrom matplotlib.figure import Figure\narray = np.zeros((20, 30, 3), np.uint8)\n"
        "figure = Figure(figsize=(1, 1), dpi=100); photos = [photo]; pair = (photo, array)"
    )
    notebook.good(f'%codevision "What?" {words} --quiet --to t')
    said = notebook.good("print([i.size for i in t.images])").text
    if words == "figure":
        assert said.count("(") == 1
    else:
        assert said == f"{sizes}\n"


def test_without_an_image_the_last_output_is_taken(asked: Callable[..., Notebook]) -> None:
    notebook = asked(ANSWER)
    notebook.good("photo.resize((33, 22))")
    notebook.good('%codevision "What?" --quiet --to t')
    assert notebook.good("print(t.images[0].size)").text == "(33, 22)\n"


def test_the_question_may_be_the_cell(asked: Callable[..., Notebook]) -> None:
    notebook = asked(ANSWER)
    notebook.good('%%codevision photo --quiet --to t\nWhat is\nwritten "here"? {x} $y')
    assert notebook.good("print(t.turns[0].question)").text == 'What is\nwritten "here"? {x} $y\n'


def test_continue_goes_on_in_the_same_kernel(asked: Callable[..., Notebook], tmp_path: Path) -> None:
    notebook = asked(TURN, ANSWER, AGAIN, ANSWER)
    notebook.good('%codevision "What?" photo --quiet --to t --save run.ipynb')
    notebook.good('%codevision --continue "and the date?" --quiet --to u')
    assert notebook.good("print(u is t, len(t.steps), t.steps[2].cell.outputs[0].text)").text == "True 4 seen 2\n\n"
    saved = Trajectory.load(tmp_path / "run.ipynb")
    assert [turn.question for turn in saved.turns] == ["What?", "and the date?"]
    assert not (tmp_path / "run.codevision").exists()


def test_fork_goes_on_from_an_earlier_state(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, AGAIN, AGAIN, ANSWER)
    notebook.good('%codevision "What?" photo --quiet --to t')
    said = notebook.good('f = t.fork(step=1); f.ask("again"); print(len(f.steps), f.steps[1].cell.outputs[0].text)')
    assert said.text == "4 seen 2\n\n"  # the script goes by the number of messages
    assert notebook.good("print(len(t.steps), t.answer, f.run_id != t.run_id)").text == "4 AB12 True\n"
    assert "take 0 to 4" in str(notebook.run("t.fork(step=9)").all("error"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%codevision", "give a question"),
        ('%codevision "What?"', "give at least one image"),
        ('%codevision "What?" nothing.png', "neither a variable here nor a file"),
        ('%codevision "What?" number', "is no image but a int"),
        ('%codevision "What?" photo --steps 0', "steps=0"),
        ('%codevision "What?" photo --steps x', "invalid int value"),
        ('%codevision "What?" photo --profile p', "there is no profile 'p'"),
        ('%codevision "What?" photo --to 1x', "no name for a variable"),
        ('%codevision "What? photo', "quotation"),
        ('%codevision --continue "more?"', "there is no run to continue"),
        ("%codevision_config --isolation none", "isolation"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(notebook: Notebook, line: str, said: str) -> None:
    notebook.good("number = 3; _ = None")
    cell = notebook.run(line)
    assert cell.status == "error"
    assert said in cell.text, cell.text
    assert "Traceback" not in cell.text
    assert not cell.all("error")


def test_a_model_that_cannot_be_asked_is_an_error_and_the_run_is_kept(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, 404)
    cell = notebook.run('%codevision "What?" photo --quiet --to t')
    assert cell.status == "error"
    assert "404" in cell.text
    assert notebook.good("print(len(t.steps), t.stop_reason)").text == "1 model_error\n"


def test_the_key_goes_to_the_server_that_was_named(notebook: Notebook, serve: Serve) -> None:
    url = serve(ANSWER, key="sk-mine")
    assert "401" in notebook.run(f'%codevision "What?" photo --quiet --base-url {url}').text
    notebook.good("%env CODEVISION_API_KEY=sk-mine")
    notebook.good("%reload_ext kernel_agent")
    notebook.good(f'%codevision "What?" photo --quiet --to t --base-url {url}')
    assert notebook.good("print(t.answer); del __import__('os').environ['CODEVISION_API_KEY']").text == "AB12\n"


def test_an_existing_notebook_is_replaced_only_by_force(asked: Callable[..., Notebook], tmp_path: Path) -> None:
    notebook = asked(ANSWER)
    (tmp_path / "run.ipynb").write_text("{}")
    line = '%codevision "What?" photo --quiet --save run.ipynb'
    assert notebook.run(line).status == "error"
    notebook.good(line + " --force")
    assert Trajectory.load(tmp_path / "run.ipynb").answer == "AB12"


def test_what_is_saved_is_signed_where_the_user_has_a_key(
    asked: Callable[..., Notebook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sealed(name: str) -> bool:
        return "seal" in json.loads((tmp_path / name).read_text())["metadata"]["codevision"]

    notebook = asked(TURN, ANSWER, AGAIN, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER)
    notebook.good(f"%env XDG_CONFIG_HOME={tmp_path}/conf")
    said = notebook.good('%codevision "What?" photo --quiet --save early.ipynb --to t').text
    assert (said, sealed("early.ipynb")) == ("", False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    make_key(default_key())
    notebook.good('%codevision "What?" photo --quiet --save run.ipynb --to t')
    assert sealed("run.ipynb")
    notebook.good(
        '%codevision --continue "And now?" --quiet --to t\nt.save("copy.ipynb"); t.fork(1).save("fork.ipynb")'
    )
    assert sealed("run.ipynb")
    assert sealed("copy.ipynb")
    assert sealed("fork.ipynb")
    notebook.good('%codevision "What?" photo --quiet --save not.ipynb --no-sign --to t')
    assert not sealed("not.ipynb")
    assert "sign=False" in notebook.good("%codevision_config --no-sign").text
    notebook.good('%codevision "What?" photo --quiet --save neither.ipynb --to t')
    assert not sealed("neither.ipynb")
    default_key().write_text("spoilt")
    wanted = notebook.run('%codevision "What?" photo --quiet --sign --save wanted.ipynb')
    assert (wanted.status, "holds no private key" in wanted.text) == ("error", True)
    notebook.good("%codevision_config --reset")
    again = asked(ANSWER)
    told = again.good('%codevision "What?" photo --quiet --save told.ipynb --to t').text
    assert "nothing is signed" in told
    assert not sealed("told.ipynb")


def test_profiles_and_defaults(notebook: Notebook, serve: Serve) -> None:
    url = serve(TURN, ANSWER)
    said = notebook.good(f"%codevision_config --profile short --base-url {url} --steps 1").text
    assert "profile short" in said
    assert "steps=1" in said
    notebook.good('%codevision "What?" photo --quiet --to t --profile short')
    assert notebook.good("print(t.stop_reason)").text == "step_limit\n"
    assert "embedded" in notebook.good("%codevision_config --reset").text


def test_ctrl_c_stops_the_agent_and_keeps_its_notebook(asked: Callable[..., Notebook], tmp_path: Path) -> None:
    notebook = asked(TURN, SLOW, ANSWER)

    def interrupt(message: dict[str, Any], cell: Cell) -> None:
        if [event for event in cell.events() if event["type"] == "running" and event["step"] == 1] and not sent:
            sent.append(1)
            notebook.manager.interrupt_kernel()

    sent: list[int] = []
    behind = 'print("not run")'
    first = notebook.start('%codevision "What?" photo --to t --save run.ipynb')
    second = notebook.start(behind)
    cell = notebook.finish(first, on=interrupt)
    assert cell.status == "error"
    assert cell.all("error")[0]["traceback"] == ['stopped after 2 steps; %codevision --continue "..." goes on']
    while notebook.client.get_shell_msg(timeout=60)["parent_header"]["msg_id"] != second:
        pass  # what waits behind the cell is given up, as ever
    assert notebook.good("print(len(t.steps), t.stop_reason)").text == "2 interrupted\n"
    assert len(Trajectory.load(tmp_path / "run.ipynb").steps) == 2
    notebook.good('%codevision --continue "and now?" --quiet')
    assert notebook.good("print(t.answer)").text == "AB12\n"


def test_a_click_arrives_while_the_cell_runs(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, SLOW, ANSWER)

    def stop(message: dict[str, Any], cell: Cell) -> None:
        if [event for event in cell.events() if event["type"] == "running" and event["step"] == 1] and not sent:
            sent.append(1)
            notebook.click(cell, type="command", run=None, command="stop", arguments={})

    sent: list[int] = []
    cell = notebook.good('%codevision "What?" photo --to t', on=stop)  # it ends while the model's cell sleeps
    assert cell.events()[-2]["type"] == "answer"
    assert notebook.good("print(t.stop_reason)").text == "interrupted\n"


def test_each_step_can_be_approved_edited_and_refused(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, TURN, TURN, ANSWER)
    decisions = [("approve", {}), ("approve", {"code": "print('mine')"}), ("refuse", {"reason": "no"})]

    def decide(message: dict[str, Any], cell: Cell) -> None:
        waiting = sum(event["type"] == "action" and event["approval"] for event in cell.events())
        while len(done) < waiting:
            command, arguments = decisions[len(done)]
            done.append(command)
            notebook.click(cell, type="command", run=None, command=command, arguments=arguments)

    done: list[str] = []
    notebook.good('%codevision "What?" photo --to t --approve-each', on=decide)
    assert done == ["approve", "approve", "refuse"]
    said = notebook.good("print([str(s.observation.status) for s in t.steps[:3]], t.steps[1].cell.outputs[0].text)")
    assert said.text == "['ok', 'ok', 'refused'] mine\n\n"


def test_edit_during_the_run_goes_on_in_a_branch_that_the_cell_returns(notebook: Notebook) -> None:
    before = in_order([TURN, SLOW])

    def choose(messages: list[Any]) -> str | int | None:
        return ANSWER if "by hand" in json.dumps(messages) else before(messages)

    def edit(message: dict[str, Any], cell: Cell) -> None:
        if [event for event in cell.events() if event["type"] == "running" and event["step"] == 1] and not done:
            done.append(1)
            notebook.click(
                cell, type="command", run=None, command="edit", arguments={"step": 0, "code": "print('by hand')"}
            )

    done: list[int] = []
    with playing(choose) as url:
        cell = notebook.good(f'%codevision "What?" photo --to t --base-url {url}', on=edit)
    replies = cell.all("comm_msg")
    told = [content["data"]["content"] for content in replies if content["data"].get("method") == "custom"]
    [runs] = [message["runs"] for message in told if message["type"] == "runs"]
    assert runs[1]["parent"] == [runs[0]["id"], 0]
    said = notebook.good("print(t.run_id, t.steps[0].cell.source)").text
    assert said.startswith(runs[1]["id"])
    assert said.endswith("print('by hand')\n")


def test_a_page_gets_all_it_lacks_and_the_pictures(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, ANSWER)
    cell = notebook.good('%codevision "What?" photo --to t')
    notebook.click(cell, type="follow", run=None, after=-1)
    notebook.click(cell, type="image", run=None, index=1)
    notebook.click(cell, type="command", run=None, command="rewind", arguments={"steps": 7})
    heard: list[dict[str, Any]] = []
    while not any(message["content"]["data"].get("content", {}).get("type") == "problem" for message in heard):
        message = notebook.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "comm_msg":
            heard.append(message)
    sent = [message["content"]["data"]["content"] for message in heard]
    assert [event["type"] for event in sent[1]["events"]][:3] == ["run", "state", "turn"]
    step = next(event for event in sent[1]["events"] if event["type"] == "step")
    assert "".join(text for _, text in step["tokens"]) == step["action"]["code"]
    [picture] = [message for message in heard if message["content"]["data"]["content"]["type"] == "image"]
    assert bytes(picture["buffers"][0]).startswith(b"\x89PNG")
    assert "no state after 7 steps" in sent[-1]["message"]


def test_what_comes_while_the_cell_runs_is_handled_afterwards_in_its_order(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, call("import time; time.sleep(1)"), ANSWER)
    first = notebook.start('%codevision "What?" photo --to t')
    rest = [notebook.start(f"order = [*globals().get('order', []), {number}]") for number in range(3)]
    notebook.finish(first)
    for cell_id in rest:
        notebook.finish(cell_id)
    assert notebook.good("print(t.answer, order)").text == "AB12 [0, 1, 2]\n"


def test_background_returns_at_once(asked: Callable[..., Notebook]) -> None:
    notebook = asked(SLOW, ANSWER)
    notebook.good('%codevision "What?" photo --to t --background')
    assert notebook.good("print(t.stop_reason)").text == "None\n"
    notebook.good("t.close()")
    assert notebook.good("print(t.stop_reason)").text == "interrupted\n"


def test_insert_cells_saves_the_run_where_no_page_answers(asked: Callable[..., Notebook], tmp_path: Path) -> None:
    notebook = asked(TURN, ANSWER)
    notebook.good('%codevision "What?" photo --quiet --to t')
    cell = notebook.good("t.insert_cells()")
    [saved] = tmp_path.glob("codevision-*.ipynb")
    assert "No cells were inserted" in cell.text
    assert saved.name in cell.text
    assert Trajectory.load(saved).answer == "AB12"


def test_insert_cells_asks_the_page(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, ANSWER)
    notebook.good('%codevision "What?" photo --quiet --to t')

    def insert(message: dict[str, Any], cell: Cell) -> None:
        if message["msg_type"] == "comm_open" and message["content"]["target_name"] == "kernel_agent.insert":
            asked_for.append(message["content"]["data"])
            content = {"comm_id": message["content"]["comm_id"], "data": {"inserted": len(asked_for[0]["cells"])}}
            notebook.client.shell_channel.send(notebook.client.session.msg("comm_msg", content))

    asked_for: list[dict[str, Any]] = []
    cell = notebook.good("print(t.insert_cells())", on=insert)
    assert cell.text == "None\n"
    [data] = asked_for
    assert "image_0.rotate(90" in str([cell["source"] for cell in data["cells"] if cell["cell_type"] == "code"])


def test_completion(notebook: Notebook) -> None:
    notebook.good("import numpy\npixels, pictures = numpy.zeros((4, 5)), [photo]")

    def complete(line: str) -> list[str]:
        message = notebook.client.complete(line, len(line))
        while True:
            reply = notebook.client.get_shell_msg(timeout=60)
            if reply["parent_header"]["msg_id"] == message:
                return list(reply["content"]["matches"])

    assert complete("%codevision --ba") == ["--background", "--base-url"]
    assert {"photo", "pixels", "pictures"} <= set(complete('%codevision "What?" p'))
    assert complete("%codevision_config --mod") == ["--model"]


def test_the_agent_does_not_touch_the_notebooks_variables(asked: Callable[..., Notebook]) -> None:
    notebook = asked(TURN, ANSWER)
    notebook.good("seen = 'mine'; result = 'mine'")
    notebook.good('%codevision "What?" photo --quiet --to t')
    assert notebook.good("print(seen, result, 'image_0' in globals())").text == "mine mine False\n"
