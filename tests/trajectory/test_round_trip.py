import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import nbformat
import pytest
from making import HEADER, cell_step, crop_run, kernel_image, noise, random_run, shown_step, text_message
from PIL import Image

from kernel_agent.errors import StorageError, TrajectoryError
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.cells import _STOPPED
from kernel_agent.types import ImagePart, Status, StopReason


def valid(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_a_saved_run_comes_back_equal(tmp_path: Path) -> None:
    run = crop_run()
    run.save(tmp_path / "run.ipynb")
    valid(tmp_path / "run.ipynb")
    again = Trajectory.load(tmp_path / "run.ipynb")
    assert again == run
    assert again.messages == run.messages
    assert [image.data for image in again.images] == [image.data for image in run.images]
    assert again.images[1].view is again.images[1].data
    assert (again.answer, again.stop_reason, again.usage) == ("A7", StopReason.ANSWER, run.usage)


@pytest.mark.parametrize("seed", range(40))
def test_any_run_comes_back_equal_and_is_valid(tmp_path: Path, seed: int) -> None:
    run = random_run(seed)
    run.save(tmp_path / "run.ipynb")
    data = (tmp_path / "run.ipynb").read_bytes()
    data.decode("utf-8")
    valid(tmp_path / "run.ipynb")
    assert Trajectory.load(tmp_path / "run.ipynb") == run
    assert Trajectory.load(tmp_path / "run.ipynb").messages == run.messages


@pytest.mark.parametrize("seed", range(0, 40, 5))
def test_recording_and_saving_give_the_same_file(tmp_path: Path, seed: int) -> None:
    run = random_run(seed)
    run.save(tmp_path / "saved.ipynb")
    run.record_to(tmp_path / "recorded.ipynb")
    run.close()
    assert (tmp_path / "saved.ipynb").read_bytes() == (tmp_path / "recorded.ipynb").read_bytes()


def test_a_file_written_anew_by_nbformat_loads_and_so_does_one_from_javascript(tmp_path: Path) -> None:
    run = crop_run()
    path = run.save(tmp_path / "run.ipynb")
    nbformat.write(nbformat.read(path, as_version=4), path)
    assert Trajectory.load(path) == run

    def javascript(value: object) -> object:  # writes 1.0 as 1
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, dict):
            return {key: javascript(item) for key, item in value.items()}
        return [javascript(item) for item in value] if isinstance(value, list) else value

    path.write_text(json.dumps(javascript(json.loads(path.read_text())), indent=1))
    assert Trajectory.load(path) == run


def test_an_outputs_re_encoding_with_equal_pixels_is_taken_and_other_pixels_are_not(tmp_path: Path) -> None:
    run = crop_run()
    path = run.save(tmp_path / "run.ipynb")
    notebook = nbformat.read(path, as_version=4)
    data = next(cell for cell in notebook.cells if cell.id == "step-0").outputs[1].data
    picture = run.images[2].to_pil()
    other = io.BytesIO()
    picture.save(other, "PNG", compress_level=9)
    assert other.getvalue() != run.images[2].data
    data["image/png"] = __import__("base64").b64encode(other.getvalue()).decode()
    nbformat.write(notebook, path)
    again = Trajectory.load(path)
    assert again.images[2].data == other.getvalue()
    assert again.images[2].view == run.images[2].view
    assert again.images[2].pixel_sha256 == run.images[2].pixel_sha256

    picture.putpixel((0, 0), (1, 2, 3))
    other = io.BytesIO()
    picture.save(other, "PNG")
    data["image/png"] = __import__("base64").b64encode(other.getvalue()).decode()
    nbformat.write(notebook, path)
    with pytest.raises(TrajectoryError, match="lacks the bytes of an image"):
        Trajectory.load(path)


def test_a_re_encoded_image_that_the_model_saw_as_it_is_still_resolves(tmp_path: Path) -> None:
    run = Trajectory.start(images=[kernel_image(0, noise(9, 9))], header={})
    run.begin_turn("?")
    picture = noise(30, 20, 3)
    run.add_step(shown_step(0, 1, "result", picture))
    run.add_step(cell_step(1, "1", new_messages=[text_message("user", "see", images=[run.images[1]])]))
    run.end_turn(None, StopReason.STEP_LIMIT)
    path = run.save(tmp_path / "run.ipynb")
    notebook = nbformat.read(path, as_version=4)
    other = io.BytesIO()
    picture.save(other, "PNG", compress_level=9)
    cell = next(cell for cell in notebook.cells if cell.id == "step-0")
    cell.outputs[0].data["image/png"] = __import__("base64").b64encode(other.getvalue()).decode()
    nbformat.write(notebook, path)
    again = Trajectory.load(path)
    assert again.images[1].view is again.images[1].data
    assert again.save(tmp_path / "again.ipynb")
    assert Trajectory.load(tmp_path / "again.ipynb").images[1].data == other.getvalue()


def test_a_counterfactual_view_under_a_known_label_is_kept(tmp_path: Path) -> None:
    run = Trajectory.start(images=[kernel_image(0, noise(20, 20))], header=HEADER)
    run.begin_turn("?")
    blank = kernel_image(0, Image.new("RGB", (20, 20)))
    run.add_step(cell_step(0, "1", new_messages=[text_message("user", "look", images=[blank])]))
    run.end_turn(None, StopReason.STEP_LIMIT)
    again = Trajectory.load(run.save(tmp_path / "run.ipynb"))
    part = again.steps[0].new_messages[0].content[0]
    assert isinstance(part, ImagePart)
    assert part.image == blank
    assert again == run


def _edit(path: Path, change: object) -> None:
    notebook = json.loads(path.read_text())
    change(notebook)  # type: ignore[operator]
    path.write_text(json.dumps(notebook))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n["metadata"]["codevision"].update(schema=99), "schema 99.*upgrade"),
        (lambda n: n["metadata"]["codevision"].update(schema=0), "schema 0.*older"),
        (lambda n: n["metadata"]["codevision"].pop("schema"), "schema None"),
        (lambda n: n["metadata"].pop("codevision"), "not one of CodeVision"),
        (lambda n: n.pop("cells"), "no list of cells"),
        (lambda n: n["cells"].pop(0), "first question and the input images is gone"),
        (lambda n: n["cells"].pop(3), "step 1 of 6 is gone"),
        (lambda n: n["cells"][0].pop("attachments"), "lacks the bytes of an image"),
        (lambda n: n["cells"][3].update(outputs=[]), "lacks the bytes of an image"),
        (lambda n: n["cells"][3]["metadata"]["codevision"]["record"]["step"].update(x=1), "unknown field 'x'"),
        (lambda n: n["cells"][3]["metadata"]["codevision"]["record"]["step"].pop("completion"), "incomplete"),
        (lambda n: n["cells"][3]["metadata"]["codevision"]["record"]["step"].update(action={"type": "jump"}), "action"),
        (lambda n: n["cells"][3]["metadata"]["codevision"].update(record=None), "holds no step"),
        (lambda n: n["cells"][0]["metadata"]["codevision"].update(images=7), "was damaged"),
        (
            lambda n: n["cells"][0]["metadata"]["codevision"]["images"][0].update(name="a b"),
            "first question: image 0 is",
        ),
        (
            lambda n: n["cells"][3]["metadata"]["codevision"]["record"]["step"]["cell"]["outputs"][-1].update(index=-1),
            "step 1 shows image -1, which",
        ),
        (
            lambda n: n["cells"][3]["metadata"]["codevision"]["record"]["step"].update(seconds={"$int": "9" * 400}),
            "a number that a float can hold",
        ),
        (lambda n: n["metadata"]["codevision"].update(turns=[{"question": 3, "first_step": 0}]), "question"),
        (lambda n: n["metadata"]["codevision"].update(turns=None), "turns"),
        (lambda n: n["metadata"]["codevision"].update(header=None), "lacks run, header"),
    ],
)
def test_a_notebook_that_is_no_whole_run_is_named(tmp_path: Path, change: object, message: str) -> None:
    path = crop_run().save(tmp_path / "run.ipynb")
    _edit(path, change)
    with pytest.raises(TrajectoryError, match=message):
        Trajectory.load(path)


def test_what_is_no_notebook_is_named(tmp_path: Path) -> None:
    path = crop_run().save(tmp_path / "run.ipynb")
    data = path.read_bytes()
    for cut in range(0, len(data) - 1, 997):  # without its last line end it is whole
        path.write_bytes(data[:cut])
        with pytest.raises(TrajectoryError, match=r"no whole notebook.*codevision recover"):
            Trajectory.load(path)
    with pytest.raises(TrajectoryError, match="cannot be read"):
        Trajectory.load(tmp_path / "other.ipynb")
    path.write_text("[1]")
    with pytest.raises(TrajectoryError, match="no notebook"):
        Trajectory.load(path)


def test_edits_of_text_and_code_in_an_editor_do_not_change_the_record(tmp_path: Path) -> None:
    run = crop_run()
    path = run.save(tmp_path / "run.ipynb")

    def edit(notebook: dict) -> None:
        for cell in notebook["cells"]:
            cell["source"] = "edited"
        notebook["cells"].insert(2, {"cell_type": "raw", "id": "mine", "metadata": {}, "source": "mine"})
        notebook["cells"].append(json.loads(json.dumps(notebook["cells"][4])) | {"id": "copied"})

    _edit(path, edit)
    assert Trajectory.load(path) == run


def test_tags_say_how_cells_run_again(tmp_path: Path) -> None:
    notebook = valid(crop_run().save(tmp_path / "run.ipynb"))
    tags = {cell.id: cell.metadata.get("tags") for cell in notebook.cells if cell.cell_type == "code"}
    assert tags["step-1"] == ["raises-exception"]
    assert tags["step-3"] == ["skip-execution"]
    assert tags["step-0"] is None
    assert notebook.metadata.kernelspec.name == "python3"


def test_misuse_is_refused() -> None:
    run = Trajectory.start(images=[kernel_image(0, noise(5, 5))], header={})
    with pytest.raises(RuntimeError, match="begin_turn"):
        run.add_step(cell_step(0, "1"))
    run.begin_turn("?")
    with pytest.raises(RuntimeError, match="end_turn"):
        run.begin_turn("again?")
    with pytest.raises(ValueError, match="cannot follow"):
        run.add_step(cell_step(3, "1"))
    with pytest.raises(ValueError, match="its own index"):
        run.add_step(shown_step(0, 0, "x", noise(6, 6)))
    assert run.steps == ()
    assert Status.OK
    with pytest.raises(StorageError, match=r"ends in \.ipynb"):
        run.save("run.json")


def test_every_stop_reason_has_its_sentence() -> None:
    assert set(_STOPPED) == set(StopReason)


def test_damaged_notebooks_give_trajectory_errors_and_nothing_else(tmp_path: Path) -> None:
    run = crop_run()
    path = run.save(tmp_path / "run.ipynb")
    text = path.read_text()
    r = random.Random(1)
    for _ in range(400):
        notebook = json.loads(text)
        at: Any = notebook
        while True:  # walk down to somewhere, and put something wrong there
            key = r.choice(list(at)) if isinstance(at, dict) else r.randrange(len(at))
            if isinstance(at[key], (dict, list)) and at[key] and r.random() < 0.85:
                at = at[key]
                continue
            wrong = r.choice([None, 3, -1.5, "x", [], {}, [[]], {"x": 1}, "gone"])
            if wrong == "gone":
                del at[key]
            else:
                at[key] = wrong
            break
        path.write_text(json.dumps(notebook))
        with contextlib.suppress(TrajectoryError):
            Trajectory.load(path)
