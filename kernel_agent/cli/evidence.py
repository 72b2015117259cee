"""`codevision sign`, `bundle`, `diff`: thin faces on audit/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from kernel_agent.audit.keys import KEY_VARIABLE
from kernel_agent.cli.terminal import in_a_folder, plain

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from kernel_agent.audit.sigstore_sign import SigstoreSigner

SIGN_HELP = """Sign a saved run: any later change of it is found and named by codevision audit.

[bold]Examples[/bold]

  codevision sign run.ipynb

  codevision sign run.ipynb --sigstore

The 64 digits after "signer" are your public key: give them to others by another way than the run, for audit --require-signer. \
Without them a signature says little, because whoever changes a run can sign it again with a key of their own.

With --sigstore there is no key to keep or to give: others audit with your e-mail address and who vouches for it \
(--cert-identity, --cert-oidc-issuer), and a public log tells the time. The log names you for ever.
"""


def sign(
    context: typer.Context,
    notebook: Annotated[Path, typer.Argument(help="A saved run.")],
    key: Annotated[
        Path | None,
        typer.Option(
            envvar=KEY_VARIABLE, help="Ed25519 private key (PEM or OpenSSH). Default: your own, made on first use."
        ),
    ] = None,
    sigstore: Annotated[
        bool,
        typer.Option(
            "--sigstore", help="Sign through Sigstore instead, as the account you log in with. It is published."
        ),
    ] = False,
    identity_token: Annotated[
        str | None,
        typer.Option(
            envvar="SIGSTORE_IDENTITY_TOKEN",
            help="OIDC token. Default: that of the CI job, else a login in the browser.",
        ),
    ] = None,
    oauth_force_oob: Annotated[
        bool, typer.Option("--oauth-force-oob", help="Log in through a link and a code, on any machine with a browser.")
    ] = False,
    oidc_disable_ambient_providers: Annotated[
        bool,
        typer.Option(
            "--oidc-disable-ambient-providers",
            envvar="SIGSTORE_OIDC_DISABLE_AMBIENT_PROVIDERS",
            help="Log in also where the machine has a token of its own.",
        ),
    ] = False,
    staging: Annotated[bool, typer.Option("--staging", help="Sigstore's staging instance: for trials.")] = False,
    trust_config: Annotated[
        Path | None, typer.Option(help="An instance of your own: the file of its ClientTrustConfig.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Log in without being asked whether you may be named.")
    ] = False,
) -> None:
    """Sign a saved run with a key, or through Sigstore."""
    from kernel_agent.audit.seal import sign_file
    from kernel_agent.audit.signing import replaced
    from kernel_agent.errors import CodeVisionError
    from kernel_agent.session.outputs import clean_text

    given = {
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    wrong = given & ({"key"} if sigstore else {*_SIGSTORE})
    if wrong:
        told = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(wrong))
        raise typer.BadParameter(f"{told} {'is not for' if sigstore else 'needs'} --sigstore.")
    if why := replaced(notebook):
        print(clean_text(f"{notebook}: {why}. The new signature replaces those that it had."), file=sys.stderr)
    try:
        if sigstore:
            named = _log_in(
                identity_token,
                staging,
                trust_config,
                oob=oauth_force_oob,
                ambient=not oidc_disable_ambient_providers,
                yes=yes,
            )
            seal = sign_file(notebook, named)
            if named.made is not None:
                print(f"signer {named.made.name}, log entry {named.made.log_index}  (this signature)")
            own = ""
        else:
            signer = _key_signer(key)
            seal, own = sign_file(notebook, signer), signer.public_key.keyid
    except (CodeVisionError, OSError) as error:
        _fail(error)
    for name in seal.signers:
        print(f"signer {name}{'  (this key)' if name == own else ''}")
    print(f"head   {seal.head}")


_SIGSTORE = ("oauth_force_oob", "oidc_disable_ambient_providers", "staging", "trust_config", "yes", "identity_token")


def _key_signer(key: Path | None) -> CryptoSigner:
    """The signer of a file, or the user's own, which is made where there is none."""
    from kernel_agent.audit.keys import default_key, load_signer, make_key

    path = key or default_key()
    if key is None and not path.exists():
        make_key(path)
        print(f"A new key, {path}, signs your runs from now on (codevision ask too).", file=sys.stderr)
    return load_signer(path)


def _log_in(
    token: str | None, staging: bool, config: Path | None, *, oob: bool, ambient: bool, yes: bool
) -> SigstoreSigner:
    """Who signs through Sigstore. What that publishes is said before anybody logs in or anything is sent."""
    from kernel_agent.audit import sigstore_sign
    from kernel_agent.audit.sigstore_check import trust_of

    trust = trust_of(staging=staging, config=config)
    token = token or (sigstore_sign.ambient_token() if ambient else None)
    if token is None:
        who = "your e-mail address, as the account you log in with has it,"
        print(sigstore_sign.PUBLISHED.format(who=who), file=sys.stderr)
        if not yes:
            typer.confirm("Go on and log in?", abort=True, err=True)
        return sigstore_sign.SigstoreSigner(sigstore_sign.browser_token(trust, out_of_band=oob), trust)
    signer = sigstore_sign.SigstoreSigner(token, trust)
    print(sigstore_sign.PUBLISHED.format(who=signer.named), file=sys.stderr)
    return signer


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
        in_a_folder(html)
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
    print(f"codevision: {plain(str(error))}", file=sys.stderr)
    raise typer.Exit(code) from error
