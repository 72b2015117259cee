import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernel_agent.errors import InputError
from kernel_agent.tasks import mvtool
from kernel_agent.tasks.annotation import Annotation, Line, Paragraph, Word, bounding_box, corners, read_hiertext
from kernel_agent.tasks.dataset import read_tasks
from kernel_agent.tasks.generate import Series, generate
from kernel_agent.tasks.generated_folder import write_dataset
from kernel_agent.tasks.ground_truth import Kind, Operation
from kernel_agent.tasks.mvtool_builder import TURNED, build, pictures_in, pictures_of


def annotated(*paragraphs: tuple[str, ...], size: tuple[int, int] = (1600, 1200), legible: bool = True) -> Annotation:
    """Lines of 12 px, 20 px apart, a word of 8 px a letter."""
    y, out = 10.0, []
    for texts in paragraphs:
        lines = []
        for text in texts:
            x, words = 10.0, []
            for piece in text.split():
                words.append(Word(text=piece, vertices=corners((x, y, x + 8 * len(piece), y + 12)), legible=legible))
                x += 8 * len(piece) + 8
            lines.append(Line(text=text, vertices=corners((10, y, x - 8, y + 12)), words=tuple(words)))
            y += 20
        outline = corners(bounding_box(*(line.vertices for line in lines)))
        out.append(Paragraph(vertices=outline, lines=tuple(lines)))
        y += 20
    return Annotation(image_id="x", size=size, paragraphs=tuple(out))


def passage(annotation: Annotation, noun: str, starts: bool, mark: str) -> list[str]:
    """By the question's own words: the one line or paragraph that starts or ends so."""
    parts = annotation.lines() if noun == "line" else annotation.paragraphs
    found = []
    for part in parts:
        text = part.text.split()
        size = len(mark.split())
        if (text[:size] if starts else text[-size:]) == mark.split():
            found.append(text)
    assert len(found) == 1, (mark, found)
    return found[0]


def right(annotation: Annotation, question: str) -> set[str]:
    """The answer, worked out from the question's words alone."""
    named = re.search(r'the (line|paragraph) that (starts|ends) with "(.+?)"\?', question)
    assert named
    words = passage(annotation, named[1], named[2] == "starts", named[3])
    plain = [re.sub(r"\W", "", word).lower() for word in words]
    if question.startswith("What is the full text"):
        return {" ".join(words)}
    if question.startswith("How many words"):
        return {str(len(words))}
    if found := re.match(r'How many times does the word "(\w+)"', question):
        return {str(plain.count(found[1]))}
    if found := re.match(r"What is the (shortest|longest) word", question):
        best = (min if found[1] == "shortest" else max)(map(len, plain))
        return {words[i].strip(".,;:!?\"'()") for i in range(len(words)) if len(plain[i]) == best}
    found = re.match(r'Which word follows "(.+?)" in', question)
    assert found
    after = [b for a, b in itertools.pairwise(words) if a.strip(".,;:") == found[1]]
    return {word.strip(".,;:!?\"'()") for word in after}


def test_every_answer_follows_from_the_words() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(12):
        annotation = generate((Series.PAGE, Series.SIGN)[seed % 2], seed, 0).drawing.annotation
        for question in mvtool.questions(annotation, np.random.default_rng(seed), mvtool.KINDS * 3):
            assert right(annotation, question.text) == set(question.answers), question
            assert not re.search(
                r"\b(top|bottom|upper|lower|first line|last line|corner of)\b", question.text.split('"')[0]
            )
            kinds[question.kind] += 1
    assert set(kinds) == set(mvtool.KINDS)
    assert min(kinds.values()) >= 10


def test_no_number_is_a_good_guess_when_words_are_counted() -> None:
    pages = [generate(Series.PAGE, seed, 0).drawing.annotation for seed in range(8)]
    answers: Counter[str] = Counter()
    for seed in range(160):
        asked = mvtool.questions(pages[seed % 8], np.random.default_rng(seed), (Kind.COUNTING,))
        answers.update(question.answers[0] for question in asked)
    assert answers.total() == 160
    assert answers.most_common(1)[0][1] < 80
    assert 4 <= answers["0"] <= 32


def test_a_passage_is_named_by_words_no_other_has() -> None:
    same = annotated(("we saw the dog run", "we saw the dog sit"), ("we saw a cat",))
    for seed in range(40):
        for question in mvtool.questions(same, np.random.default_rng(seed), mvtool.KINDS * 2):
            right(same, question.text)  # asserts that there is one
    twins = annotated(("we saw the dog run", "we saw the dog run"))
    assert [q for q in mvtool.questions(twins, np.random.default_rng(0)) if "the line" in q.text] == []


def test_what_is_large_illegible_or_tiny_is_not_asked_about() -> None:
    text = ("the cat and the dog ran", "to the end of the road")
    assert mvtool.questions(annotated(text), np.random.default_rng(0))
    assert not mvtool.questions(annotated(text, size=(300, 120)), np.random.default_rng(0))
    assert not mvtool.questions(annotated(text, legible=False), np.random.default_rng(0))
    small = annotated(text)
    halved = small.mapped(np.diag([0.5, 0.5, 1.0]), small.size)
    assert not mvtool.questions(halved, np.random.default_rng(0))


def hiertext(folder: Path, count: int) -> Path:
    """A file in HierText's own form, with pictures named after their ids."""
    entries = []
    for index in range(count):
        made = generate(Series.SIGN, 30, index).drawing
        name = f"{index:016x}"
        Image.fromarray(made.pixels).save(folder / f"{name}.jpg", quality=90)
        entries.append({**made.annotation.to_json(), "image_id": name})
    file = folder / "validation.jsonl"
    file.write_text(json.dumps({"info": {"version": "1"}, "annotations": entries}))
    whole = folder / "validation.json"
    file.rename(whole)
    return whole


def test_a_benchmark_from_hiertext(tmp_path: Path) -> None:
    file = hiertext(tmp_path, 12)
    (tmp_path / f"{3:016x}.jpg").unlink()
    (tmp_path / f"{4:016x}.jpg").write_bytes(b"no picture")
    Image.new("RGB", (5, 5)).save(tmp_path / f"{5:016x}.jpg")
    built = build(read_hiertext(file), pictures_in(tmp_path), tmp_path / "out", 100, 7)
    reasons = dict(built.left_out)
    assert "has no picture" in reasons[f"{3:016x}"]
    assert "cannot be read" in reasons[f"{4:016x}"]
    assert "5, 5" in reasons[f"{5:016x}"]
    tasks = list(read_tasks(tmp_path / "out"))
    assert built.count == len(tasks) == 12 - len(reasons)
    annotations = {a.image_id: a for a in read_hiertext(file)}
    turns = Counter(task.orientation for task in tasks)
    assert set(turns) <= set(TURNED)
    assert max(turns.values()) - min(turns.values()) <= 1
    assert max(Counter(task.kind for task in tasks).values()) <= 5
    for task in tasks:
        name = task.source.removeprefix("hiertext:")
        source = Image.open(tmp_path / f"{name}.jpg").convert("RGB")
        assert task.image
        assert task.target
        assert task.canonical_target
        shown = Image.open(task.image)
        assert shown.size == task.size
        assert task.orientation.inverse.apply(shown).tobytes() == source.tobytes()
        assert task.orientation.apply_to_box(task.canonical_target, source.size) == task.target
        assert right(annotations[name], task.question) == set(task.answers)
        assert len(task.required) == 2
        assert task.required[1] is Operation.CROP
    with pytest.raises(InputError, match="already"):
        build(read_hiertext(file), pictures_in(tmp_path), tmp_path / "out", 3)


def test_a_benchmark_from_generated_pictures(tmp_path: Path) -> None:
    write_dataset(tmp_path / "pages", Series.PAGE, 4, 2, workers=1)
    run = subprocess.run(
        [sys.executable, "-m", "kernel_agent.cli", "data", "questions", str(tmp_path / "pages"), "--n", "3", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    tasks = list(read_tasks(tmp_path / "out"))
    assert [task.orientation for task in tasks] == list(TURNED[:3])
    assert {task.kind for task in tasks} == {Kind.RECOGNITION, Kind.COUNTING, Kind.RETRIEVAL}
    first = pictures_of(tmp_path / "pages")("page-train-2-000000")
    assert tasks[0].image
    assert TURNED[0].apply(first).tobytes() == Image.open(tasks[0].image).tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "no list `annotations`"), ("no", "no JSON"), ('{"annotations": [{"image_id": "a"}]}', "entry 0.*HierText's schema")],
)  # fmt: skip
def test_a_file_that_is_not_hiertext_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_hiertext(file))
