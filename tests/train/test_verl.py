"""verl's own agent-loop workers, load balancer, client, Continuous Token builder and TransferQueue, in a real Ray.

In the place of vLLM stands a server that says what a script says (verl_server.py), and tells what it was asked.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kernel_agent import Trajectory
from kernel_agent.errors import InputError
from kernel_agent.rewards import Rewards, score_group
from kernel_agent.tasks.dataset import read_task
from kernel_agent.tasks.generate import Series
from kernel_agent.tasks.generated_folder import write_dataset
from kernel_agent.train.scoring import COMPONENTS

pytestmark = pytest.mark.verl

ROOT = Path(__file__).parents[2]
COMMON = (
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.n=3",
    "actor_rollout_ref.rollout.agent.num_workers=2",
    "data.custom_cls.path=pkg://kernel_agent.train.verl_agent",
    "data.custom_cls.name=Tasks",
    "data.max_prompt_length=4000",
    "data.max_response_length=2400",
    "transfer_queue.enable=True",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
)


def composed(*overrides: str) -> Any:
    import verl
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Three rollouts of each of two prompts as verl's trainer gets them, the last states of all prompts, and what was asked and kept."""

    rollouts: list[dict[str, Any]]
    states: dict[str, str]
    asked: list[dict[str, Any]]
    out: Path
    left: list[str]

    def runs(self) -> list[Trajectory]:
        """Of the rollouts, in their order."""
        tasks = {read_task(file).question: file.parent for file in self.out.glob("notebooks/*/*/task.json")}
        folders = {row["uid"]: tasks[row["question"]] for row in self.rollouts}
        return [Trajectory.load(folders[row["uid"]] / f"rollout-{row['number']}.ipynb") for row in self.rollouts]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    os.environ["VERL_USE_EXTERNAL_MODULES"] = "tests.train.tiny_qwen"
    import numpy as np
    import psutil
    import ray
    import torch
    import transfer_queue as tq
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ
    from verl.utils import tensordict_utils as tu
    from verl.utils.dataset.rl_dataset import collate_fn
    from verl.workers.rollout.llm_server import LLMServerClient
    from verl.workers.rollout.router import GlobalRequestLoadBalancer

    from tests.train.tiny_qwen import save
    from tests.train.verl_server import Says

    out = tmp_path_factory.mktemp("verl")
    write_dataset(out / "tasks", Series.READING, 4, 5, workers=1)
    processor = save(out / "model")
    loop = {
        "name": "codevision",
        "_target_": "kernel_agent.train.verl_agent.CodeVisionLoop",
        "records": str(out / "records"),
    }
    OmegaConf.save(
        [{**loop, "notebooks": str(out / "notebooks"), "turn_tokens": 400, "isolation": "medium"}],
        out / "codevision.yaml",
    )
    config = composed(
        *COMMON,
        f"actor_rollout_ref.model.path={out / 'model'}",
        f"data.train_files={out / 'tasks'}",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={out / 'codevision.yaml'}",
    )
    environment = {"PYTHONPATH": str(ROOT), "VERL_USE_EXTERNAL_MODULES": "tests.train.tiny_qwen"}
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": environment})
    try:
        tq.init(config.transfer_queue)
        dataset = create_rl_dataset(config.data.train_files, config.data, processor.tokenizer, processor, max_samples=3)
        assert len(dataset) == 3
        rows = collate_fn([dataset[0], dataset[1], dataset[2]])
        answers = {lesson.truth.question: lesson.truth.answers[0] for lesson in rows["lesson"][:2]}
        server = ray.remote(Says).options(max_concurrency=16).remote(str(out / "model"), answers)
        balancer = ray.remote(GlobalRequestLoadBalancer).remote({"only": server})
        rows["uid"] = np.array(["first", "second", "third"], dtype=object)
        prompts = tu.get_tensordict(rows)
        tu.assign_non_tensor_data(prompts, "global_steps", 7)
        manager = AgentLoopManagerTQ.create(config=config, llm_client=LLMServerClient(config, balancer))
        manager.generate_sequences(prompts)
        deadline = time.monotonic() + 240
        tags: dict[str, Any] = {}
        while sum(tags.get(uid, {}).get("status") in ("finished", "failure") for uid in rows["uid"]) < 3:
            assert time.monotonic() < deadline, tags
            time.sleep(0.2)
            tags = tq.kv_list(partition_id="train")["train"]
        keys = sorted(key for key in tags if key.startswith(("first_", "second_")))
        made = tq.kv_batch_get(keys=keys, partition_id="train")
        asked = ray.get(server.told.remote())
        questions = dict(zip(rows["uid"], (lesson.truth.question for lesson in rows["lesson"]), strict=True))
        rollouts = [
            {name: value[row] for name, value in made.items() if isinstance(value, torch.Tensor)}
            | {name: made[name][row] for name in ("multi_modal_inputs", "extra_fields")}
            | {"uid": key.split("_")[0], "number": int(key.split("_")[1]), "question": questions[key.split("_")[0]]}
            for row, key in enumerate(keys)
        ]
        below = psutil.Process().children(recursive=True)
        tq.close()
    finally:
        ray.shutdown()
    _, left = psutil.wait_procs(below, timeout=60)
    return Batch(
        rollouts=rollouts,
        states={uid: tags[uid]["status"] for uid in rows["uid"]},
        asked=asked,
        out=out,
        left=[str(process) for process in left],
    )


def test_a_rollout_that_breaks_holds_nobody_up(batch: Batch) -> None:
    """The server fails at the third prompt's rollouts, whose group is given up; and all kernels have ended with verl."""
    assert batch.states == {"first": "finished", "second": "finished", "third": "failure"}
    assert len(batch.rollouts) == 6
    assert not batch.left


def test_what_was_sampled_is_what_is_trained_on(batch: Batch) -> None:
    said = {tuple(one["said"]) for one in batch.asked}
    for row, run in zip(batch.rollouts, batch.runs(), strict=True):
        mask = row["response_mask"].bool()
        learned = row["responses"][mask].tolist()
        assert learned == [int(token) for step in run.steps for token in step.completion.token_ids.split()]
        assert all(tuple(map(int, step.completion.token_ids.split())) in said for step in run.steps)
        assert row["rollout_log_probs"][mask].eq(-0.5).all()
        assert row["rollout_log_probs"][~mask].eq(0).all()
    ways = [
        [str(step.cell.status) if step.cell else type(step.action).__name__ for step in run.steps]
        for run in batch.runs()
    ]
    assert ways.count(["error", "Answer"]) == ways.count(["ok", "Malformed", "Answer"]) == 2
    assert {run.isolation for run in batch.runs()} == {"medium"}
    full = [run for run in batch.runs() if run.stop_reason == "model_error"]
    assert len(full) == 2
    assert all(len(run.steps) > 2 for run in full)


def test_imitation_reads_the_same(batch: Batch) -> None:
    """A rollout's notebook, written for `train sft`: the ids, the learned places and the pictures that verl trains on."""
    import torch

    from kernel_agent.train.examples import IGNORED, Collator, Writer
    from kernel_agent.train.runs import read_notebook
    from tests.train.tiny_qwen import qwen_processor

    processor = qwen_processor()
    writer = Writer(processor, [processor.tokenizer.eos_token_id], 100_000)
    files = {Trajectory.load(file).run_id: file for file in batch.out.rglob("rollout-*.ipynb")}
    for row, run in zip(batch.rollouts, batch.runs(), strict=True):
        written = writer.write(read_notebook(files[run.run_id]))
        assert not written.left_out
        assert (written.seen, written.unseen) == (len(run.steps), 0)
        (example,) = written.examples
        assert example.ids.tolist() == row["input_ids"].tolist()
        learned = torch.cat([torch.zeros_like(row["prompts"]), row["response_mask"]]).bool()
        assert (example.labels != IGNORED).tolist() == learned.tolist()
        tensors = Collator(processor)([example])
        for name in ("pixel_values", "image_grid_thw"):
            torch.testing.assert_close(row["multi_modal_inputs"][name], tensors[name])


def test_rewards_are_those_of_the_notebooks(batch: Batch) -> None:
    folders = {file.parent for file in batch.out.rglob("rollout-*.ipynb")}
    assert len(folders) == 2
    by_run = {run.run_id: row for row, run in zip(batch.rollouts, batch.runs(), strict=True)}
    for folder in folders:
        runs = [Trajectory.load(file) for file in sorted(folder.glob("rollout-*.ipynb"))]
        scores = score_group(read_task(folder / "task.json"), runs, Rewards.DEFAULT)
        assert sum(score.verdict.correct for score in scores) == 1
        for run, score in zip(runs, scores, strict=True):
            row = by_run[run.run_id]
            assert row["rm_scores"][-1].item() == pytest.approx(score.total)
            assert not row["rm_scores"][:-1].any()
            told = row["extra_fields"]["reward_extra_info"]
            assert set(told) == {"correct", *COMPONENTS[Rewards.DEFAULT]}
            assert sum(told[name] for name in COMPONENTS[Rewards.DEFAULT]) == pytest.approx(score.total)
            assert row["extra_fields"]["max_global_steps"] == 7


def test_nothing_is_asked_beyond_the_limits(batch: Batch) -> None:
    for row in batch.rollouts:
        assert len(row["responses"]) <= 2400
    assert all(one["sampling"]["max_tokens"] <= 400 for one in batch.asked)
    assert all(one["sampling"]["temperature"] == 1.0 for one in batch.asked)


def test_the_documented_command_is_a_valid_configuration() -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    text = (ROOT / "docs" / "training-verl.md").read_text()
    command = re.search(r"python -m verl.trainer.main_ppo(.*?)```", text, re.DOTALL)
    assert command is not None
    config = composed(*shlex.split(command[1].replace("\\\n", " ")))
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    assert config.algorithm.adv_estimator == "grpo"


async def test_the_old_trainer_is_refused(tmp_path: Path) -> None:
    from kernel_agent.train.verl_agent import CodeVisionLoop

    with pytest.raises(InputError, match="use_v1"):
        await CodeVisionLoop.run(object.__new__(CodeVisionLoop), {}, uid="one")
