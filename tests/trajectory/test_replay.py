"""Saved runs run again in a stock python3 kernel, as they are and self-contained, with equal pixels."""

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import numpy as np
import pytest
from making import HEADER, answer_step, cell_step, crop_run, kernel_image, noise, png
from PIL import Image, ImageDraw

from kernel_agent.errors import TrajectoryError
from kernel_agent.session.images import load_image, pixel_sha256
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.export import self_contained, write_self_contained
from kernel_agent.trajectory.inputs import find_inputs, find_skipped, find_views
from kernel_agent.types import ErrorOutput, ImageOutput, KernelImage, Status, StopReason, TextOutput
from tests.stock_kernels import options

FOLDER = Path(__file__).parent


def rotated_jpeg() -> tuple[bytes, Image.Image]:
    """A photo whose EXIF orientation turns it by 90 degrees, and its upright pixels."""
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(60, 40, 7).resize((60, 40)).save(out, "JPEG", exif=exif)
    return out.getvalue(), load_image(out.getvalue()).pil


def cells_run() -> Trajectory:
    """Two inputs; cells in all the ways in which code shows pictures."""
    first = noise(120, 80, 1)
    photo, upright = rotated_jpeg()
    assert upright.size == (40, 60)
    inputs = [
        kernel_image(0, first, source="first.png", view=50),
        kernel_image(1, upright, data=photo, mime="image/jpeg", source="photo.jpg"),
    ]
    t = Trajectory.start(images=inputs, header=HEADER)
    t.begin_turn("What is written here?")
    crop = first.crop((1, 2, 30, 40))
    drawn = first.copy()
    ImageDraw.Draw(drawn).rectangle((5, 5, 50, 50), outline="red")
    array = np.asarray(first)[10:40, 20:60, ::-1]
    code_and_pictures: list[tuple[str, Sequence[Image.Image]]] = [
        ("result = image_0.crop((1, 2, 30, 40))\nresult", [crop]),
        (
            "image = img = images[0].copy(); draw = ImageDraw.Draw(image)\n"
            "draw.rectangle((5, 5, 50, 50), outline='red')\nresult = image\nresult",
            [drawn],
        ),
        ("from IPython.display import display\ndisplay(image_2.rotate(90, expand=True))\ndisplay(image_1)",
         [crop.rotate(90, expand=True), upright]),
        ("np.asarray(images[0])[10:40, 20:60, ::-1]", [Image.fromarray(array)]),
        ("[image_4.convert('1'), image_2.convert('LA')]",
         [crop.rotate(90, expand=True).convert("1").convert("L"), crop.convert("LA").convert("RGBA")]),
        ("image_6.show()", [Image.fromarray(array)]),
        ("for k in range(2):\n    display(image_2.resize((10 + k, 10), Image.Resampling.NEAREST))",
         [crop.resize((10 + k, 10), Image.Resampling.NEAREST) for k in range(2)]),
    ]  # fmt: skip
    count = 2
    for index, (code, pictures) in enumerate(code_and_pictures):
        made = [kernel_image(count + k, picture, origin=f"cell {index}") for k, picture in enumerate(pictures)]
        count += len(made)
        outputs = [ImageOutput(index=image.index, is_result=code.endswith("result")) for image in made]
        t.add_step(cell_step(index, code, outputs, made))
    index = len(code_and_pictures)
    error = ErrorOutput(ename="ZeroDivisionError", evalue="division by zero", traceback=("ZeroDivisionError",))
    t.add_step(cell_step(index, "1 / 0", [error], status=Status.ERROR))
    stuck = kernel_image(count, noise(9, 9, 5), origin=f"cell {index + 1}")
    forever = "display(image_0.crop((0, 0, 9, 9)))\nwhile True: pass"
    t.add_step(cell_step(index + 1, forever, [ImageOutput(index=count)], [stuck], status=Status.TIMEOUT))
    t.add_step(
        cell_step(
            index + 2, "image_0.size, len(images)", [TextOutput(text=f"((120, 80), {count + 1})", is_result=True)]
        )
    )
    last = kernel_image(count + 1, upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM), parent=1, origin="cell")
    t.add_step(cell_step(index + 3, "ImageOps.flip(images[1])", [ImageOutput(index=count + 1, is_result=True)], [last]))
    t.add_step(answer_step(index + 4))
    t.end_turn("A7", StopReason.ANSWER)
    return t


def run_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    """`jupyter nbconvert --to notebook --execute`, in a kernel named python3 of this very Python."""
    kernels = path.parent / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec | {"display_name": "Python 3"}))
    monkeypatch.setenv("JUPYTER_PATH", str(path.parent / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(path.parent / "ipython"))
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", path.name, "--output", "again.ipynb"]
    done = subprocess.run(
        [*command, *options(path.parent)], cwd=path.parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    notebook = nbformat.read(path.parent / "again.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def pictures(cell: nbformat.NotebookNode) -> list[str]:
    found = []
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            found.append(pixel_sha256(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))))
    return found


def compare(run: Trajectory, notebook: nbformat.NotebookNode) -> None:
    by_id = {cell.id: cell for cell in notebook.cells}
    shown = 0
    for step in run.steps:
        if step.cell is None:
            continue
        cell = by_id[f"step-{step.index}"]
        assert cell.source == step.cell.source
        by_index: dict[int, KernelImage] = {image.index: image for image in step.images}
        expected = [by_index[o.index].pixel_sha256 for o in step.cell.outputs if isinstance(o, ImageOutput)]
        assert pictures(cell) == expected, step.cell.source
        shown += len(expected)
        texts = [output.text for output in step.cell.outputs if isinstance(output, TextOutput)]
        assert [o.data["text/plain"] for o in cell.outputs if o.output_type == "execute_result" and texts] == texts
    assert shown == len(run.images) - 2


def test_a_saved_run_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cells_run()
    notebook = run_again(run.save(tmp_path / "run.ipynb"), monkeypatch)
    compare(run, notebook)
    saved = nbformat.read(tmp_path / "run.ipynb", as_version=4).cells[1]
    assert (saved.id, len(saved.outputs)) == ("setup", 2)
    assert notebook.cells[1].outputs == saved.outputs  # what GitHub shows of the inputs
    again = Trajectory.load(tmp_path / "again.ipynb")
    assert [image.pixel_sha256 for image in again.images] == [image.pixel_sha256 for image in run.images]
    assert again.messages == run.messages


def test_a_self_contained_run_runs_again_without_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cells_run()
    write_self_contained(run, tmp_path / "run.ipynb")
    assert Trajectory.load(tmp_path / "run.ipynb") == run
    nbformat.validate(nbformat.from_dict(self_contained(run)))
    (tmp_path / "poison").mkdir()
    for name in ("kernel_agent", "cv2", "matplotlib", "nbformat"):
        (tmp_path / "poison" / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    poison = f"import sys; sys.path.insert(0, {str(tmp_path / 'poison')!r})"
    notebook = nbformat.read(tmp_path / "run.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(poison, id="poison"))
    nbformat.write(notebook, tmp_path / "run.ipynb")
    compare(run, run_again(tmp_path / "run.ipynb", monkeypatch))


def test_names_of_other_protocols_and_saved_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"pattern": "picture_{i}", "first": 1, "saved_files": True}
    first = noise(30, 20, 1)
    image = kernel_image(0, first)
    crop = kernel_image(1, first.crop((0, 0, 12, 9)), origin="cell 0")
    t = Trajectory.start(images=[image], header=HEADER | {"names": names})
    t.begin_turn("?")
    code = "Image.open('picture_1.png').crop((0, 0, 12, 9)).save('mine.png')"
    t.add_step(cell_step(0, code, [ImageOutput(index=1)], [crop]))
    picture = kernel_image(2, first.crop((0, 0, 10, 9)), origin="cell 1")
    code = "import matplotlib.pyplot as plt\npicture_2.crop((0, 0, 10, 9)).save('again.png')"
    t.add_step(cell_step(1, code, [ImageOutput(index=2)], [picture]))
    t.end_turn(None, StopReason.STEP_LIMIT)
    write_self_contained(t, tmp_path / "run.ipynb")
    notebook = run_again(tmp_path / "run.ipynb", monkeypatch)
    assert [pictures(cell) for cell in notebook.cells if cell.id in ("step-0", "step-1")] == [
        [crop.pixel_sha256],
        [picture.pixel_sha256],
    ]
    t.save(tmp_path / "plain.ipynb")
    setup = nbformat.read(tmp_path / "plain.ipynb", as_version=4).cells[1].source
    assert "pattern='picture_{i}', first=1, saved_files=True, max_images=33, output_chars=10000)" in setup


def test_figures_become_images_in_a_self_contained_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t = Trajectory.start(images=[kernel_image(0, noise(30, 20, 1))], header=HEADER)
    t.begin_turn("?")
    codes = [
        "for k in range(2):\n    plt.figure(figsize=(2, 1)); plt.imshow(image_0); plt.show()",
        "assert image_1.size == images[2].size == image_2.size, image_1.size\nimage_2.crop((0, 0, 20, 10))",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        "len(images), image_4.mode",
    ]
    for index, code in enumerate(codes):
        t.add_step(cell_step(index, code))
    t.end_turn(None, StopReason.STEP_LIMIT)
    write_self_contained(t, tmp_path / "run.ipynb")
    cells = {cell.id: cell for cell in run_again(tmp_path / "run.ipynb", monkeypatch).cells}
    assert [len(pictures(cells[f"step-{k}"])) for k in range(4)] == [2, 1, 1, 0]
    assert cells["step-3"].outputs[0].data["text/plain"] == "(5, 'RGBA')"


def test_inputs_are_found_by_run_id(tmp_path: Path) -> None:
    run, other = crop_run(), crop_run()
    path = run.save(tmp_path / "run.ipynb")
    other.save(tmp_path / "another.ipynb")
    (tmp_path / "empty.ipynb").write_text("")
    (tmp_path / "torn.ipynb").write_text(run.run_id + "{")
    (tmp_path / "list.ipynb").write_text(f'["{run.run_id}"]')
    expected = [image.data for image in run.images[:2]]
    assert find_inputs(run.run_id, tmp_path) == expected
    path.rename(tmp_path / "renamed.ipynb")
    assert find_inputs(run.run_id, str(tmp_path)) == expected
    assert find_skipped(run.run_id, tmp_path) == {3: run.images[3].data}
    views = [image.view for image in run.images[:2]]
    assert views != expected
    assert [data["image/png"] for data, _ in find_views(run.run_id, tmp_path)] == views
    nbformat.write(nbformat.read(tmp_path / "renamed.ipynb", as_version=4), tmp_path / "renamed.ipynb")
    assert find_inputs(run.run_id, tmp_path) == expected
    shutil.move(tmp_path / "renamed.ipynb", tmp_path / "kept")
    with pytest.raises(TrajectoryError, match=r"No notebook in .* holds the images of run .*folder it lies in.*export"):
        find_inputs(run.run_id, tmp_path)
    shutil.move(tmp_path / "kept", path)
    notebook = json.loads(path.read_text())
    whole = notebook["cells"][0].pop("attachments")
    path.write_text(json.dumps(notebook))
    with pytest.raises(TrajectoryError, match=r"run\.ipynb is that run, but .*image_0\.png is gone"):
        find_inputs(run.run_id, tmp_path)
    whole["image_1.png"]["image/png"] = base64.b64encode(png(noise(3, 3))).decode()
    notebook["cells"][0]["attachments"] = whole
    path.write_text(json.dumps(notebook))
    with pytest.raises(TrajectoryError, match="replaced by another image"):
        find_inputs(run.run_id, tmp_path)
    notebook["cells"].pop(0)
    path.write_text(json.dumps(notebook))
    with pytest.raises(TrajectoryError, match="first cell is gone"):
        find_inputs(run.run_id, tmp_path)


def test_finding_inputs_takes_the_standard_library_alone() -> None:
    code = "import sys, kernel_agent.trajectory.inputs; print({'orjson', 'PIL', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
