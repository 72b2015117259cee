"""The teacher's messages: readable by the protocol, and their code does what the trainer assumes it does."""

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageOps

from kernel_agent.protocols import get_protocol
from kernel_agent.tasks.fonts import Path, discover
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.types import Answer, Completion, RunCode

pytest.importorskip("torch")

from kernel_agent.train.embedded import episodes, policy
from kernel_agent.train.embedded.checkpoint import ASSISTANT, END, EXPANDED, USER, build_tokenizer
from kernel_agent.train.embedded.views import STATES, FontShelf, square


@pytest.fixture(scope="module")
def shelf() -> FontShelf:
    faces = discover([Path(matplotlib.get_data_path()) / "fonts" / "ttf"])
    return FontShelf(families=(tuple(f for f in faces if f.family == "dejavusans"),))


def run(message: str, image: Image.Image, images: int) -> Image.Image:
    action = get_protocol("native").parse(Completion(text=message), images=images).action
    assert isinstance(action, RunCode)
    names = {"image": image, "Image": Image, "ImageOps": ImageOps, "np": np}
    exec(action.code, names)
    return names["result"]


def test_episodes_are_what_their_code_does(shelf: FontShelf) -> None:
    rng = np.random.default_rng(3)
    checked = 0
    for _ in range(30):
        scene = episodes.draw_scene(rng, "FR7PQ", shelf.draw(rng), glyph_height=30.0)
        orientation = list(Orientation)[checked % 6]
        episode = episodes.play(rng, scene, orientation, "What does it say?")
        image = orientation.apply(Image.fromarray(scene.pixels))
        for index, turn in enumerate(episode.turns):
            if turn.picture.ndim == 2 and np.ptp(turn.picture) == 0:
                break  # blanked on purpose
            assert np.array_equal(turn.picture, episodes.shown(image, index)[1])
            if "<tool_call>" not in turn.said:
                assert get_protocol("native").parse(Completion(text=turn.said), images=1).action == Answer(text="FR7PQ")
                checked += len(episode.turns) > 2
                break
            image = run(turn.said, image, index + 1)
    assert checked > 12


def test_the_straight_way_ends_upright(shelf: FontShelf) -> None:
    assert {episodes.lies_after_first(o) for o in Orientation} == set(STATES)


def test_grid_boxes_grow_outwards_and_stay_inside() -> None:
    assert policy.grid_box((64, 64, 128, 128), (640, 640), 0) == (6, 6, 13, 13)
    assert policy.grid_box((0, 0, 640, 640), (640, 640), 50, more=2) == (0, 0, 64, 64)
    assert policy.grid_box((639, 639, 640, 640), (640, 640), 0) == (63, 63, 64, 64)


def test_tokens_come_back_as_the_same_text() -> None:
    tokenizer = build_tokenizer()
    texts = [
        policy.first_crop((0, 7, 64, 33), vertical=True),
        policy.closer_crop((1, 2, 63, 64), Orientation.FLIP_V, 2),
        policy.answer("PIL90Z"),
        policy.give_up(),
        USER + EXPANDED + "image_0: 1280x960 px\nWas steht auf dem Schild? \u00e4\u6587" + END + ASSISTANT,
    ]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    answer = tokenizer.tokenize(policy.answer("PIL90Z"))
    assert answer[1:-1] == list("PIL90Z"), "characters of an answer stand alone"
    assert len(tokenizer.encode(texts[0])) < 16, "a message is a handful of tokens"


def test_a_line_is_squared_as_the_processor_does_it() -> None:
    assert square(Image.new("RGB", (300, 40))).shape == (128, 128, 3)
    assert square(Image.new("L", (3, 400))).shape == (128, 128)
