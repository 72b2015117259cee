"""Trains the embedded model from nothing.

    python -m kernel_agent.train.embedded --fonts FONTS --work WORK eye --minutes 60
    python -m kernel_agent.train.embedded --fonts FONTS --work WORK episodes --shards 12
    python -m kernel_agent.train.embedded --fonts FONTS --work WORK language --minutes 30
    python -m kernel_agent.train.embedded --fonts FONTS --work WORK all      # the three in turn

FONTS is a folder (or several) with .ttf and .otf files; families in `tasks.fonts.HELD_OUT_FAMILIES` are left out. The
shipped weights were trained on Debian's texlive-fonts-extra and some fifty small font packages; any few hundred families
will do: `apt-get download texlive-fonts-extra && dpkg -x texlive-fonts-extra*.deb FONTS`. WORK keeps checkpoints, logs and
episodes; `--resume` goes on from them. The language stage writes the finished folder to WORK/model (`--out`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from kernel_agent.train.embedded.checkpoint import build_model, build_processor, build_tokenizer, save
from kernel_agent.train.embedded.episodes import Shard, draw_shard
from kernel_agent.train.embedded.eye import Eye, vision_config
from kernel_agent.train.embedded.language import LanguagePlan, Library, take_eye, train_language
from kernel_agent.train.embedded.pretrain import EyePlan, train_eye
from kernel_agent.train.embedded.views import FontShelf

SHARD = 2000
"""Episodes a shard."""
HELD_BACK = 400
"""Episodes kept out of training, for the log."""


def make_episodes(shelf: FontShelf, work: Path, shards: int, seed: int) -> None:
    """Writes the missing ones of `shards` files of SHARD episodes (about 160 MB and 30 s each)."""
    folder = work / "episodes"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        path = folder / f"s{index:03d}.npz"
        if not path.exists():
            draw_shard(shelf, SHARD, seed * 100_003 + 1000 + index).save(path)


def teach_language(work: Path, out: Path, plan: LanguagePlan, *, resume: bool = False) -> None:
    """Joins the trained eye to a language half, trains that on the episodes in `work` and writes the model to `out`."""
    tokenizer = build_tokenizer()
    processor, model = build_processor(tokenizer), build_model(tokenizer)
    eye = Eye(vision_config())
    eye.load_state_dict(torch.load(work / "eye.pt", weights_only=True)["eye"])
    take_eye(model, eye.eval())
    library = Library()
    for path in sorted((work / "episodes").glob("s???.npz")):
        library.add(Shard.load(path), eye, tokenizer)
    library.close()
    checkpoint = work / "language.pt"
    train_language(plan, model, tokenizer, library, HELD_BACK, work, checkpoint=checkpoint, resume=resume)
    save(model, processor, out)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kernel_agent.train.embedded", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=["eye", "episodes", "language", "all"])
    parser.add_argument("--fonts", type=Path, nargs="+", default=[], help="folders with training fonts")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints, logs, episodes")
    parser.add_argument("--out", type=Path, default=None, help="the finished model (WORK/model)")
    parser.add_argument("--minutes", type=float, default=None, help="of this stage (eye 60, language 30)")
    parser.add_argument("--shards", type=int, default=12, help=f"files of {SHARD} episodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="at most; fewer are used where that is faster")
    parser.add_argument("--resume", action="store_true", help="go on from what is in WORK")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    stages = ["eye", "episodes", "language"] if options.stage == "all" else [options.stage]
    shelf = None
    if stages != ["language"]:
        if not options.fonts:
            parser.error(f"the stage {options.stage} draws text: give folders with fonts (--fonts)")
        shelf = FontShelf.scan(options.fonts, work / "faces.pkl")
    if "eye" in stages and shelf:
        train_eye(EyePlan(minutes=options.minutes or 60, seed=options.seed), shelf, work, resume=options.resume)
    if "episodes" in stages and shelf:
        make_episodes(shelf, work, options.shards, options.seed)
    if "language" in stages:
        plan = LanguagePlan(minutes=options.minutes or 30, seed=options.seed)
        teach_language(work, options.out or work / "model", plan, resume=options.resume)


if __name__ == "__main__":
    main()
