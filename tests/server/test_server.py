"""The server extension over real HTTP: what the panel does, and what others try."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from kernel_agent.audit.keys import default_key, make_key
from kernel_agent.models import ScriptedModel
from kernel_agent.trajectory import Trajectory
from tests.server.conftest import on_servers_loop

API = ("codevision", "api")
SECONDS = 60
"""How long an answer may take; Jupyter's own fixture gives 20 s to each, a whole run with its kernel."""
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
CODE = f"print({HOSTILE!r})\nresult = image_0.crop((0, 0, 30, 40))"
CALL = {"name": "code_image_tool", "arguments": {"code": CODE, "description": "crop", "image_index": 0}}
CROP = f"<think>The left half.</think>\n<tool_call>{json.dumps(CALL)}</tool_call>"
DONE = "<think>Seen.</think>\n<answer>red</answer>"


@pytest.fixture
def model(jp_serverapp: Any) -> ScriptedModel:
    """What every run of the server asks."""
    model = ScriptedModel([CROP, DONE, DONE, DONE], delay=0.01)
    runs_of(jp_serverapp)._choose = lambda name, url: model
    return model


def runs_of(serverapp: Any) -> Any:
    return serverapp.web_app.settings["codevision_runs"]


async def post(jp_fetch: Any, *path: str, **body: Any) -> Any:
    answer = await jp_fetch(*API, *path, method="POST", body=json.dumps(body), request_timeout=SECONDS)
    return json.loads(answer.body)


async def get(jp_fetch: Any, *path: str, **query: str) -> Any:
    return json.loads((await jp_fetch(*API, *path, params=query, request_timeout=SECONDS)).body)


async def idle(jp_fetch: Any, run: str) -> None:
    """Wait until a run's turn is over."""
    async with asyncio.timeout(SECONDS):
        while runs_of_live(run, await get(jp_fetch, "runs"))["state"] != "idle":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def refused(request: Any) -> tuple[int, str]:
    with pytest.raises(HTTPClientError) as caught:
        await request
    answer = caught.value.response
    try:
        return caught.value.code, str(json.loads(answer.body)["message"])  # type: ignore[union-attr]
    except (ValueError, AttributeError, KeyError):
        return caught.value.code, ""


async def events(jp_fetch: Any, run: str, after: int = -1, until: str = "answer") -> AsyncIterator[dict[str, Any]]:
    """The stream, as a page reads it, up to an event of type `until`."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    request = asyncio.ensure_future(
        jp_fetch(
            *API, "runs", run, "events",
            params={"after": str(after)}, streaming_callback=queue.put_nowait, request_timeout=4 * SECONDS,
        )
    )  # fmt: skip
    text = b""
    while True:
        while b"\n\n" not in text:
            text += await asyncio.wait_for(queue.get(), SECONDS)
        block, text = text.split(b"\n\n", 1)
        if block.startswith(b":"):
            continue
        number, data = block.split(b"\n", 1)
        event = json.loads(data.removeprefix(b"data: "))
        assert number == b"id: %d" % event["seq"]
        yield event
        if event["type"] == until:
            request.cancel()
            return


@on_servers_loop
async def test_a_run_from_a_page(jp_fetch: Any, root: Path, model: ScriptedModel) -> None:
    made = await post(jp_fetch, "runs", question="What colour?", images=[{"path": "picture.png"}])
    seen = [event async for event in events(jp_fetch, made["id"])]
    assert [event["type"] for event in seen if event["type"] in ("action", "running", "step", "answer")] == [
        "action", "running", "step", "action", "step", "answer",
    ]  # fmt: skip
    assert seen[-1]["answer"] == "red"
    step = next(event for event in seen if event["type"] == "step")
    assert step["outputs"][0]["text"] == HOSTILE + "\n"
    again = [event async for event in events(jp_fetch, made["id"], after=step["seq"] - 1)]
    assert again == [event for event in seen[seen.index(step) :] if event["type"] != "writing"]
    picture = await jp_fetch(*API, "runs", made["id"], "images", "1", params={"kind": "data"})
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert picture.headers["X-Content-Type-Options"] == "nosniff"
    assert picture.body == runs_of_image(model, picture.body)
    path = (await get(jp_fetch, "runs", made["id"], "path"))["path"]
    assert Trajectory.load(root / path).answer == "red"
    cells = (await get(jp_fetch, "runs", made["id"], "cells"))["cells"]
    assert [cell["cell_type"] for cell in cells].count("code") == 2
    assert not any("codevision" in cell["metadata"] for cell in cells)
    listed = (await get(jp_fetch, "runs", search="COLOUR"))["runs"]
    assert [(line["id"], line["path"], line["live"]) for line in listed] == [(made["id"], path, True)]


def runs_of_image(model: ScriptedModel, data: bytes) -> bytes:
    """The picture as the model was shown it in its last request."""
    parts = [part for message in model.requests[-1].messages for part in message.content]
    shown = [part.image.data for part in parts if hasattr(part, "image") and part.image.index == 1]
    return shown[0]


@on_servers_loop
async def test_images_by_upload_and_a_follow_up(jp_fetch: Any, root: Path, model: ScriptedModel) -> None:
    data = base64.b64encode((root / "picture.png").read_bytes()).decode()
    made = await post(jp_fetch, "runs", question="?", images=[{"name": "p.png", "data": data}], options={"steps": 3})
    [event async for event in events(jp_fetch, made["id"])]
    run = runs_of_live(made["id"], await get(jp_fetch, "runs"))
    assert run["steps"] == 2
    await idle(jp_fetch, made["id"])
    assert await post(jp_fetch, "runs", made["id"], "commands", command="ask", question="And?") == {}
    branch = await post(jp_fetch, "runs", made["id"], "commands", command="rewind", steps=1)
    assert branch["id"] != made["id"]
    told = [event async for event in events(jp_fetch, branch["id"], until="state")]
    assert told[0]["parent"] == {"run": made["id"], "steps": 1}
    await jp_fetch(*API, "runs", branch["id"], method="DELETE", request_timeout=SECONDS)
    assert [line["live"] for line in (await get(jp_fetch, "runs"))["runs"]].count(True) == 1


def runs_of_live(run: str, listed: Any) -> Any:
    return next(line for line in listed["runs"] if line["id"] == run)


@on_servers_loop
async def test_a_page_that_goes_away_ends_no_run(jp_fetch: Any, jp_serverapp: Any, root: Path, model: Any) -> None:
    made = await post(jp_fetch, "runs", question="?", images=[{"path": "picture.png"}])
    stream = events(jp_fetch, made["id"])
    first = await anext(stream)
    await stream.aclose()
    rest = [event async for event in events(jp_fetch, made["id"], after=first["seq"])]
    assert rest[-1]["answer"] == "red"


@on_servers_loop
async def test_a_saved_run_is_opened(jp_fetch: Any, root: Path, model: ScriptedModel) -> None:
    made = await post(jp_fetch, "runs", question="?", images=[{"path": "picture.png"}])
    [event async for event in events(jp_fetch, made["id"])]
    path = (await get(jp_fetch, "runs", made["id"], "path"))["path"]
    await jp_fetch(*API, "runs", made["id"], method="DELETE", request_timeout=SECONDS)
    assert (await post(jp_fetch, "runs", "open", path=path))["id"] == made["id"]
    told = [event async for event in events(jp_fetch, made["id"], until="answer")]
    assert [event["type"] for event in told] == ["run", "turn", "step", "step", "answer"]
    assert told[0]["path"] == path


@on_servers_loop
async def test_status_tells_no_secret(jp_fetch: Any, jp_serverapp: Any) -> None:
    runs_of(jp_serverapp)._api_key = "sk-secret"
    answer = await jp_fetch(*API, "status")
    status = json.loads(answer.body)
    assert "secret" not in answer.body.decode()
    assert status["isolation"]["level"] in ("strong", "medium", "container")
    assert status["folder"] == "codevision-runs"


@pytest.mark.parametrize("address", ["status", "runs", f"runs/{'0' * 32}/events", f"runs/{'0' * 32}/images/0"])
@on_servers_loop
async def test_nothing_without_a_token(jp_fetch: Any, address: str) -> None:
    code, _ = await refused(jp_fetch(*API, *address.split("/"), headers={"Authorization": ""}))
    assert code == 403


@pytest.mark.parametrize("address", ["runs", "runs/open", f"runs/{'0' * 32}/commands"])
@on_servers_loop
async def test_a_page_of_another_origin_is_refused(jp_fetch: Any, address: str) -> None:
    body = json.dumps({"question": "?", "images": [{"path": "picture.png"}], "command": "stop"})
    headers = {"Origin": "http://evil.example", "Authorization": ""}
    code, _ = await refused(jp_fetch(*API, *address.split("/"), method="POST", body=body, headers=headers))
    assert code in (403, 404)


@on_servers_loop
async def test_a_foreign_origin_reads_nothing(jp_fetch: Any) -> None:
    code, _ = await refused(jp_fetch(*API, "status", headers={"Origin": "http://evil.example", "Authorization": ""}))
    assert code in (403, 404)


@on_servers_loop
async def test_a_cookie_without_xsrf_is_refused(jp_fetch: Any, jp_serverapp: Any, jp_base_url: str) -> None:
    """Logged in by cookie, as a browser is: a POST needs the XSRF token too."""
    from tornado.web import create_signed_value

    secret = jp_serverapp.web_app.settings["cookie_secret"]
    name = jp_serverapp.identity_provider.cookie_name or f"username-127-0-0-1-{jp_serverapp.port}"
    user = json.dumps({"username": "u", "name": "u"})
    signed = create_signed_value(secret, name, user).decode()
    body = json.dumps({"question": "?", "images": [{"path": "picture.png"}]})
    headers = {"Authorization": "", "Cookie": f"{name}={signed}"}
    code, _ = await refused(jp_fetch(*API, "runs", method="POST", body=body, headers=headers))
    assert code == 403


@pytest.mark.parametrize(
    "run", ["..", "%2e%2e%2fpicture", "..%2f..%2fetc", "0" * 31, "A" * 32, "0" * 31 + "%00", "x" * 2000]
)
@on_servers_loop
async def test_an_id_leads_nowhere_else(jp_fetch: Any, root: Path, run: str) -> None:
    for part, method in (("events", "GET"), ("path", "GET"), ("cells", "GET"), ("commands", "POST")):
        body = {"body": json.dumps({"command": "stop"})} if method == "POST" else {}
        code, _ = await refused(jp_fetch(*API, "runs", run, part, method=method, **body))
        assert code in (400, 403, 404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "/etc/passwd",
        "a/../../secret.png",
        ".hidden/x.png",
        "link.png",
        "no.png",
        "",
        "a\0b",
        7,
        "x" * 5000,
    ],
)
@on_servers_loop
async def test_a_path_stays_in_the_folder(jp_fetch: Any, root: Path, model: ScriptedModel, path: Any) -> None:
    (root.parent / "secret.png").write_bytes((root / "picture.png").read_bytes())
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"")
    (root / "link.png").symlink_to(root.parent / "secret.png")
    code, _ = await refused(post(jp_fetch, "runs", question="?", images=[{"path": path}]))
    assert code == 400
    code, _ = await refused(post(jp_fetch, "runs", "open", path=path))
    assert code == 400
    assert model.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "a run needs a question"),
        ({"question": " ", "images": [{"path": "picture.png"}]}, "question is empty"),
        ({"question": "?", "images": []}, "0 images: give 1 to 32"),
        ({"question": "?", "images": [{"path": "picture.png"}] * 33}, "33 images"),
        ({"question": "?", "images": [{"data": "%%%"}]}, "no base64"),
        ({"question": "?", "images": [{"data": "AAAA"}]}, "image"),
        ({"question": "?", "images": ["picture.png"]}, "an image is {path}"),
        ({"question": "?", "images": [{"path": "picture.png"}], "options": {"api_key": "x"}}, "no option 'api_key'"),
        ({"question": "?", "images": [{"path": "picture.png"}], "options": {"isolation": "none"}}, "isolation 'none'"),
    ],
)
@on_servers_loop
async def test_bad_requests_say_what_is_wrong(jp_fetch: Any, root: Path, model: Any, body: Any, message: str) -> None:
    code, said = await refused(post(jp_fetch, "runs", **body))
    assert code == 400
    assert message in said


@on_servers_loop
async def test_commands_that_do_not_fit(jp_fetch: Any, root: Path, model: ScriptedModel) -> None:
    made = await post(jp_fetch, "runs", question="?", images=[{"path": "picture.png"}])
    [event async for event in events(jp_fetch, made["id"])]
    for body, message in (
        ({"command": "approve"}, "no code waits for approval"),
        ({"command": "rewind", "steps": 99}, "no state after 99 steps"),
        ({"command": "__init__"}, "there is no command '__init__'"),
        ({"command": "stop", "extra": 1}, "stop: got an unexpected keyword argument 'extra'"),
    ):
        code, said = await refused(post(jp_fetch, "runs", made["id"], "commands", **body))
        assert code == 409
        assert message in said


@on_servers_loop
async def test_a_run_is_audited_when_its_turn_is_over(jp_fetch: Any, root: Path, model: ScriptedModel) -> None:
    made = await post(jp_fetch, "runs", question="?", images=[{"path": "picture.png"}], options={"approve_each": True})
    [event async for event in events(jp_fetch, made["id"], until="action")]
    code, message = await refused(post(jp_fetch, "runs", made["id"], "audit"))
    assert code == 409
    assert "audit it when its turn is over" in message
    await post(jp_fetch, "runs", made["id"], "commands", command="approve")
    await idle(jp_fetch, made["id"])
    report = await post(jp_fetch, "runs", made["id"], "audit")
    assert report["outcome"] == "holds", report["findings"]
    assert report["cells"] == [{"step": 0, "verdict": "identical", "why": ""}]
    assert "Not signed" in report["signed"]


def _sealed(path: Path) -> bool:
    return "seal" in json.loads(path.read_text())["metadata"]["codevision"]


@on_servers_loop
async def test_runs_are_signed_unless_the_server_or_the_page_says_no(
    jp_fetch: Any, jp_serverapp: Any, root: Path, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(root / "conf"))
    make_key(default_key())

    async def asked(**options: Any) -> bool:
        model = ScriptedModel([CROP, DONE])
        runs_of(jp_serverapp)._choose = lambda name, url: model
        runs_of(jp_serverapp)._models.clear()
        made = await post(jp_fetch, "runs", question="?", images=[{"path": "picture.png"}], options=options)
        [event async for event in events(jp_fetch, made["id"])]
        path = root / (await get(jp_fetch, "runs", made["id"], "path"))["path"]
        await jp_fetch(*API, "runs", made["id"], method="DELETE", request_timeout=SECONDS)
        return _sealed(path)

    assert await asked()
    assert not await asked(sign=False)
    extension = jp_serverapp.extension_manager.extension_apps["kernel_agent.server"].pop()
    await asyncio.to_thread(extension.runs.close)
    extension.sign = False
    extension.initialize_settings()
    jp_serverapp.web_app.settings.update(extension.settings)
    assert not await asked()
