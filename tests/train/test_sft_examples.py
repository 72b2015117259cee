"""Runs as training examples, token by token; the runs are the agent's own, in real kernels."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sft_runs import ACROSS, ANSWER, BAD, CLOSER, KERNEL, RAISES, TWO, four, label, run

from kernel_agent import prompts
from kernel_agent.embedded import checkpoint_path
from kernel_agent.errors import InputError
from kernel_agent.models.tokens import joined, rendered_prompt
from kernel_agent.session import KernelPool
from kernel_agent.tasks.released import Problem
from kernel_agent.teacher.sft_folder import Generated, write_sft
from kernel_agent.types import Completion, ToolCall

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kernel_agent.models.local import embedded  # noqa: E402
from kernel_agent.train.dataset import gather  # noqa: E402
from kernel_agent.train.examples import IGNORED, Collator, Example, Writer, Written  # noqa: E402
from kernel_agent.train.runs import Run, files_of, places, read_notebook, read_run  # noqa: E402
from tests.models.tiny_model import build_tiny  # noqa: E402

SYSTEM = prompts.native_system()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformers.AutoProcessor.from_pretrained(build_tiny(tmp_path_factory.mktemp("tiny"), context=40_000))


@pytest.fixture(scope="module")
def own() -> Any:
    return transformers.AutoProcessor.from_pretrained(checkpoint_path())


def ends(processor: Any) -> list[int]:
    return [processor.tokenizer.eos_token_id]


def write(processor: Any, run: Run, limit: int = 100_000, **options: Any) -> Written:
    return Writer(processor, ends(processor), limit, **options).write(run)


def learned(processor: Any, example: Example) -> list[str]:
    """The stretches of an example that have labels."""
    out: list[list[int]] = []
    for index, (token, wanted) in enumerate(zip(example.ids, example.labels, strict=True)):
        if wanted != IGNORED:
            assert wanted == token
            if example.labels[index - 1] == IGNORED:
                out.append([])
            out[-1].append(int(token))
    return [processor.tokenizer.decode(ids) for ids in out]


async def test_a_run_token_by_token(tmp_path: Path, tiny: Any) -> None:
    path, _ = await run(tmp_path, [ACROSS, ANSWER])
    (example,) = write(tiny, read_notebook(path)).examples
    picture = "<fake_token_around_image><global-img><image><image><image><image><fake_token_around_image>"
    expected = [
        (f"<|system|>{SYSTEM}<end_of_utterance>\n", False),
        (f"<|user|>{picture}image_0: 120x80 px\nWhat is it?<end_of_utterance>\n<|assistant|>", False),
        (f"{ACROSS}<end_of_utterance>", True),
        (
            f"\n<|user|><tool_response>\n{picture}image_1: 80x120 px\n</tool_response><end_of_utterance>\n<|assistant|>",
            False,
        ),
        (f"{ANSWER}<end_of_utterance>", True),
    ]
    ids, labels = [], []
    for text, learn in expected:
        tokens = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += tokens
        labels += tokens if learn else [IGNORED] * len(tokens)
    assert example.ids.tolist() == ids
    assert example.labels.tolist() == labels
    assert example.steps == (0, 1)
    assert example.learned == sum(label != IGNORED for label in labels)


async def test_what_the_embedded_model_saw_is_what_it_is_trained_on(tmp_path: Path, own: Any) -> None:
    path, trajectory = await run(tmp_path, embedded(), images=[label("FR7PK").rotate(90, expand=True)])
    steps = trajectory.steps
    assert len(steps) >= 3
    written = write(own, read_notebook(path))
    (example,) = written.examples
    assert (written.seen, written.unseen) == (len(steps), 0)
    ids, labels = example.ids.tolist(), example.labels.tolist()
    at = 0
    for step in steps:
        start = next(index for index in range(at, len(ids)) if labels[index] != IGNORED)
        assert step.completion.prompt is not None
        assert (
            hashlib.sha256(struct.pack(f"<{start}I", *ids[:start])).hexdigest() == step.completion.prompt.tokens_sha256
        )
        sampled = [int(token) for token in step.completion.token_ids.split()]
        at = start + len(sampled)
        assert labels[start:at] == ids[start:at] == sampled
        assert sampled[-1] == own.tokenizer.eos_token_id
    assert at == len(ids)
    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint_path())
    with torch.inference_mode():
        out = model(**Collator(own)([example]))
        greedy = out.logits[0].argmax(-1)
    where = torch.tensor([index for index, label in enumerate(labels) if label != IGNORED])
    assert torch.equal(greedy[where - 1], torch.tensor(ids)[where])  # it wrote them greedily
    assert out.loss < 0.5


async def test_rows_are_their_notebooks_and_every_kind_is_there(tmp_path: Path, tiny: Any, own: Any) -> None:
    async with KernelPool(2, kernel=KERNEL) as pool:
        await write_sft(tmp_path / "sft", Generated(seed=3), 9, pool, notebooks=True)
    (file,) = files_of([tmp_path / "sft"])
    rows = [read_run(place) for place in places([file])]
    assert {row.kind for row in rows if isinstance(row, Run)} >= {
        "single-tool",
        "multi-tool",
        "error-recovery",
        "no-tool",
    }
    mistakes = 0
    for place, row in zip(places([file]), rows, strict=True):
        assert isinstance(row, Run)
        notebook = read_notebook(tmp_path / "sft" / "runs" / f"{place.row['id']}.ipynb")  # type: ignore[union-attr]
        for processor in (tiny, own):
            (one,), (other,) = write(processor, row).examples, write(processor, notebook).examples
            assert one.ids.tolist() == other.ids.tolist()
            assert one.labels.tolist() == other.labels.tolist()
            assert one.pictures == other.pictures
            assert [hashlib.sha256(view).hexdigest() for view in one.views()] == list(one.pictures)
        assert len(learned(tiny, one)) == len(row.exchanges)
        (without,) = write(own, row, skip_mistakes=True).examples
        assert len(learned(own, without)) == len(row.exchanges) - sum(one.mistake for one in row.exchanges)
        assert without.ids.tolist() == write(own, row).examples[0].ids.tolist()
        mistakes += sum(one.mistake for one in row.exchanges)
        if row.kind == "no-tool":
            assert len(row.exchanges) == 1
    assert mistakes


async def test_several_pictures_failures_and_no_tool(tmp_path: Path, tiny: Any) -> None:
    path, _ = await run(tmp_path, [BAD, RAISES, TWO, CLOSER, ANSWER], images=[four(), four((60, 90))])
    reading = read_notebook(path)
    (example,) = write(tiny, reading).examples
    assert learned(tiny, example) == [f"{text}<end_of_utterance>" for text in (BAD, RAISES, TWO, CLOSER, ANSWER)]
    assert len(example.pictures) == 2 + 3 + 1
    text = tiny.tokenizer.decode(example.ids)
    assert "AttributeError" in text
    assert "Nothing was run" in text
    (kept,) = write(tiny, reading, skip_mistakes=True).examples
    assert learned(tiny, kept) == [f"{text}<end_of_utterance>" for text in (TWO, CLOSER, ANSWER)]
    alone, _ = await run(tmp_path, [ANSWER], name="alone")
    assert learned(tiny, write(tiny, read_notebook(alone)).examples[0]) == [f"{ANSWER}<end_of_utterance>"]


async def test_a_run_is_cut_before_the_step_that_is_too_long(tmp_path: Path, tiny: Any) -> None:
    path, _ = await run(tmp_path, [ACROSS, CLOSER, ANSWER])
    reading = read_notebook(path)
    (whole,) = write(tiny, reading).examples
    starts = [
        index
        for index in range(1, len(whole.ids))
        if whole.labels[index] != IGNORED and whole.labels[index - 1] == IGNORED
    ]
    exact = write(tiny, reading, len(whole.ids))
    assert exact.left_out == ""
    cut = write(tiny, reading, len(whole.ids) - 1)
    (shorter,) = cut.examples
    assert cut.left_out == f"step 3: {len(whole.ids):,} tokens are more than {len(whole.ids) - 1:,}"
    assert shorter.ids.tolist() == whole.ids[: len(shorter.ids)].tolist()
    assert len(shorter.ids) < starts[2]
    assert learned(tiny, shorter) == learned(tiny, whole)[:2]
    assert Collator(tiny)([shorter])["pixel_values"].shape[1] == 2
    none = write(tiny, reading, 50)
    assert none.examples == ()
    assert none.left_out.startswith("all of it: ")


async def test_a_template_that_drops_thoughts_gives_an_example_a_step(tmp_path: Path) -> None:
    from tiny_qwen import THINKING, qwen_processor

    processor = qwen_processor(THINKING)
    path, _ = await run(tmp_path, [ACROSS, CLOSER, ANSWER])
    written = write(processor, read_notebook(path))
    assert [one.steps for one in written.examples] == [(0,), (1,), (2,)]
    for one, text in zip(written.examples, (ACROSS, CLOSER, ANSWER), strict=True):
        said = text.removeprefix("<think>")  # the prompt has opened it
        assert learned(processor, one) == [f"{said}<|im_end|>"]
        prompt = processor.tokenizer.decode(one.ids[: len(one.ids) - one.learned])
        assert prompt.endswith("<|im_start|>assistant\n<think>\n")
        assert prompt.count("</think>") == SYSTEM.count("</think>")  # no earlier thought
    assert "<tool_call>" in processor.tokenizer.decode(written.examples[2].ids).replace(SYSTEM, "")


async def test_ids_that_are_not_how_their_text_is_encoded_stay_as_sampled(tmp_path: Path, own: Any) -> None:
    path, _ = await run(tmp_path, [ACROSS, ANSWER])
    reading = read_notebook(path)
    (plain,) = write(own, reading).examples
    first = next(index for index in range(len(plain.ids)) if plain.labels[index] != IGNORED)
    apart = [own.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in ACROSS]
    sampled = Completion(
        text=ACROSS,
        token_ids=joined([*apart, own.tokenizer.eos_token_id]),
        prompt=rendered_prompt(plain.ids[:first].tolist(), None),
    )
    changed = replace(reading, exchanges=(replace(reading.exchanges[0], completion=sampled), reading.exchanges[1]))
    one, two = write(own, changed).examples
    assert one.ids.tolist() == [*plain.ids[:first].tolist(), *apart, own.tokenizer.eos_token_id]
    assert (one.steps, two.steps) == ((0,), (1,))
    assert two.ids.tolist() == plain.ids.tolist()  # what the next request was encoded to
    assert learned(own, two) == [f"{ANSWER}<end_of_utterance>"]
    other = replace(sampled, prompt=rendered_prompt([1, 2, 3], None))  # another model's ids mean nothing here
    changed = replace(reading, exchanges=(replace(reading.exchanges[0], completion=other), reading.exchanges[1]))
    assert write(own, changed).examples[0].ids.tolist() == plain.ids.tolist()
    assert write(own, changed).unseen == 1


async def test_an_image_token_in_text_is_broken_up_as_at_inference(tmp_path: Path, tiny: Any) -> None:
    said = ANSWER.replace("four colours", "an <image> of colours")
    path, _ = await run(
        tmp_path, [ACROSS.replace("It lies", "This <image> lies"), said], question="Is <image> an image?"
    )
    (example,) = write(tiny, read_notebook(path)).examples
    assert (example.ids == tiny.image_token_id).sum() == 2 * 4
    assert "< image> of colours" in learned(tiny, example)[1]
    Collator(tiny)([example])


async def test_tool_calls_are_written_by_the_template(tmp_path: Path, tiny: Any) -> None:
    arguments = json.dumps({"code": "result = image.rotate(90)", "description": "turn", "image_index": 0})
    calls = (ToolCall(id="c1", name="code_image_tool", arguments=arguments),)
    path, _ = await run(tmp_path, [Completion(text="I turn it.", tool_calls=calls), "four"], protocol="openai")  # type: ignore[list-item]
    (example,) = write(tiny, read_notebook(path)).examples
    assert tiny.tokenizer.decode(example.ids).startswith("<|tools|>")
    first, second = learned(tiny, example)
    assert first.startswith('I turn it.<tool_call>{"name": "code_image_tool", "arguments": {')
    assert first.endswith("</tool_call><end_of_utterance>")
    assert second == "four<end_of_utterance>"


def test_released_rows_are_retold_and_bad_ones_are_named(tmp_path: Path, tiny: Any) -> None:
    for index, size in enumerate(((120, 80), (80, 120))):
        four(size).save(tmp_path / f"{index}.png")
    done = "Here is the processed image. Now, analyze the returned results."
    row = {
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": ACROSS},
            {"from": "tool", "value": f"<image>{done}"},
            {"from": "gpt", "value": RAISES},
            {"from": "tool", "value": "Error: Code execution error: no spin"},
            {"from": "gpt", "value": ANSWER},
        ],
        "images": ["0.png", "1.png"],
        "system": "Other words.",
    }
    lost = {**row, "images": ["0.png", "missing.png"]}
    file = tmp_path / "codevision_sft.json"
    file.write_text(json.dumps([row, lost, {**row, "conversations": []}]))
    good, *bad = [read_run(place) for place in places(files_of([file]))]
    assert [str(one) for one in bad] == [
        f"{file}, row 1: the image file {tmp_path / 'missing.png'} does not exist",
        f"{file}, row 2: no conversations, or one without a reply",
    ]
    assert isinstance(good, Run)
    (example,) = write(tiny, good).examples
    text = tiny.tokenizer.decode(example.ids)
    assert SYSTEM in text
    assert "image_0: 120x80 px\nWhat is it?<end_of_utterance>" in text
    assert "image_1: 80x120 px\n</tool_response>" in text
    assert "<tool_response>\nError: Code execution error: no spin\n</tool_response>" in text
    assert "Here is" not in text
    assert "Other words" not in text
    assert good.kind == "tool"


def test_a_picture_that_is_cut_off_is_named_and_the_rest_is_read(tmp_path: Path, tiny: Any) -> None:
    four((300, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    said = [{"from": "human", "value": "<image>image_0: 300x200 px\nWhat is it?"}, {"from": "gpt", "value": ANSWER}]
    rows = [{"conversations": said, "images": [f"{name}.jpg"]} for name in ("whole", "cut", "whole")]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[tuple[str, int, int]] = []
    writer = Writer(tiny, ends(tiny), 10_000)
    data = gather([str(tmp_path)], writer, lambda *what: told.append(what), eval_share=0.02)
    (problem,) = data.problems
    assert str(problem).startswith(f"{tmp_path / 'sft.jsonl'}, row 1: it cannot be written as an example (")
    assert (len(data.train), len(data.held_out)) == (1, 1)
    assert told == [("reading", 1, 3), ("reading", 2, 3), ("reading", 3, 3)]
    assert data.about["left_out"] == [str(problem)]
    again = gather([str(tmp_path)], writer, lambda *what: None, eval_share=0.02)
    assert again.about == data.about
    assert (
        gather([str(tmp_path)], writer, lambda *what: None, limit=1).about["examples_sha256"]
        != data.about["examples_sha256"]
    )


def test_what_holds_no_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        files_of([tmp_path / "nothing"])
    with pytest.raises(InputError, match="no data file"):
        files_of([tmp_path])
    (tmp_path / "broken.ipynb").write_text("{")
    (problem,) = [read_run(place) for place in places(files_of([tmp_path]))]
    assert isinstance(problem, Problem)
    assert problem.file == str(tmp_path / "broken.ipynb")


def test_an_end_of_turn_that_ends_nothing_is_refused(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"'<end_of_utterance>.*eos_token_id of generation_config"):
        Writer(tiny, [1], 1000)


@pytest.mark.parametrize("family", ["idefics", "qwen"])
async def test_a_batch_is_its_examples(tmp_path: Path, tiny: Any, family: str) -> None:
    """Padding changes no logit of any example, whatever the number and size of its pictures."""
    from tiny_qwen import qwen_model, qwen_processor

    if family == "qwen":
        processor: Any = qwen_processor()
        model: Any = qwen_model(processor).eval()
    else:
        processor = tiny
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            build_tiny(tmp_path / "tiny", context=4096)
        ).eval()
    scripts = {"long": [ACROSS, CLOSER, ANSWER], "short": [ANSWER], "two": [RAISES, TWO, ANSWER]}
    examples = []
    for name, script in scripts.items():
        images = [four(), four((60, 90))] if name == "two" else [four()]
        path, _ = await run(tmp_path, script, name=name, images=images)
        examples += write(processor, read_notebook(path)).examples
    collator = Collator(processor)
    batch = collator(examples)
    assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
    if family == "qwen":
        assert batch["image_grid_thw"].shape == (sum(len(one.pictures) for one in examples), 3)
        assert int((batch["mm_token_type_ids"] == 1).sum()) == int(
            (batch["input_ids"] == processor.image_token_id).sum()
        )
    with torch.inference_mode():
        together = model(**batch)
        for row, example in enumerate(examples):
            alone = collator([example])
            length = len(example.ids)
            assert alone["input_ids"][0].tolist() == example.ids.tolist()
            assert batch["labels"][row, :length].tolist() == example.labels.tolist()
            assert set(batch["labels"][row, length:].tolist()) <= {IGNORED}
            assert torch.allclose(together.logits[row, :length], model(**alone).logits[0], atol=2e-4)


async def test_a_picture_that_changed_is_found(tmp_path: Path, tiny: Any) -> None:
    async with KernelPool(1, kernel=KERNEL) as pool:
        await write_sft(tmp_path / "sft", Generated(seed=3), 1, pool)
    (place,) = places(files_of([tmp_path / "sft"]))
    reading = read_run(place)
    assert isinstance(reading, Run)
    (example,) = write(tiny, reading).examples
    picture = next((tmp_path / "sft" / "images").iterdir())
    Image.new("RGB", (9, 9)).save(picture)
    with pytest.raises(InputError, match="pictures have changed"):
        Collator(tiny)([example])
    picture.unlink()
    with pytest.raises(InputError, match=r"row 0: it can no longer be read \(.*does not exist.*put it back"):
        Collator(tiny)([example])


def test_what_is_not_installed_is_said_before_anything_is_read(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['accelerate'] = None; from kernel_agent.cli import main\n"
        f"sys.argv = ['codevision', 'train', 'sft', '--data', 'x', '--model', 'embedded', '--out', {str(tmp_path / 'out')!r}]\nmain()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("codevision: ")
    assert "pip install 'kernel-agent[train]'" in ran.stderr
    assert "Traceback" not in ran.stderr
