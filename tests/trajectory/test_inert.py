"""Strangers' text shows in a notebook and does nothing there."""

import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from making import HEADER, cell_step, crop_run, kernel_image, noise, random_text

from kernel_agent.trajectory import Trajectory, inert
from kernel_agent.trajectory.rendering import to_html
from kernel_agent.trajectory.state import State
from kernel_agent.types import Answer, Completion, Malformed, Step, StopReason

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![t](http://evil.example/track.png) [click](javascript:alert(1))",
    "<http://evil.example> https://evil.example www.evil.example a@evil.example",
    "# heading\n===\n- item\n1. item\n> quote\n    code\n\tcode\n***\n---",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "$\\href{javascript:alert(1)}{x}$ $$x$$ \\(x\\) \\[x\\] \\begin{align}x\\end{align} \\\\(x\\\\)",
    "`code` ``more`` ```fence\n```\n~~~\nfence\n~~~",
    "&lt;script&gt; &#60;b&#62; &amp;",
    "[ref]: http://evil.example\n[ref] [^1]\n\n[^1]: note",
    "{{ 7*7 }} {% x %} :::{note}\nadmonition\n:::",
    "**bold** __bold__ *it* _it_ ~~gone~~ a_b_c",
    "\x1b[31mred\x00\u202egnp\u2066",
    "\\`x` \\<b> \\\\ $`$ `$",
    "line\rline\r\nline\u2028line\x0cline",
    "</pre></code></div><b>",
]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def commonmark(source: str) -> Tags:
    from markdown_it import MarkdownIt

    tags = Tags()
    tags.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source))
    return tags


def nbconvert(source: str) -> Tags:
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    tags = Tags()
    tags.feed(markdown2html_mistune(source))
    return tags


def shown(text: str) -> str:
    """What a reader should see, white space aside."""
    return re.sub(r"\s|\xa0", "", inert._clean(text))


@pytest.mark.parametrize("render", [commonmark, nbconvert])
def test_text_becomes_paragraphs_and_nothing_else(render: Callable[[str], Tags]) -> None:
    for text in [*HOSTILE, *(random_text(random.Random(seed)) for seed in range(200))]:
        for source in (inert.paragraphs(text), inert.inline(text), "> " + inert.paragraphs(text).replace("\n", "\n> ")):
            tags = render(source)
            assert {tag for tag, _ in tags.seen} <= {"p", "br", "code", "blockquote"}, source
            assert all(set(attributes) <= {"class"} for _, attributes in tags.seen), source
            assert re.sub(r"\s|\xa0", "", tags.text) == shown(text), source
            assert not re.search(r"://|www\.|@", source), source  # GitHub would make links


@pytest.mark.parametrize("render", [commonmark, nbconvert])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_fence_holds_whatever_is_inside(render: Callable[[str], Tags], text: str) -> None:
    tags = render("before\n\n" + inert.fenced(text) + "\n\nafter")
    assert {tag for tag, _ in tags.seen} <= {"p", "pre", "code", "div", "span"}
    assert shown(text) in re.sub(r"\s|\xa0", "", tags.text)


def test_mathematics_stands_in_code_only() -> None:
    for text in HOSTILE:
        outside = re.sub(r"`[$\\]+`", "", inert.paragraphs(text))
        assert "$" not in outside
        assert not re.search(
            r"\\(begin|end|\(|\)|\[\S|\\)", outside.replace("\\[", "").replace("\\]", "").replace("\\)", "")
        )


def hostile_run() -> Trajectory:
    t = Trajectory.start(images=[kernel_image(0, noise(30, 20), source=HOSTILE[0])], header=HEADER)
    everything = "\n".join(HOSTILE)
    t.begin_turn(everything)
    t.add_step(cell_step(0, "1", thought=everything))
    t.add_step(
        Step(
            index=1,
            new_messages=(),
            completion=Completion(text=everything),
            thought=everything,
            action=Malformed(problem=everything, remedy=everything),
        )
    )
    t.add_step(Step(index=2, new_messages=(), completion=Completion(text="x"), thought="", action=Answer(text="x")))
    t.end_turn(everything, StopReason.ANSWER)
    return t


def test_a_whole_hostile_notebook_is_inert(tmp_path: Path) -> None:
    notebook = nbformat.read(hostile_run().save(tmp_path / "run.ipynb"), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            tags = commonmark(cell.source)
            assert {tag for tag, _ in tags.seen} <= {
                *("p", "br", "code", "pre", "blockquote", "h1", "h3", "em", "strong", "img")
            }
            for tag, attributes in tags.seen:
                if tag == "img":
                    assert attributes == {"src": "attachment:image_0.png", "alt": "image_0"}
        else:
            for output in cell.outputs:
                assert set(output.get("data", {})) <= {"image/png", "text/plain"}


def test_the_static_rendering_is_inert() -> None:
    tags = Tags()
    page = to_html(hostile_run()._state)
    tags.feed(page)
    style = page[page.index("<style>") : page.index("</style>")]
    assert style == (empty := to_html(State(run_id="", header={})))[empty.index("<style>") : empty.index("</style>")]
    assert {tag for tag, _ in tags.seen} <= {
        *("div", "p", "strong", "br", "img", "small", "details", "summary", "pre", "em", "span", "style")
    }
    for _, attributes in tags.seen:
        assert set(attributes) <= {"src", "alt", "class"}
        assert attributes.get("class", "codevision-static") == "codevision-static"
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    bundle = crop_run()._repr_mimebundle_()
    assert "A7" in bundle["text/html"]
    assert bundle["text/plain"].startswith("Trajectory(question='What is written")
