"""What the scripted model does, by words of the question; and the pictures it is asked about."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tests.model_server import answer, by_question, call

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"


def look(thought: str, code: str, image: int = 0) -> str:
    """A reply that runs code."""
    return call(code, image, thought)


LABEL = (
    look(
        "The label is small and upside down. I cut it out first.", "label = image_0.crop((180, 120, 420, 220))\nlabel"
    ),
    look(
        "Now it stands on its head: I turn it by half a turn and enlarge it.",
        "upright = image_1.rotate(180)\nbig = upright.resize((upright.width * 2, upright.height * 2))\n"
        "print('turned', upright.size)\nbig",
        1,
    ),
    look("A closer look at the last two signs, to tell 2 from Z.", "image_0.crop((255, 140, 345, 200))"),
    answer("It is to be read well now.", "K7P2"),
)
SCRIPTS = {
    "[label]": LABEL,
    "[colour]": (answer("It is white all over.", "white, as far as I can see"),),
    "[slow]": (look("I wait.", "print('begun')\nimport time\ntime.sleep(60)\nprint('never')"), answer("", "late")),
    "[two]": (
        look("One look.", "print('first look')\nvalue = 1"),
        look("Another.", "print('second look', value)"),
        answer("Done.", "two looks"),
    ),
    "[error]": (
        look("This will fail.", "def look(box):\n    return image_0.crop(box)\n\nlook('everything')"),
        answer("", "it failed"),
    ),
    "[hostile]": (
        look(
            f"thinking {HOSTILE}",
            f"from IPython.display import HTML, Javascript, display\nprint({HOSTILE!r})\ndisplay(HTML({HOSTILE!r}))\n"
            "display(Javascript(\"document.title='owned'\"))\n" + f"raise ValueError({HOSTILE!r})",
        ),
        answer("", f"answer {HOSTILE}"),
    ),
    "[long]": (
        *(
            look(
                f"Tile {i}: a look at one place, and a word on what is there.",
                f"x, y = {i % 20} * 30, {i // 20} * 40\nprint('tile', {i}, 'at', x, y)\nimage_0.crop((x, y, x + 240, y + 160))",
            )
            for i in range(200)
        ),
        answer("That was all.", "all tiles seen"),
    ),
}
MODEL = by_question(SCRIPTS)


def sample(path: Path) -> Path:
    """A picture of a parcel with a label that stands on its head; 640 x 400."""
    image = Image.new("RGB", (640, 400), (207, 178, 134))
    draw = ImageDraw.Draw(image)
    for x in range(0, 640, 16):
        draw.line((x, 0, x, 400), fill=(201, 171, 126))
    draw.rectangle((292, 0, 348, 400), fill=(222, 203, 160))
    label = Image.new("RGB", (240, 100), (252, 251, 247))
    on = ImageDraw.Draw(label)
    on.rectangle((3, 3, 236, 96), outline=(40, 40, 40), width=2)
    on.text((24, 18), "K7P2", fill=(20, 20, 20), font_size=56)
    image.paste(label.rotate(180), (180, 120))
    image.save(path)
    return path
