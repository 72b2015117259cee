import json
from pathlib import Path

import pytest
from making import cell_step, kernel_image, noise, text_message

from kernel_agent.redact import REDACTED, redact, redact_text
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Completion, Event, StopReason

SECRETS = [
    "s3cr3t-Value-1",
    "sk-proj-abcdefghijklmnop1234",
    "hf_abcdefghijklmnopqrst",
    "ghp_abcdefghijklmnopqrst12",
    "AKIAABCDEFGHIJKLMNOP",
]


@pytest.mark.parametrize(
    "name",
    ["api_key", "apiKey", "API-KEY", "Authorization", "x-api-key", "password", "client_secret", "OPENAI_API_KEY",
     "access_token", "token", "HF_TOKEN", "Set-Cookie", "proxy-authorization", "credentials", "private_key"],
)  # fmt: skip
def test_values_by_name(name: str) -> None:
    assert redact({"a": [{name: "s3cr3t"}]}) == {"a": [{name: REDACTED}]}
    assert redact({name: None}) == {name: None}


@pytest.mark.parametrize(
    "value",
    [
        {
            "max_tokens": 5,
            "prompt_tokens": 7,
            "token_limit": "reached",
            "tokens": [1, 2],
            "keys": ["a"],
            "author": "me",
        },
        {"monkey": "x", "base_url": "http://127.0.0.1:8000/v1", "text": "the secret is out: basic facts about keys"},
        {"token": 5, "author": "A. Uthor", "path": "a@b"},
    ],
)
def test_innocent_values_stay(value: object) -> None:
    assert redact(value) == value


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://user:pw@host/v1?x=1", f"http://{REDACTED}@host/v1?x=1"),
        ("see https://tok3n@host/a", f"see https://{REDACTED}@host/a"),
        ("https://h/i.png?X-Amz-Signature=abc&w=2", f"https://h/i.png?X-Amz-Signature={REDACTED}&w=2"),
        ("Authorization: Bearer abcdef123", f"Authorization: Bearer {REDACTED}"),
        ("Incorrect API key provided: sk-abcdefghijklmnop.", f"Incorrect API key provided: {REDACTED}."),
        ('{"api_key": "abcd1234"}', f'{{"api_key": "{REDACTED}"}}'),
        ("password=hunter22, ok", f"password={REDACTED}, ok"),
    ],
)
def test_texts(text: str, clean: str) -> None:
    assert redact_text(text) == clean
    assert redact_text(clean) == clean


def test_no_secret_reaches_the_disk(tmp_path: Path) -> None:
    header = {
        "model": {"api_key": SECRETS[0], "base_url": f"https://me:{SECRETS[0]}@host/v1", "headers": {"Authorization": "x" + SECRETS[0]}},
        "environ": {"A": SECRETS[1]},
    }  # fmt: skip
    source = f"http://u:{SECRETS[0]}@h/x.png"
    image = kernel_image(0, noise(9, 9), source=source)
    t = Trajectory.start(images=[image], header=header)
    t.record_to(tmp_path / "run.ipynb")
    t.begin_turn("?")
    event = Event(kind="retry", time=1.0, data={"error": "401 " + " ".join(SECRETS[1:]), "api_key": SECRETS[0]})
    t.add_event(event)
    step = cell_step(0, "1", events=[event], new_messages=[text_message("user", "?", images=[image])])
    from dataclasses import replace

    t.add_step(replace(step, completion=Completion(text="x", events=(event,)), events=(event,)))
    t.end_turn(None, StopReason.MODEL_ERROR)
    t.close(keep=True)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not [secret for secret in SECRETS if secret.encode() in path.read_bytes()], path
    again = Trajectory.load(tmp_path / "run.ipynb")
    assert (again.header, again.images, again.events) == (t.header, t.images, t.events)
    assert image.source not in repr(again.messages)
    assert not [secret for secret in SECRETS if secret in json.dumps(dict(t.header))]
