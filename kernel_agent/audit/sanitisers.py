"""Named rules for text that may differ between two honest runs of the same code.

Guarantees: a rule forgives only its groups; all around them, the number of its matches and their order are compared as they are.
What a group holds must be of the right kind (`fits`) and, but for rates and addresses, stand for the same thing everywhere in the
text: one to one. (An address stands for many things, as objects are freed and it is used again; it carries no content.) Text that
agrees only after rules is "normalised", never "identical", and where a rule says `why` it cannot be sure, the text is "not
replayable" instead; so it is where the code may have built what the rule looks for, or it stands where only code writes. No rule
holds once the code has spelled what the rule looks for: such text is the code's own.
There is no rule for times, dates, chance and temporary names: they could be anything.
Linear in the length of the text.
"""

from __future__ import annotations

import functools
import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a cell besides its text: marks of rules that the code has spelled, and names of those whose text it may
    have built; its seconds, recorded and replayed.
    """

    spelled: frozenset[str] = frozenset()
    seconds: tuple[float, float] = (0.0, 0.0)


Fits = Callable[[re.Match[str], re.Match[str], Known], bool]


@dataclass(frozen=True, kw_only=True)
class Sanitiser:
    """A rule. Every group of `pattern` is forgiven.

    Attributes:
        mark: what the code of the cell and of those before it must not spell.
        builds: code by which it may write such text itself: then nobody can be sure.
        places: where else than in such texts (stdout, stderr, text, result, error) only the code itself writes it; empty: nowhere.
        why: why what differs cannot be had again; "" where it carries nothing that a reader could take for content.
        mapped: whether a group stands for the same everywhere.
        fits: whether the recorded and the replayed match can be of the kind that the rule is for.
    """

    name: str
    pattern: re.Pattern[str]
    mark: str
    builds: re.Pattern[str] | None = None
    places: frozenset[str] = frozenset()
    why: str = ""
    mapped: bool = True
    fits: Fits = lambda _recorded, _replayed, _known: True


def _here(_recorded: re.Match[str], replayed: re.Match[str], _known: Known) -> bool:
    """Whether a library lies where this machine, or the image of a container, has its libraries."""
    return replayed[1] in _libraries() or _SYSTEM.fullmatch(replayed[1]) is not None


@functools.cache
def _libraries() -> frozenset[str]:
    paths = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return frozenset([*paths, *(str(Path(path).resolve()) for path in paths)])


def _finished(recorded: re.Match[str], replayed: re.Match[str], known: Known) -> bool:
    """Whether both are bars at their end whose times fit the cell's, and whose rates fit their times."""
    for match, seconds in ((recorded, known.seconds[0]), (replayed, known.seconds[1])):
        bar = _BAR.fullmatch(match[0])
        if bar is None or bar["done"] != bar["all"]:
            return False
        done, elapsed, rate = int(bar["done"]), 0, float(bar["rate"])
        for part in bar["elapsed"].split(":"):
            elapsed = 60 * elapsed + int(part)
        if bar["inverse"]:
            rate = 1 / rate if rate else 0.0
        if elapsed > seconds + 1 or not 0.95 * done <= rate * (elapsed + 1) or rate * elapsed > 1.05 * done:
            return False
    return True


_ADDRESS = r"0x[1-9a-fA-F][0-9a-fA-F]{4,10}[08]"  # aligned, and above the pages that no object lies in
_LIBRARY = r"(?:/[\w.+-]{1,40}){0,8}/lib(?:64)?/python3(?:\.\d{1,2})?(?:/(?:site|dist)-packages)?"
_SYSTEM = re.compile(r"/usr(?:/local)?/lib/python3(?:\.\d{1,2})?(?:/(?:site|dist)-packages)?")
_FILE = r"(?:/[\w.+-]{1,100}){1,16}\.py"
_BAR = re.compile(
    r"\| (?P<done>\d{1,9})/(?P<all>\d{1,9}) \[(?P<elapsed>\d{1,4}(?::\d\d){1,2})<00:00, {1,2}(?P<rate>\d{1,9}(?:\.\d\d)?)"
    r"(?:it/s|(?P<inverse>s)/it)\]"
)

_HEXADECIMAL = re.compile(
    r"\bhex\b|(?<!\w)0[xX](?![0-9a-fA-F])|%[-#0]{0,3}\d{0,3}[xX](?!\w)|[\w)\]{]:[-<>^=+#_0-9]{0,9}(?:\{\w{0,40}\})?[xX]\}"
    r"|\bformat\([^()\n]{1,80}, ?['\"][#\d]{0,9}[xX]['\"]"
)
_OWN = "the code may have written it by itself"
_TOLD = frozenset({"stderr", "error"})
"""Where Python and IPython write of the code that ran."""

SANITISERS = (
    Sanitiser(
        name="memory address",
        pattern=re.compile(
            rf"<(?:[^<>\n]|<(?:lambda|locals|genexpr|listcomp|dictcomp|setcomp)>){{1,300}}? at ({_ADDRESS})"
            rf"(?:[;:] [^<>\n]{{1,200}}? at ({_ADDRESS}))?(?=[>;:,])"
            rf"|\b(?:Generator|RandomState)\(\w{{1,40}}\) at ({_ADDRESS})\b|<cparam 'P' \(({_ADDRESS})\)>|< cv2\.[\w.]{{1,60}} ({_ADDRESS})>"
            r"|<Execution(?:Result|Info) object at ([1-9a-f][0-9a-f]{4,10}[08]),"
        ),
        mark=" at 0x",
        builds=_HEXADECIMAL,
        mapped=False,
    ),
    Sanitiser(
        name="file of a cell",  # its name holds the number of the kernel's process, and a hash of its code
        pattern=re.compile(
            r"(?<![\w.+/-])(/tmp|(?:/[\w.+-]{1,40}){0,4}/cv-\w{8}/own/tmp|/var/folders/\w{2}/\w{1,40}/T)/ipykernel_(\d{1,7})"
            r"(?=/\d{1,10}\.py\b)"
        ),
        mark="ipykernel_",
        places=_TOLD,
    ),
    Sanitiser(
        name="execution count",
        pattern=re.compile(r"^ {0,2}Cell In\[(\d{1,6})\], line \d{1,6}\b", re.MULTILINE),
        mark="Cell In",
        places=_TOLD,
    ),
    Sanitiser(
        name="library location",
        pattern=re.compile(rf"(?<![\w.+/-])({_LIBRARY})(?={_FILE}\b)"),
        mark="/python3",
        fits=_here,
    ),
    Sanitiser(
        name="progress bar",
        pattern=re.compile(
            r"\| \d{1,9}/\d{1,9} \[(\d{1,4}(?::\d\d){1,2})<00:00,( {1,2}\d{1,9}(?:\.\d\d)?(?:it/s|s/it))\]"
        ),
        mark="it/s",
        mapped=False,
        fits=_finished,
    ),
    Sanitiser(
        name="line of a library",
        pattern=re.compile(
            rf"/(?:(?:site|dist)-packages|lib/python3(?:\.\d{{1,2}})?){_FILE}(?::(\d{{1,6}}): \w{{1,60}}Warning: "
            rf'|", line (\d{{1,6}}), in )'
        ),
        mark="/python3",
        why="another version of a library has its lines elsewhere",
    ),
    Sanitiser(
        name="kernel folder",
        pattern=re.compile(r"(?<![\w.+/-])(/kernel/work|(?:/[\w.+-]{1,64}){0,8}/cv-\w{8}/own/work)(?![\w.+-])"),
        mark="/work",
        why="a kernel's folder lies elsewhere",
    ),
    Sanitiser(
        name="temporary name",
        pattern=re.compile(r"(?<![\w.+/-])((?:/[\w.+-]{1,64}){0,8}/tmp[a-z0-9_]{8})(?![\w+-])"),
        mark="/tmp",
        why="it is drawn from the system's entropy",
    ),
    Sanitiser(
        name="display id",
        pattern=re.compile(r"<DisplayHandle display_id=([0-9a-f]{32})>"),
        mark="<DisplayHandle",
        why="it is drawn from the system's entropy",
    ),
)


def spelled(code: str) -> frozenset[str]:
    """The marks of rules in code, and the names of rules whose text it may build."""
    built = {rule.name for rule in SANITISERS if rule.builds is not None and rule.builds.search(code)}
    return frozenset({rule.mark for rule in SANITISERS if rule.mark in code} | built)


def normalise(what: str, first: str, second: str, known: Known) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """The recorded and the replayed text after the rules, the names of those that made a difference, and why that is not sure."""
    names, unsure = [], []
    for rule in SANITISERS:
        if first == second:
            break
        if rule.mark in known.spelled:
            continue
        one, other = list(rule.pattern.finditer(first)), list(rule.pattern.finditer(second))
        pairs = [pair for a, b in zip(one, other, strict=False) for pair in zip(a.groups(), b.groups(), strict=True)]
        if len(one) != len(other) or all(a == b for a, b in pairs):
            continue
        if any((a is None) != (b is None) for a, b in pairs):
            continue
        if not all(rule.fits(a, b, known) for a, b in zip(one, other, strict=True) if a.groups() != b.groups()):
            continue
        names.append(rule.name)
        if rule.why:
            unsure.append(f"{rule.name}: {rule.why}")
        elif rule.name in known.spelled or (rule.places and what not in rule.places):
            unsure.append(f"{rule.name}: {_OWN}")
        elif rule.mapped and not len(set(pairs)) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
            unsure.append(f"{rule.name}: one in one text stands for two in the other")
        first, second = _blanked(first, one), _blanked(second, other)
    return first, second, tuple(names), tuple(unsure)


def _blanked(text: str, matches: list[re.Match[str]]) -> str:
    """The text with "…" for every group."""
    parts, at = [], 0
    for match in matches:
        for group in range(1, (match.re.groups or 0) + 1):
            if match[group] is not None:
                parts += [text[at : match.start(group)], "…"]
                at = match.end(group)
    return "".join([*parts, text[at:]])
