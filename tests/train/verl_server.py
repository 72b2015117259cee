"""A server for verl's agent loops that says what a script says, and tells what it was asked."""

from __future__ import annotations

import json
from typing import Any

TURN = {
    "code": "print('<|image' + '_pad|>')\nresult = image.rotate(90, expand=True)",
    "description": "turn",
    "image_index": 0,
}
FAIL = {"code": "1 / 0", "description": "fails", "image_index": 0}


def calls(arguments: dict[str, Any]) -> str:
    return f"<think>\nHm.\n</think><tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call><|im_end|>"


SCRIPTS = (
    (
        calls(TURN),
        "<think>\nI cannot read it, so I go on and",
        "<think>\nNow.\n</think><answer>ANSWER</answer><|im_end|>",
    ),
    (calls(FAIL), "<think>\nSo.\n</think><answer>wrong</answer><|im_end|>"),
    (calls({**TURN, "description": "turn again"}),) * 9,  # until there is no room
)
"""What the rollouts of a prompt say, one after another. The second message of the first is cut: it has no end token."""


class Says:
    """As verl's servers: `generate`. Rollouts are told from each other by what they said before."""

    def __init__(self, path: str, answers: dict[str, str]) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._answers = answers
        self._begun: dict[str, int] = {}
        self.asked: list[dict[str, Any]] = []

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], image_data: Any = None, **_: Any
    ) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        text = self._tokenizer.decode(prompt_ids)
        answer = next((answer for question, answer in self._answers.items() if question in text), None)
        if answer is None:
            raise RuntimeError("the server is out of order")
        said = text.split("<|im_start|>assistant\n")[1:-1]
        if said:
            (script,) = (one for one in SCRIPTS if said[0].startswith(one[0]))
        else:
            self._begun[text] = self._begun.get(text, -1) + 1
            script = SCRIPTS[self._begun[text]]
        message = script[len(said)].replace("ANSWER", answer)
        ids = self._tokenizer(message, add_special_tokens=False).input_ids[: sampling_params["max_tokens"]]
        self.asked.append(
            {"prompt": list(prompt_ids), "images": len(image_data or []), "sampling": sampling_params, "said": ids}
        )
        return TokenOutput(
            token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields={"global_steps": 7}
        )

    def told(self) -> list[dict[str, Any]]:
        return self.asked
