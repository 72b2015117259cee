"""Re-execution with real kernels: honest runs hold, forged ones are found at their cell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forging import event, forge, record, with_image
from PIL import Image

from kernel_agent import KernelOptions, KernelPool
from kernel_agent.audit.audit import audit
from kernel_agent.audit.finding import Outcome
from kernel_agent.audit.rerun import rerun
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.verdicts import Verdict
from kernel_agent.errors import InputError
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import ErrorOutput, Isolation, Status, StreamOutput

CODES = [
    "image_0.rotate(90, expand=True)",
    "import sys\nprint('seen', file=sys.stderr)\nprint(image_1.size)",
    "1 / 0",
    "import random\n(random.random(), np.random.rand())",
    "image_1.crop((0, 0, 20, 20)).resize((40, 40))",
]


@pytest.fixture
async def pool():
    async with KernelPool(2) as made:
        yield made


async def test_an_honest_run_is_identical_and_each_forgery_is_found_at_its_cell(
    picture: Image.Image, pool: KernelPool
) -> None:
    run = await record(CODES, picture, pool=pool)
    report = await audit(run, pool=pool)
    assert report.exit_code == 0
    assert report.rerun is not None
    assert [cell.verdict for cell in report.rerun.cells] == [Verdict.IDENTICAL] * 5

    def flip(pixels):
        pixels[3, 4, 0] ^= 1

    traceback = ErrorOutput(ename="KeyError", evalue="'x'", traceback=("KeyError: 'x'",))
    forgeries = [
        (0, with_image(flip), "image_1", Verdict.DIFFERS),
        (
            0,
            lambda cell: replace(cell, images=(replace(cell.images[0], affine=(1, 0, 0, 0, 1, 0)),)),
            "lineage of image_1",
            Verdict.DIFFERS,
        ),
        (
            1,
            lambda cell: replace(cell, outputs=(StreamOutput(name="stdout", text="(41, 60)\n"), *cell.outputs[1:])),
            None,
            Verdict.DIFFERS,
        ),
        (
            1,
            lambda cell: replace(cell, outputs=tuple(o for o in cell.outputs if getattr(o, "name", "") != "stderr")),
            "stderr",
            Verdict.MISSING,
        ),
        (2, lambda cell: replace(cell, outputs=(traceback,)), "error", Verdict.DIFFERS),
        (
            1,  # invented, where nothing failed
            lambda cell: replace(cell, outputs=(*cell.outputs, traceback), status=Status.ERROR),
            "error",
            Verdict.MISSING,
        ),
        (2, lambda cell: replace(cell, outputs=(), status=Status.OK), "status", Verdict.DIFFERS),
        (
            3,
            lambda cell: replace(cell, outputs=(replace(cell.outputs[0], text="(0.5, 0.5)"),)),
            "result",
            Verdict.DIFFERS,
        ),
        (4, with_image(flip), "image_2", Verdict.DIFFERS),
    ]
    for step, change, field, verdict in forgeries:
        report = await audit(forge(run, step, change), pool=pool)
        assert report.exit_code == 1
        assert report.rerun is not None
        assert [cell.step for cell in report.rerun.cells if cell.verdict is not Verdict.IDENTICAL] == [step]
        failing = {item.what: item.verdict for item in report.rerun.cells[step].comparisons}
        assert verdict in failing.values()
        assert field is None or failing[field] is verdict


async def test_an_image_put_in_or_taken_out_is_missing_and_later_names_stay(
    picture: Image.Image, pool: KernelPool
) -> None:
    run = await record(["display(image_0, image_0.convert('L'))", "image_1.size, image_2.mode"], picture, pool=pool)
    cut = forge(run, 0, lambda cell: replace(cell, images=cell.images[:1], outputs=cell.outputs[:1]))
    report = await audit(cut, pool=pool)
    assert [(finding.cell, finding.field) for finding in report.findings][:2] == [
        ("step 1", "image"),
        ("step 1", "image_2"),
    ]


async def test_without_a_recorded_seed_chance_cannot_be_checked(picture: Image.Image, pool: KernelPool) -> None:
    run = await record(["import random\nrandom.random()", "1 + 1"], picture, pool=pool)
    old = forge(run, 9, lambda cell: cell, kernel_seed=None)
    report = await audit(old, pool=pool)
    assert report.exit_code == 2
    assert [finding.outcome for finding in report.findings] == [Outcome.UNCHECKED]
    assert "started from a seed that was not recorded" in report.findings[0].message


async def test_what_cannot_be_pinned_is_named_and_no_excuse_for_the_rest(
    picture: Image.Image, pool: KernelPool
) -> None:
    codes = [
        "import os\nos.urandom(8).hex()",
        "import time\nprint('took', f'{time.perf_counter() % 1:.6f} s')",
        "import time\nstart = time.time()\nprint(f'{start:.0f}'[-1:] in '0123456789')",
        "import random\nrandom.random()",
        "print(6 * 7)",
    ]
    run = await record(codes, picture, pool=pool)
    again = await rerun(run, pool=pool)
    entropy, took, *rest = again.cells
    assert entropy.verdict is Verdict.NOT_REPLAYABLE
    assert "entropy" in entropy.why
    assert took.verdict is Verdict.NOT_REPLAYABLE
    assert "time" in took.why
    assert [cell.verdict for cell in rest] == [Verdict.IDENTICAL] * 3
    lied = forge(run, 4, lambda cell: replace(cell, outputs=(StreamOutput(name="stdout", text="43\n"),)))
    report = await audit(lied, pool=pool)
    assert (report.exit_code, report.findings[-1].cell) == (1, "step 5")


async def test_interrupts_and_dead_kernels_are_gone_through_again(picture: Image.Image, pool: KernelPool) -> None:
    codes = [
        "kept = 5",
        "i = 0\nwhile True:\n    i += 1",
        "i > 0",
        "print(i)",
        "print(kept)",
        "import os\nos._exit(1)",
        "print('i' in globals(), kept)",
    ]
    run = await record(codes, picture, cell_seconds=3.0, pool=pool)
    assert [step.cell.status for step in run.steps if step.cell][5] is Status.KILLED
    again = await rerun(run, pool=pool)
    verdicts = [cell.verdict for cell in again.cells]
    assert verdicts[3] is Verdict.NOT_REPLAYABLE  # it depends on when the cell before it was stopped
    assert "step 2 was interrupted by the clock, and both use i" in again.cells[3].why
    assert verdicts[:3] + verdicts[4:] == [Verdict.IDENTICAL] * 6
    lied = forge(run, 4, lambda cell: replace(cell, outputs=(StreamOutput(name="stdout", text="6\n"),)))
    report = await audit(lied, pool=pool)
    assert (report.exit_code, report.findings[-1].cell) == (1, "step 5")  # it shares no name with the interrupted one


async def test_a_cell_that_a_person_stopped_is_stopped_after_the_time_it_took(
    picture: Image.Image, pool: KernelPool
) -> None:
    run = await record(["n = 0\nwhile True:\n    n += 1"], picture, cell_seconds=0.7, pool=pool)
    by_hand = (event("interrupted", why="cancelled", after=30.0),)
    (cell,) = (await rerun(forge(run, 0, lambda cell: replace(cell, events=by_hand)), pool=pool)).cells
    assert cell.verdict is not Verdict.DIFFERS
    assert cell.seconds[1] < 29  # not the 30 that the event claims


async def test_lossy_images_are_compared_by_exact_hash_and_through_the_same_encoder(
    picture: Image.Image, pool: KernelPool
) -> None:
    run = await record(["image_0.rotate(10)"], picture, jpeg=True, pool=pool)
    assert not run.images[1].lossless
    assert (await rerun(run, pool=pool)).verdict is Verdict.IDENTICAL
    other = await record(["image_0.rotate(200)"], picture, jpeg=True, pool=pool)
    swapped = forge(
        run,
        0,
        lambda cell: replace(
            cell, images=(replace(cell.images[0], data=other.images[1].data, view=other.images[1].data),)
        ),
    )
    again = await rerun(swapped, pool=pool)
    assert again.verdict is Verdict.DIFFERS
    assert (
        "same exact pixels, but the lossy file is not what our encoder makes of them"
        in again.cells[0].comparisons[0].how
    )


async def test_a_cell_that_does_not_end_here_cannot_be_checked(picture: Image.Image, pool: KernelPool) -> None:
    run = await record(["print('slept')", "2"], picture, pool=pool)
    slow = forge(run, 0, lambda cell: replace(cell, source="import time\ntime.sleep(60)\n" + cell.source))
    again = await rerun(slow, RerunOptions(cell_seconds=3.0), pool=pool)
    assert [cell.verdict for cell in again.cells] == [Verdict.NOT_REPLAYABLE, Verdict.IDENTICAL]
    assert "did not end within 3.0 s" in again.cells[0].why


async def test_nothing_runs_outside_isolation_unless_the_auditor_says_so(picture: Image.Image) -> None:
    run = Trajectory.start(images=[], header={})
    loose = KernelOptions(isolation=Isolation.NONE)
    with pytest.raises(InputError, match="--unsafe-no-sandbox"):
        await rerun(run, RerunOptions(kernel=loose))
    assert (await rerun(run, RerunOptions(kernel=loose, unsafe=True))).verdict is Verdict.IDENTICAL


async def test_a_follow_up_in_a_new_kernel_is_gone_through_too(picture: Image.Image, pool: KernelPool) -> None:
    from kernel_agent.models.scripted import ScriptedModel

    run = await record(["n = 0\nwhile True:\n    n += 1"], picture, cell_seconds=3.0, pool=pool)
    more = ScriptedModel(["I look.\n```python\n'n' in globals()\n```", "The answer is 7."])
    import asyncio

    await asyncio.to_thread(run.ask, "and now?", model=more)
    run.close()
    assert "False" in str(run.steps[2].cell.outputs)
    again = await rerun(run, pool=pool)
    assert [cell.verdict for cell in again.cells] == [Verdict.IDENTICAL] * 2
