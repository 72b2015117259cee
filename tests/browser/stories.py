"""What the scripted model does, by words of the question; and the pictures it is asked about."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tests.browser.scripts import answer, call

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"

LABEL = (
    call(
        "The label is small and upside down. I cut it out first.", "label = image_0.crop((180, 120, 420, 220))\nlabel"
    ),
    call(
        "Now it stands on its head: I turn it by half a turn and enlarge it.",
        "upright = image_1.rotate(180)\nbig = upright.resize((upright.width * 2, upright.height * 2))\n"
        "print('turned', upright.size)\nbig",
        1,
    ),
    call("A closer look at the last two signs, to tell 2 from Z.", "image_0.crop((255, 140, 345, 200))"),
    answer("It is to be read well now.", "K7P2"),
)
SCRIPTS = {
    "[label]": LABEL,
    "[colour]": (answer("It is white all over.", "white, as far as I can see"),),
    "[slow]": (call("I wait.", "import time\nprint('begun')\ntime.sleep(60)\nprint('never')"), answer("", "late")),
    "[two]": (
        call("One look.", "print('first look')\nvalue = 1"),
        call("Another.", "print('second look', value)"),
        answer("Done.", "two looks"),
    ),
    "[error]": (
        call("This will fail.", "def look(box):\n    return image_0.crop(box)\n\nlook('everything')"),
        answer("", "it failed"),
    ),
    "[hostile]": (
        call(
            f"thinking {HOSTILE}",
            f"from IPython.display import HTML, Javascript, display\nprint({HOSTILE!r})\ndisplay(HTML({HOSTILE!r}))\n"
            "display(Javascript(\"document.title='owned'\"))\n" + f"raise ValueError({HOSTILE!r})",
        ),
        answer("", f"answer {HOSTILE}"),
    ),
    "[long]": (
        *(
            call(
                f"Tile {i}: a look at one place, and a word on what is there.",
                f"x, y = {i % 20} * 30, {i // 20} * 40\nprint('tile', {i}, 'at', x, y)\nimage_0.crop((x, y, x + 240, y + 160))",
            )
            for i in range(200)
        ),
        answer("That was all.", "all tiles seen"),
    ),
}


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
