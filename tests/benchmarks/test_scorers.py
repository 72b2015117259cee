"""Scorers against the official rules: gold scores 1, wrong scores 0, and every trap that is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published import base64_png, png, rl_row, write_json, write_parquet, write_tsv

from kernel_agent.benchmarks import Benchmark, Sample, Scored, get_benchmark
from kernel_agent.benchmarks.answers import bare, chosen_letter
from kernel_agent.benchmarks.base import spool
from kernel_agent.errors import InputError
from kernel_agent.tasks.generate import Series, generate
from kernel_agent.tasks.generated_folder import write_dataset
from kernel_agent.tasks.ground_truth import AnswerType, GroundTruth, Kind
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.released import as_pil
from kernel_agent.tasks.typefaces import Split

ocrbench, chartqapro, vstar, hrbench, mvtoolbench, orientation, mvtool = map(
    get_benchmark, ("ocrbench", "chartqapro", "vstar", "hrbench", "mvtoolbench", "orientation", "mvtool")
)


def only(benchmark: Benchmark, path: Path) -> Sample:
    loaded = benchmark.load(path)
    assert not loaded.problems
    assert len(loaded.samples) == 1
    return loaded.samples[0]


def gold_and_wrong(benchmark: Benchmark, sample: Sample, gold: str, wrong: str) -> None:
    assert benchmark.score(sample, gold) == 1
    assert benchmark.score(sample, f"<think>x</think><answer>{gold}</answer>") == 1
    for other in (wrong, "", None):
        assert benchmark.score(sample, other) == 0


def test_bare_answers() -> None:
    assert bare("<think>maybe <answer>A</answer></think><answer> B </answer>") == "B"
    assert bare("<answer>one</answer> <answer>two") == "two"
    assert bare("no tags ") == "no tags"
    assert bare(None) == ""


# OCRBench


def ocr(dataset: str, answers: Any, kind: str = "Regular Text Recognition") -> Sample:
    return Sample(id="1", question="q", images=(), gold=answers, category=kind, meta={"formula": dataset == "HME100k"})


def test_ocrbench_rules() -> None:
    plain = ocr("IIIT5K", ["Centre", "Center"])
    gold_and_wrong(ocrbench, plain, "centre", "cent")
    assert ocrbench.score(plain, "It says CENTER.") == 1  # contains, any alternative, case does not count
    assert ocrbench.score(ocr("docVQA", ["a b"]), "a\nb") == 1
    assert ocrbench.score(ocr("docVQA", ["a  b"]), "a b") == 0  # inner blanks count outside of formulas
    formula = ocr("HME100k", [r"\frac { A } { b }"])
    assert ocrbench.score(formula, r"\frac{A}{b}") == 1
    assert ocrbench.score(formula, r"\frac{a}{b}") == 0  # case counts
    assert ocrbench.score(formula, r"x = \frac{A}" + "\n{b}") == 1


def test_ocrbench_thoughts_do_not_count() -> None:
    assert ocrbench.score(ocr("IIIT5K", ["EXIT"]), "<think>EXIT?</think><answer>EDIT</answer>") == 0


def test_ocrbench_files(tmp_path: Path) -> None:
    (tmp_path / "OCRBench_Images" / "IIIT5K").mkdir(parents=True)
    (tmp_path / "OCRBench_Images" / "IIIT5K" / "1.png").write_bytes(png())
    row = {"dataset_name": "IIIT5K", "id": 1, "image_path": "IIIT5K/1.png", "question": "what is written in the image?"}
    rows = [
        {**row, "answers": ["CENTRE"], "type": "Regular Text Recognition"},
        {**row, "answers": "42", "type": "Digit String Recognition"},
        {**row, "answers": [], "type": "Digit String Recognition"},
        {**row, "image_path": "IIIT5K/2.png", "answers": "x", "type": "Digit String Recognition"},
        {**row, "dataset_name": "HME100k", "answers": "X", "type": "Handwritten Mathematical Expression Recognition"},
    ]
    loaded = ocrbench.load(write_json(tmp_path / "OCRBench.json", rows))
    assert [sample.gold for sample in loaded.samples] == [["CENTRE"], ["42"], ["X"]]
    assert [problem.index for problem in loaded.problems] == [2, 3]
    assert len({sample.id for sample in loaded.samples}) == 3
    assert [ocrbench.score(sample, "x 42 centre") for sample in loaded.samples] == [1, 1, 0]
    assert ocrbench.prompt(loaded.samples[0]) == row["question"]
    hub = {"dataset": "HME100k", "question": "q", "question_type": "HME", "answer": ["X"], "image": {"bytes": png()}}
    assert ocrbench.score(only(ocrbench, write_parquet(tmp_path / "t.parquet", [hub])), "x") == 0
    kit = {
        "index": 0,
        "image": base64_png(),
        "question": "q",
        "answer": "['a', 'b']",
        "category": "Scene Text-centric VQA",
    }
    assert only(ocrbench, write_tsv(tmp_path / "OCRBench.tsv", [kit])).gold == ["a", "b"]


# ChartQAPro


def chart(answer: str, years: list[str] | None = None, kind: str = "Factoid") -> Sample:
    return Sample(id="1", question="q", images=(), gold=answer, category=kind, meta={"years": years or ["NO"]})


@pytest.mark.parametrize(
    ("gold", "said", "years", "expected"),
    [
        ("100", "105", None, 1),  # 5 % off
        ("100", "105.1", None, 0),
        ("12%", "12", None, 1),
        ("0", "0.0", None, 1),
        ("0", "0.001", None, 0),  # of 0 nothing is near
        ("2019", "2020", None, 1),  # a number
        ("2019", "2020", ["YES"], 0),  # a year
        ("2019.", "2019", ["YES"], 1),  # dots around do not count
        ("Norway", "norway", None, 1),
        ("Norway", "Norwey", None, 1 - 1 / 6),
        ("abcd", "abxy", None, 0),  # half of it is wrong
        ("['a', 'b']", "['a', 'b']", None, 1),
        ("['a', 'b']", "['a']", None, 0.5),  # missing
        ("['a']", "['a', 'c']", None, 0.5),  # extra
        ("[Paris, Rome]", "['Paris', 'Rome']", None, 1),  # words without quotes
        ("[New York, Rome]", "['New York', 'Rome']", None, (1 - 1 / 8 + 1) / 2),  # the official fault: NewYork
        ("['2001', '50']", "['2001', '51']", ["YES", "NO"], 1),
        ("['2001', '2002']", "['2001', '2003']", ["YES"], 0.5),  # one flag for all
        ("true", "True", None, 1),
        ("unanswerable", "unanswerable", None, 1),
        ("2,019", "2019", None, 1 - 1 / 5),  # a thousands comma is no number
    ],
)
def test_chartqapro_rules(gold: str, said: str, years: list[str] | None, expected: float) -> None:
    assert chartqapro.score(chart(gold, years), said) == pytest.approx(expected)


def test_chartqapro_kinds() -> None:
    gold_and_wrong(chartqapro, chart("a", kind="Multi Choice"), "a", "b")
    # the exact match of these kinds is computed and never used officially: nearly right text scores
    assert chartqapro.score(chart("false", kind="Fact Checking"), "falsy") == pytest.approx(0.8)
    conversation = chart("2019", ["NO", "YES"], kind="Conversational")
    assert chartqapro.score(conversation, "2020") == 0  # the last flag counts
    assert chartqapro.score(conversation, "2019") == 1


def test_chartqapro_files(tmp_path: Path) -> None:
    row = {
        "Question": ["How many?", "And in 2019?"],
        "Answer": ["5", "7"],
        "Question Type": "Conversational",
        "image": png(),
        "Year": ["NO", "NO"],
        "Paragraph": "Sales in Oslo.",
    }
    sample = only(chartqapro, write_parquet(tmp_path / "test.parquet", [row]))
    asked = chartqapro.prompt(sample)
    assert all(part in asked for part in ("Sales in Oslo.", "Q: How many?\nA: 5", "Question: And in 2019?"))
    gold_and_wrong(chartqapro, sample, "7", "5")
    kit = {"index": 3, "Question": "['How many?']", "Answer": "['5']", "Question Type": "Factoid", "Year": "['NO']"}
    loaded = chartqapro.load(
        write_tsv(
            tmp_path / "t.tsv",
            [{**kit, "image": base64_png()}, {**kit, "Question Type": "Riddle", "image": base64_png()}, kit],
        )
    )
    assert [sample.question for sample in loaded.samples] == ["How many?"]
    assert [problem.index for problem in loaded.problems] == [1, 2]


# Multiple choice

OPTIONS = {"A": "red", "B": "blue", "C": "dark green", "D": "green"}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("C", "C"),
        ("(c)", "C"),
        ("C.", "C"),
        ("C. dark green", "C"),
        ("Based on the image, the answer is C", "C"),
        ("<answer>C</answer>", "C"),
        ("The right option is (B).", "B"),
        ("Answer: D", "D"),
        ("I think A is wrong, so the answer is B", "B"),
        ("it is blue", "B"),
        ("dark green", "C"),  # not the shorter option in it
        ("A man holds a red one", "A"),  # by its word: the article is no letter
        ("A man holds it", None),
        ("E", None),
        ("between A and B", None),
        ("", None),
        (None, None),
    ],
)
def test_the_letter_meant(said: str | None, letter: str | None) -> None:
    assert chosen_letter(said, OPTIONS) == letter


def test_vstar_shuffles_the_original_options(tmp_path: Path) -> None:
    for kind in ("direct_attributes", "relative_position"):
        (tmp_path / kind).mkdir()
        for number in range(12):
            row = {"question": "What colour?", "options": ["red", "blue", "grey", "white"], "bbox": [[1, 2, 3, 4]]}
            write_json(tmp_path / kind / f"{number}.json", row)
            (tmp_path / kind / f"{number}.jpg").write_bytes(png())
    samples = vstar.load(tmp_path).samples
    assert len(samples) == 24
    assert {sample.category for sample in samples} == {"direct_attributes", "relative_position"}
    assert len({sample.gold for sample in samples}) > 1  # not always the first
    assert all(sample.meta["options"][sample.gold] == "red" for sample in samples)
    assert [s.gold for s in vstar.load(tmp_path).samples] == [s.gold for s in samples]
    assert [s.gold for s in vstar.load(tmp_path, seed=1).samples] != [s.gold for s in samples]
    assert [s.id for s in vstar.load(tmp_path, limit=13).samples] == [s.id for s in samples[:13]]
    gold_and_wrong(vstar, samples[0], samples[0].gold, "E")
    assert vstar.score(samples[0], "red") == 1


def test_vstar_published_forms(tmp_path: Path) -> None:
    text = "What colour? (A) red (B) blue\nAnswer with the option's letter from the given choices directly."
    hub = {"text": text, "label": "B", "category": "direct_attributes", "question_id": 7, "image": {"bytes": png()}}
    sample = only(vstar, write_parquet(tmp_path / "hub.parquet", [hub]))
    assert sample.meta["options"] == {"A": "red", "B": "blue"}
    assert sample.question == "What colour?"
    gold_and_wrong(vstar, sample, "B", "A")
    kit = {"index": 1, "image": base64_png(), "question": "q?", "A": "x", "B": "y", "answer": "A", "category": "c"}
    gold_and_wrong(vstar, only(vstar, write_tsv(tmp_path / "VStarBench.tsv", [kit])), "A", "B")
    loaded = vstar.load(write_tsv(tmp_path / "bad.tsv", [{**kit, "answer": "C"}, kit]))
    assert [problem.index for problem in loaded.problems] == [0]


def test_hrbench_averages_over_cycles(tmp_path: Path) -> None:
    base = {"question": "q?", "A": "w", "B": "x", "C": "y", "D": "z", "category": "single"}
    rows = [
        {**base, "index": k, "image": base64_png() if k == 0 else "0", "answer": "ABCD"[k], "cycle_category": k}
        for k in range(4)
    ]
    loaded = hrbench.load(write_tsv(tmp_path / "hr_bench_4k.tsv", rows), keep=spool(tmp_path / "images"))
    assert [sample.gold for sample in loaded.samples] == list("ABCD")
    assert len({sample.images for sample in loaded.samples}) == 1  # the cell of the others names the row
    assert len(list((tmp_path / "images").iterdir())) == 1
    gold_and_wrong(hrbench, loaded.samples[1], "B", "A")
    scored = [
        Scored(id=str(k), score=s, category=c, meta={"cycle": cycle})
        for k, (s, c, cycle) in enumerate(
            [
                (1.0, "single", "0"),
                (1.0, "cross", "0"),
                (0.0, "single", "1"),
                (1.0, "single", "1"),
                (0.0, "cross", "1"),
                (0.0, "cross", "1"),
            ]
        )
    ]
    lines = {line.name: line.score for line in hrbench.summarise(scored)}
    assert lines["all"] == pytest.approx((100 + 25) / 2)  # the mean of the cycles, not of the rows (50)
    assert lines["single"] == pytest.approx((100 + 50) / 2)
    assert lines["cross"] == pytest.approx(50)


# MVToolBench


@pytest.mark.parametrize(
    ("truth", "said", "expected"),
    [
        ("2", "2", 1),
        ("2", "2.0", 1),
        ("2", "There are 2", 1),
        ("2", "not 3 but 2", 1),  # the last number
        ("2", "2 or 3", 0),
        ("0.5", "1/2", 1),
        ("1000", "1,000", 1),
        ("park", "park", 1),
        ("park", "Park", 0),  # case counts; the judge may say otherwise
        ("park", "the word park", 0),
        ("B", "I choose b", 1),
        ("B", "A or B, so A", 0),
        ("2", "", 0),
    ],
)
def test_mvtoolbench_rules(truth: str, said: str, expected: float, tmp_path: Path) -> None:
    sample = Sample(id="1", question="q", images=(), gold=[truth])
    assert mvtoolbench.score(sample, said) == expected


def test_mvtoolbench_file(tmp_path: Path) -> None:
    rows = [rl_row(), rl_row(images=[]), rl_row(extra_info={"answer": "2", "transform": None})]
    loaded = mvtoolbench.load(write_parquet(tmp_path / "mvtoolbench.parquet", rows))
    assert [sample.category for sample in loaded.samples] == ["rotate_90", "none"]
    assert [problem.index for problem in loaded.problems] == [1]
    gold_and_wrong(mvtoolbench, loaded.samples[0], "2", "5")


# Ours


def test_orientation_is_drawn_upright_and_the_same_each_time() -> None:
    loaded = orientation.load(None, limit=3, seed=5)
    assert [s.images for s in orientation.load(None, limit=3, seed=5).samples] == [s.images for s in loaded.samples]
    for sample in loaded.samples:
        gold_and_wrong(orientation, sample, sample.gold, sample.gold[:-1])
        assert orientation.score(sample, sample.gold.lower()) == 0


def test_orientation_of_own_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    lines = [{"image": "a.png", "question": "What?", "answer": "AB"}, {"image": "a.png", "question": "What?"}]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    loaded = orientation.load(file)
    assert ([s.gold for s in loaded.samples], [p.index for p in loaded.problems]) == (["AB"], [1])


@pytest.mark.parametrize(
    ("kind", "answers", "choices", "gold", "wrong"),
    [
        (AnswerType.TEXT, ("Rua  Nova",), (), '"rua nova".', "rua"),
        (AnswerType.NUMBER, ("3",), (), "3.0", "33"),
        (AnswerType.CHOICE, ("B",), ("red", "blue"), "blue", "A"),
        (AnswerType.CHOICE, ("blue",), ("red", "blue"), "b", "red"),
        (AnswerType.LIST, ("a, b",), (), "[b, A]", "a"),
    ],
)
def test_mvtool(tmp_path: Path, kind: AnswerType, answers: Any, choices: Any, gold: str, wrong: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "t.png").write_bytes(png())
    task = GroundTruth(
        id="t",
        question="q?",
        answers=answers,
        kind=Kind.RECOGNITION,
        answer_type=kind,
        choices=choices,
        image="images/t.png",
    )
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task.to_json()) + '\n{"id": "u"}\n')
    loaded = mvtool.load(tmp_path)
    assert [problem.index for problem in loaded.problems] == [1]
    gold_and_wrong(mvtool, loaded.samples[0], gold, wrong)
    assert choices == () or "B. blue" in mvtool.prompt(loaded.samples[0])


def test_orientation_puts_our_own_data_sets_upright(tmp_path: Path) -> None:
    write_dataset(tmp_path, Series.READING, 6, 3, split=Split.TEST, workers=1)
    loaded = orientation.load(tmp_path)
    assert loaded.problems == ()
    for index, sample in enumerate(loaded.samples):
        made = generate(Series.READING, 3, index, split=Split.TEST)
        assert as_pil(sample.images[0]).convert("RGB").tobytes() == made.drawing.pixels.tobytes()
        gold_and_wrong(orientation, sample, made.task.answers[0], made.task.answers[0][:-1])
    assert {generate(Series.READING, 3, index).task.orientation for index in range(6)} == set(Orientation)


def test_what_there_is_not() -> None:
    with pytest.raises(InputError, match="no benchmark 'mmlu'"):
        get_benchmark("mmlu")
    with pytest.raises(InputError, match="--data"):
        ocrbench.load(None)
