from __future__ import annotations

import json
from typing import Any

import pytest

from kernel_agent.errors import InputError
from kernel_agent.protocols import PROTOCOLS, get_protocol
from kernel_agent.types import Answer, Completion, Malformed, RunCode, TextPart, ToolCall, Usage


def call(**arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


GOOD = call(code="result = image", description="look", image_index=1)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (f"<think>hm</think>{GOOD}", RunCode(code="result = image", description="look", image_index=1)),
        ("<think>hm</think><answer> 42 </answer>", Answer(text="42")),
        ("already open thought</think><answer>42</answer>", Answer(text="42")),
        ("<think>never closed <answer>42</answer>", Answer(text="42")),
        ("<answer>서울</answer>", Answer(text="서울")),
        (GOOD.replace("</tool_call>", ""), RunCode(code="result = image", description="look", image_index=1)),
        (call(code="x", image_index="0"), RunCode(code="x", image_index=0)),
    ],
)
def test_native_reads(text: str, action: object) -> None:
    assert get_protocol("native").parse(Completion(text=text), images=2).action == action


def test_native_takes_raw_newlines_in_json() -> None:
    text = '<tool_call>{"name": "code_image_tool", "arguments": {"code": "a = 1\nb = 2", "description": "", "image_index": 0}}'
    assert get_protocol("native").parse(Completion(text=text), images=1).action == RunCode(
        code="a = 1\nb = 2", image_index=0
    )


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("I think it is a cat.", "neither a call nor an answer", "<tool_call>"),
        ("", "neither a call nor an answer", "<answer>"),
        ("<answer></answer>", "neither", "<answer>"),
        ("<think>the answer is <answer>42</answer></think>", "neither", "<answer>"),
        ('<tool_call>{"name": "code_image_tool", </tool_call>', "cannot be read", "JSON string"),
        (GOOD + GOOD, "2 calls", "one call a message"),
        (GOOD + "<answer>42</answer>", "a call and an answer", "only one"),
        ('<tool_call>{"name": "other", "arguments": {}}</tool_call>', "does not name", "code_image_tool"),
        (call(code="x", image_index=9), "`image_index` 9 does not exist", "0 to 1"),
        (call(code="x", image_index=-1), "does not exist", "0 to 1"),
        (call(code="x", image_index=True), "not a whole number", "image_index"),
        (call(code="x"), "null, not a whole number", "image_index"),
        (call(image_index=0), "no `code` string", "code"),
        (call(code="  ", image_index=0), "no `code` string", "code"),
        (call(code=["x"], image_index=0), "no `code` string", "code"),
    ],
)
def test_native_says_what_is_wrong_and_what_to_write(text: str, problem: str, remedy: str) -> None:
    action = get_protocol("native").parse(Completion(text=text), images=2).action
    assert isinstance(action, Malformed)
    assert problem in action.problem
    assert remedy in action.remedy


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_message_cut_by_its_limit_is_no_action(name: str) -> None:
    completion = Completion(text="<answer>half an ans", finish_reason="length", usage=Usage(completion_tokens=77))
    action = get_protocol(name).parse(completion, images=1).action
    assert isinstance(action, Malformed)
    assert "77 tokens" in action.problem


def test_openai_calls() -> None:
    protocol = get_protocol("openai")
    arguments = json.dumps({"code": "1", "description": "d", "image_index": 0})
    first = ToolCall(id="a", name="code_image_tool", arguments=arguments)
    assert protocol.parse(Completion(text="", tool_calls=(first,)), images=1).action == RunCode(
        code="1", description="d", image_index=0, call_id="a"
    )
    two = Completion(text="", tool_calls=(first, ToolCall(id="b", name="code_image_tool", arguments=arguments)))
    assert isinstance(protocol.parse(two, images=1).action, Malformed)
    replies = protocol.observe(two, (TextPart(text="no"),))
    assert [(reply.role, reply.tool_call_id) for reply in replies] == [("tool", "a"), ("tool", "b")]
    other = Completion(text="", tool_calls=(ToolCall(id="a", name="search", arguments="{}"),))
    assert isinstance(protocol.parse(other, images=1).action, Malformed)
    assert protocol.parse(Completion(text="It is 42."), images=1).action == Answer(text="It is 42.")
    assert isinstance(protocol.parse(Completion(text=" "), images=1).action, Malformed)


@pytest.mark.parametrize("name", ["pyvision", "deepeyes", "thyme"])
def test_code_tags(name: str) -> None:
    protocol = get_protocol(name)
    stopped = Completion(text="<think>look</think><code>\n```python\nprint(1)\n```\n", finish_reason="stop")
    parsed = protocol.parse(stopped, images=1)
    assert parsed.thought == "look"
    assert isinstance(parsed.action, RunCode)
    assert parsed.action.code.strip() == "print(1)"
    (part,) = protocol.reply(stopped).content
    assert isinstance(part, TextPart)
    assert part.text.endswith("</code>")
    assert protocol.parse(Completion(text=r"<answer>\boxed{7}</answer>"), images=1).action == Answer(text="7")
    assert isinstance(protocol.parse(Completion(text="hello"), images=1).action, Malformed)
    assert isinstance(protocol.parse(Completion(text="<code>a</code><code>b</code>"), images=1).action, Malformed)


def test_fenced() -> None:
    protocol = get_protocol("fenced")
    parsed = protocol.parse(Completion(text="Let me look.\n```python\nx = '<answer>'\nprint(x)\n```"), images=1)
    assert parsed.action == RunCode(code="x = '<answer>'\nprint(x)\n")
    assert parsed.thought == "Let me look."
    two = "```python\na\n```\nand\n```python\nb\n```"
    assert isinstance(protocol.parse(Completion(text=two), images=1).action, Malformed)
    assert protocol.parse(Completion(text="<answer>x</answer>"), images=1).action == Answer(text="x")


def test_unknown_protocol_lists_the_known() -> None:
    with pytest.raises(InputError, match="native"):
        get_protocol("nope")


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_system_prompts_name_the_first_image_or_the_tool(name: str) -> None:
    protocol = get_protocol(name)
    assert protocol.names(0) in protocol.system() or "image_index" in protocol.system() or protocol.tools


def test_tags_inside_code_are_code() -> None:
    protocol = get_protocol("native")
    for code in ("# look for <answer>\nprint(1)", "t = '<think>secret</think>'", "t = '</think>'"):
        parsed = protocol.parse(Completion(text=f"<think>a</think>{call(code=code, image_index=0)}"), images=1)
        assert parsed.action == RunCode(code=code, image_index=0)
        assert parsed.thought == "a"
    parsed = get_protocol("pyvision").parse(Completion(text="<code>\nx = '<answer>1</answer>'\n</code>"), images=1)
    assert isinstance(parsed.action, RunCode)


def test_a_call_inside_a_thought_is_thought() -> None:
    parsed = get_protocol("native").parse(Completion(text=f"<think>maybe {GOOD}</think><answer>5</answer>"), images=2)
    assert parsed.action == Answer(text="5")
