"""The family that real trainings use: a tiny random Qwen3-VL, whose messages are put in the place of what it samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kernel_agent import KernelPool
from kernel_agent.tasks.generate import Series
from kernel_agent.tasks.generated_folder import write_dataset
from kernel_agent.train.grpo import GRPO, build_trainer
from kernel_agent.train.lessons import read_lessons
from kernel_agent.train.scoring import Scoring
from kernel_agent.types import Request

pytestmark = pytest.mark.train

CALL = {
    "code": "print('<|image' + '_pad|>')\nresult = image.rotate(90, expand=True)",
    "description": "turn",
    "image_index": 0,
}
SAID = (
    f"<think>\nIt lies.\n</think><tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': CALL})}</tool_call><|im_end|>",
    "<think>\nI cannot read it, so I go on and",  # cut: no end token
    "<think>\nNow.\n</think><answer>AB1</answer><|im_end|>",
)


def saying(model: Any, tokenizer: Any, messages: Sequence[str] = SAID) -> None:
    """The model samples as it does; what it says is replaced by `messages`, one a round."""
    import torch

    own, rounds = model.generate, iter(messages)

    def generate(**inputs: Any) -> Any:
        own(**inputs)
        ids = tokenizer(next(rounds), add_special_tokens=False, return_tensors="pt").input_ids
        return torch.cat([inputs["input_ids"], ids.expand(len(inputs["input_ids"]), -1)], 1)

    model.generate = generate


@pytest.mark.parametrize("lora", [None, 4])
def test_a_qwen_sees_what_its_agent_would(tmp_path: Path, lora: int | None) -> None:
    import torch

    from kernel_agent.models.generate import Loaded
    from tests.train.tiny_qwen import qwen_model, qwen_processor

    write_dataset(tmp_path / "tasks", Series.READING, 2, 5, workers=1)
    lessons, _ = read_lessons(tmp_path / "tasks")
    options = GRPO(batch=2, rollouts=2, micro_batch=2, turn_tokens=40, tokens=2400, kl=0.0, lora=lora)
    (model, processor), agents = (qwen_model(qwen_processor()), qwen_processor()), qwen_processor()
    with KernelPool(4, warm=0) as pool:
        scoring = Scoring(options.rewards, tmp_path / "rollouts.jsonl")
        trainer = build_trainer("tiny", lessons, options, tmp_path, pool, scoring, parts=(model, processor))
        assert trainer.generation_config.suppress_tokens == sorted(
            processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
        )
        saying(trainer.model, processor.tokenizer)
        for environment in trainer._environment_pool.values():
            assert len(environment) == 1  # trl makes the others when it needs them
        trainer.model.train()
        made = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
        assert pool.metrics.leased == 0
    loaded = Loaded(model=model, processor=agents, about={})
    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], 1)
    mask = torch.cat([made["prompt_mask"], made["completion_mask"]], 1).bool()
    pictures = {name: made[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    with torch.no_grad():
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask.long(), made["completion_ids"].shape[1], batch_size=2, **pictures
        )
    pad, features = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>"), made["image_grid_thw"].prod(1) // 4
    first = 0
    for row, environment in enumerate(trainer.environments):
        run = environment.rollout.trajectory
        assert run.answer == "AB1"
        assert len(run.steps) == 3
        learned = made["completion_ids"][row][(made["completion_mask"] * made["tool_mask"])[row].bool()].tolist()
        assert learned == [int(token) for step in run.steps for token in step.completion.token_ids.split()]
        messages: tuple[Any, ...] = ()
        for step in run.steps:
            messages += step.new_messages
            inputs, prompt = loaded._inputs(Request(messages=messages), [])
            assert step.completion.prompt.tokens_sha256 == prompt.tokens_sha256, f"rollout {row}, step {step.index}"
        count = made["num_images"][row]
        assert count == 2
        assert (ids[row] == pad).sum() == features[first : first + count].sum()
        first += count
        whole = ids[row][mask[row]][None]
        with torch.inference_mode():
            kinds = (whole == pad).long()
            alone = model(
                input_ids=whole, pixel_values=inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"], mm_token_type_ids=kinds
            ).logits[0, :-1]  # fmt: skip
        expected = torch.log_softmax(alone.float(), -1).gather(1, whole[0][1:, None])[:, 0]
        length = int(made["completion_mask"][row].sum())
        torch.testing.assert_close(logps[row, :length], expected[-length:], atol=1e-4, rtol=1e-4)


def test_the_environment_serves_an_unchanged_trainer(tmp_path: Path) -> None:
    """TRL's own loop and parser: its tool calls run in the kernel, and its last message is the rollout's answer."""
    import trl
    from datasets import Dataset

    from kernel_agent import Agent
    from kernel_agent.train.environment import Environment, reward_functions
    from tests.train.tiny_qwen import qwen_model, qwen_processor

    write_dataset(tmp_path / "tasks", Series.READING, 1, 5, workers=1)
    lessons, _ = read_lessons(tmp_path / "tasks")
    (name, lesson), *_ = lessons.items()
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3_vl.jinja").read_text()
    processor = qwen_processor(template)
    args = trl.GRPOConfig(
        str(tmp_path / "trl"), num_generations=2, per_device_train_batch_size=2, max_completion_length=900, bf16=False, use_cpu=True,
        generation_kwargs={"max_new_tokens": 8}, report_to=[], gradient_checkpointing=False,
    )  # fmt: skip
    with KernelPool(2, warm=0) as pool:
        scoring = Scoring("default", tmp_path / "rollouts.jsonl")
        trainer = trl.GRPOTrainer(
            model=qwen_model(processor),
            args=args,
            processing_class=processor,
            train_dataset=Dataset.from_list([{"id": name, "prompt": [{"role": "user", "content": ""}]}]),
            reward_funcs=reward_functions(scoring, 2),
            environment_factory=lambda: Environment(lessons, lambda run: Agent(run, pool=pool)),
        )
        answer = f"<answer>{lesson.truth.answers[0]}</answer><|im_end|>"
        call = json.dumps(
            {"name": "code_image_tool", "arguments": {**CALL, "code": "result = image.rotate(90, expand=True)"}}
        )
        saying(trainer.model, processor.tokenizer, (f"<tool_call>\n{call}\n</tool_call><|im_end|>", answer))
        trainer.model.train()
        made = trainer._generate_and_score_completions([trainer.train_dataset[0]] * 2)
        assert pool.metrics.leased == 0
        for environment in trainer.environments:
            run = environment.rollout.trajectory
            assert [step.cell.status if step.cell else None for step in run.steps] == ["ok", None]
            assert environment.score["answer"].value == 1
    assert made["num_images"] == [2, 2]
