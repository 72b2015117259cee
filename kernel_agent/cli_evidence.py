"""`codevision sign`, `bundle`, `diff`: thin faces on audit/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kernel_agent.audit.keys import KEY_VARIABLE


def sign(
    notebook: Annotated[Path, typer.Argument(help="A saved run.")],
    key: Annotated[
        Path | None,
        typer.Option(
            envvar=KEY_VARIABLE, help="Ed25519 private key (PEM or OpenSSH). Default: your own, made on first use."
        ),
    ] = None,
) -> None:
    """Sign a saved run: any later change of it is found and named by codevision audit.

    Whoever has a key can sign any file with it, a changed one too: give others your public key on another way, and let them
    audit with --require-signer.
    """
    from kernel_agent.audit.keys import default_key, load_signer, make_key
    from kernel_agent.audit.seal import sign_file
    from kernel_agent.errors import CodeVisionError

    try:
        path = key or default_key()
        if key is None and not path.exists():
            make_key(path)
            print(f"A new key, {path}, signs your runs from now on (codevision ask too).", file=sys.stderr)
        signer = load_signer(path)
        seal = sign_file(notebook, signer)
    except (CodeVisionError, OSError) as error:
        _fail(error)
    for name in seal.signers:
        print(f"signer {name}{'  (this key)' if name == signer.public_key.keyid else ''}")
    print(f"head   {seal.head}")


def bundle(
    notebook: Annotated[Path, typer.Argument(help="A saved run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Zip file to write.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing file.")] = False,
) -> None:
    """Put a run, its images and versions into one file that codevision audit checks on any machine."""
    from kernel_agent.audit.bundle import write_bundle
    from kernel_agent.errors import CodeVisionError

    try:
        names = write_bundle(notebook, output, force=force)
    except (CodeVisionError, OSError) as error:
        _fail(error)
    print(f"{output}: {len(names)} files")


def diff(
    first: Annotated[Path, typer.Argument(help="A saved run.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with the pictures side by side; it is inert.")] = None,
) -> None:
    """Show what two runs have not in common: cells and outputs through nbdime, pictures by their pixels.

    Exit code: 0 nothing, 1 something.
    """
    from kernel_agent.audit.diff import diff_runs
    from kernel_agent.errors import CodeVisionError
    from kernel_agent.session.outputs import clean_text

    try:
        found = diff_runs(first, second)
        if html is not None:
            from kernel_agent.audit.html import diff_page

            html.write_text(diff_page(first.name, second.name, found.text, found.images), encoding="utf-8")
    except (CodeVisionError, OSError) as error:
        _fail(error, 2)
    print(clean_text(found.text), end="")
    for image in found.images:
        print(clean_text(f"{image.what}: {image.how}"))
    raise typer.Exit(1 if found.text or found.images else 0)


def _fail(error: Exception, code: int = 1) -> NoReturn:
    print(f"codevision: {error}", file=sys.stderr)
    raise typer.Exit(code) from error
