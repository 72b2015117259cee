"""`python -m perf.attacks --json OUT`: every case in every profile; exit status 1 where a claim is broken."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from perf.attacks.case import Result, all_cases
from perf.attacks.drive import Host, Outcome, Unavailable
from perf.attacks.profiles import PROFILES, Profile
from perf.attacks.table import rewrite


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m perf.attacks", description=__doc__)
    parser.add_argument("--json", help="write {escapes, cases, unavailable} here; - is standard output")
    parser.add_argument("--profile", action="append", choices=list(PROFILES), help="only these (may be given again)")
    parser.add_argument("--case", action="append", choices=list(all_cases()), metavar="NAME", help="only these cases")
    parser.add_argument("--group", action="append", help="only these groups")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--controls", action="store_true", help="try harmless attacks where nothing is claimed, too")
    parser.add_argument("--jobs", type=int, default=2, help="profiles at a time")
    parser.add_argument("--table", action="store_true", help="rewrite the table in docs/isolation.md")
    parser.add_argument("--as-user", help="run as this user (name or number); needs root and a --python of theirs")
    parser.add_argument("--python", default=sys.executable, help="interpreter for --as-user")
    return parser.parse_args()


def run_profile(profile: Profile, options: argparse.Namespace) -> tuple[list[Outcome], str]:
    """The outcomes, and why there are none where the machine cannot have the profile."""
    done: list[Outcome] = []
    with Host(profile, controls=options.controls) as host:
        for case in all_cases().values():
            if (options.case and case.name not in options.case) or (options.group and case.group not in options.group):
                continue
            try:
                outcome = host.run(case)
            except Unavailable as error:
                if not done:
                    return [], str(error)
                outcome = Outcome(
                    case=case.name, profile=profile.name, result=Result.NOT, detail=f"no host: {error}", seconds=0
                )
            done.append(outcome)
            note = f"  ({outcome.detail})" if outcome.detail and outcome.detail != "not run" else ""
            line = f"{profile.name:17} {case.group:10} {case.name:34} {outcome.result}  {outcome.seconds:.1f} s{note}"
            print(line, file=sys.stderr, flush=True)
    return done, ""


def as_user(options: argparse.Namespace) -> int:
    """Run the command again as another user, and write its report where this user may."""
    name = options.as_user
    entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    passed = [word for word in sys.argv[1:] if not word.startswith("--as-user")]
    for flag in ("--json", "--python", "--as-user"):
        for position, word in enumerate(passed):
            if word == flag or word.startswith(f"{flag}="):
                del passed[position : position + (1 if "=" in word else 2)]
                break
    passed = [word for word in passed if word not in (name, "--table")]
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, entry.pw_uid, entry.pw_gid)
        environment = {
            "HOME": home,
            "USER": entry.pw_name,
            "PATH": f"{Path(options.python).parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path[:1])) or str(Path.cwd()),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--inh-caps=-all"]
        command += [options.python, "-m", "perf.attacks", *passed, "--json", "-"]
        ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if options.json and ran.stdout:
        Path(options.json).write_text(ran.stdout)
    return ran.returncode


def main() -> int:
    options = arguments()
    if options.list:
        for case in all_cases().values():
            print(f"{case.group:10} {case.name:34} {case.must.splitlines()[0]}")
        return 0
    if options.as_user:
        return as_user(options)
    chosen = [profile for name, profile in PROFILES.items() if not options.profile or name in options.profile]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda profile: run_profile(profile, options), chosen))
    outcomes = [outcome for done, _ in results for outcome in done]
    unavailable = {profile.name: why for profile, (_, why) in zip(chosen, results, strict=True) if why}
    for name, why in unavailable.items():
        print(f"{name}: not to be had here. {why}", file=sys.stderr)
    escapes = sum(outcome.result is Result.NOT for outcome in outcomes)
    report = {
        "escapes": escapes,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "unavailable": unavailable,
        "cases": [outcome.json() for outcome in outcomes],
    }
    if options.json == "-":
        json.dump(report, sys.stdout, indent=1)
    elif options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.table:
        rewrite(outcomes)
    print(f"escapes: {escapes} of {sum(o.result is not Result.NOT_CLAIMED for o in outcomes)} claims", file=sys.stderr)
    return 1 if escapes else 0


if __name__ == "__main__":
    sys.exit(main())
