"""An `Evaluation` through inspect_ai: its logs, viewer, retries and limits. Needs `kernel-agent[eval]`.

One inspect task a column. The solver is our own: it runs the agent (inspect's generate loop would move tool images into a
user message and so measure another prompt) and puts the conversation, the answer and the tokens into the log; pictures are
in the notebook that each sample's score links to. Works with inspect's default asyncio backend.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset
from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from kernel_agent.benchmarks.evaluation import Evaluation
from kernel_agent.benchmarks.results import Column, Result
from kernel_agent.errors import ModelFailed
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import ImagePart, Message


@modelapi(name="codevision")
class AskedByTheSolver(ModelAPI):
    """Stands in the log for the agent's model: `codevision/NAME`. The solver asks the real one."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)

    async def generate(self, input: Any, tools: Any, tool_choice: Any, config: GenerateConfig) -> ModelOutput:
        """Never called by our tasks."""
        raise ModelFailed("This model is asked by the agent's own solver: use it with the tasks of kernel_agent only.")


def run(evaluation: Evaluation, *, display: Any = "rich", retries: int = 1) -> int:
    """Run what is not finished; every sample is in the new logs. A run that fails is tried `retries` more times.

    Returns how many failed. The logs lie in `logs` under the evaluation's folder (`inspect view --log-dir DIR/logs`).
    Raises KeyboardInterrupt where it was ended early.
    """
    logs: list[EvalLog] = eval(
        [task(evaluation, column) for column in evaluation.columns],
        model=f"codevision/{evaluation.settings['model'] or 'served'}",
        display=display,
        log_dir=str(evaluation.out / "logs"),
        max_samples=evaluation.at_once,
        max_tasks=len(evaluation.columns),
        fail_on_error=False,
        retry_on_error=retries,
        log_level="warning",
        score_display=False,
    )
    failed = sum(sample.error is not None for log in logs for sample in log.samples or ())
    if evaluation.left > failed:  # inspect ends quietly on Ctrl-C
        raise KeyboardInterrupt
    return failed


def task(evaluation: Evaluation, column: Column) -> Task:
    """One column as an inspect task."""
    samples = [
        InspectSample(
            id=sample.id,
            input=evaluation.benchmark.prompt(sample),
            target=sample.gold if isinstance(sample.gold, list) else str(sample.gold),
            metadata={"category": sample.category},
        )
        for sample in evaluation.loaded.samples
    ]
    name = f"{evaluation.benchmark.NAME}_{column.name.replace('/', '_').replace('-', '_')}"
    return Task(
        name=name,
        dataset=MemoryDataset(samples, name=evaluation.benchmark.NAME),
        solver=_solver(evaluation, column),
        scorer=_scorer(),
        metadata={"column": column.name, **evaluation.settings},
    )


def _solver(evaluation: Evaluation, column: Column) -> Solver:
    @solver(name="kernel_agent")
    def kernel_agent() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            result, trajectory = await evaluation.run(column, evaluation.samples[str(state.sample_id)])
            if trajectory is None:
                trajectory = await asyncio.to_thread(_kept, evaluation.out / result.notebook)
            if trajectory is not None:
                state.messages = [_message(message) for message in trajectory.messages]
            state.output = _output(result, str(state.model))
            state.metadata["result"] = {
                "score": result.score,
                "answer": result.answer,
                "notebook": str(evaluation.out.resolve() / result.notebook),
                "stop_reason": result.stop_reason,
                "steps": result.steps,
                "errors": result.errors,
                "recovered": result.recovered,
                "seconds": result.seconds,
            }
            state.completed = True
            return state

        return solve

    return kernel_agent()


def _kept(notebook: Path) -> Trajectory | None:
    """The trajectory of a run finished before, for the log; the result counts without it."""
    return Trajectory.load(notebook) if notebook.is_file() else None


def _scorer() -> Scorer:
    @scorer(metrics=[mean(), stderr()], name="official")
    def official() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            result = state.metadata["result"]
            return Score(
                value=result["score"],
                answer=result["answer"] or "",
                explanation=f"{result['stop_reason']} after {result['steps']} steps: {result['notebook']}",
                metadata=result,
            )

        return score

    return official()


def _output(result: Result, model: str) -> ModelOutput:
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=ChatMessageAssistant(content=result.answer or ""), stop_reason="stop")],
        usage=ModelUsage(
            input_tokens=result.prompt_tokens,
            output_tokens=result.completion_tokens,
            total_tokens=result.prompt_tokens + result.completion_tokens,
            input_tokens_cache_read=result.cached_tokens,
        ),
        time=result.model_seconds,
    )


def _message(message: Message) -> ChatMessage:
    pieces = [
        f"[{part.image.name}, {part.image.view_size[0]}x{part.image.view_size[1]}]\n"
        if isinstance(part, ImagePart)
        else part.text
        for part in message.content
    ]
    pieces += [f"\n{call.name}({call.arguments})" for call in message.tool_calls]
    text = "".join(pieces)
    if message.role == "system":
        return ChatMessageSystem(content=text)
    if message.role == "assistant":
        return ChatMessageAssistant(content=text)
    if message.role == "tool":
        return ChatMessageTool(content=text, tool_call_id=message.tool_call_id)
    return ChatMessageUser(content=text)
