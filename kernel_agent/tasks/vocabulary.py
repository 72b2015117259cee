"""The words that generated documents say: names, goods, places, and plain English sentences about them.

Sentences are filled-in patterns: grammatical, meaningless, and full of the common words that counting questions ask for.
Everything is drawn from the generator handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

_T = TypeVar("_T")


def choose(rng: np.random.Generator, items: Sequence[_T]) -> _T:
    """One item, uniform."""
    return items[int(rng.integers(len(items)))]


def some(rng: np.random.Generator, items: Sequence[_T], count: int) -> list[_T]:
    """`count` different items in random order."""
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


def _list(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[,\n]\s*", text.strip()))


FIRST_NAMES = _list(
    """Alice, Amir, Anna, Ben, Carla, Chen, Clara, Daniel, David, Elena, Emma, Erik, Fatima, Felix, Grace, Hannah, Hugo,
Ivan, Ines, James, Julia, Karim, Laura, Leo, Lina, Lucas, Maria, Marta, Maya, Mei, Nadia, Noah, Olga, Omar, Oscar, Paula,
Peter, Priya, Rosa, Ruth, Samir, Sara, Simon, Sofia, Tariq, Thomas, Uma, Vera, Viktor, Walter, Yara, Zoe"""
)
LAST_NAMES = _list(
    """Adams, Baker, Bauer, Bennett, Brandt, Carter, Castro, Cooper, Dahl, Diaz, Egan, Fischer, Foster, Garcia, Grant, Hale,
Hansen, Hughes, Ibrahim, Jensen, Kaur, Keller, Khan, Kim, Larsen, Lopez, Marsh, Meyer, Morgan, Nakamura, Novak, Okafor,
Olsen, Park, Patel, Petrov, Quinn, Reyes, Rossi, Sato, Schmidt, Silva, Singh, Stone, Tanaka, Turner, Vargas, Weber, Young"""
)
CITIES = _list(
    """Ashford, Birchfield, Brookhaven, Clearwater, Cedar Falls, Dunmore, Eastbridge, Elmwood, Fairview, Glenrock,
Greenville, Harbor Point, Highgate, Kingsport, Lakewood, Linden, Maple Grove, Millbrook, Newhaven, Northfield, Oakdale,
Pinecrest, Port Laurel, Redhill, Riverton, Rockport, Sandhurst, Silverton, Stonebridge, Summerfield, Westmere, Windsor"""
)
STREETS = _list(
    """Abbey Road, Birch Lane, Bridge Street, Canal Street, Castle Road, Cherry Lane, Church Street, College Avenue,
Dock Road, Elm Street, Field Lane, Garden Street, Hill Road, King Street, Lake Drive, Market Street, Mill Lane, North Avenue,
Orchard Road, Park Avenue, Queen Street, River Road, Station Road, Union Square, Valley Drive, West Street, Willow Way"""
)
SHOPS = _list(
    """Bakery, Books, Cafe, Clinic, Deli, Diner, Florist, Gallery, Grocery, Hardware, Hotel, Kitchen, Laundry, Market,
Motors, Music, Optics, Pharmacy, Pizza, Records, Shoes, Studio, Tailor, Tea House, Tools, Toys, Travel"""
)
GOODS = _list(
    """Apples 1kg, Almond Milk, Bananas, Basil, Bread Rolls, Brown Rice, Butter, Carrots, Cheddar, Chicken Wrap, Coffee
Beans, Cookies, Cream, Dark Chocolate, Dish Soap, Eggs 12, Feta, Flour, Garlic, Ginger Tea, Granola, Green Beans, Honey,
Jam, Ketchup, Lemons, Lentils, Lettuce, Light Bulb, Mango, Mineral Water, Mushrooms, Napkins, Oat Bar, Olive Oil, Onions,
Orange Juice, Paper Towels, Pasta, Peaches, Peanut Butter, Pears, Pepper, Pineapple, Potatoes, Raisins, Salmon, Salt,
Sandwich, Shampoo, Soap, Soup, Spinach, Sponge, Sugar, Tomatoes, Toothpaste, Tuna, Vinegar, Walnuts, Yogurt"""
)
ADJECTIVES = _list(
    """annual, bright, broad, calm, careful, cheap, clean, clear, cold, common, daily, dark, deep, distant, dry, early, empty,
fair, famous, final, former, fresh, full, gentle, golden, green, heavy, hidden, huge, large, late, light, local, long, lower,
main, modern, narrow, new, northern, old, open, plain, public, quiet, rapid, rare, recent, regular, rough, rural, sharp,
short, silent, simple, slow, small, smooth, solid, southern, steady, strong, sudden, thin, upper, useful, warm, western, wide"""
)
NOUNS = _list(
    """account, agreement, archive, avenue, balance, board, bridge, budget, building, camera, canal, captain, carpet, cause,
chapter, circle, city, client, coast, column, committee, company, concert, contract, council, corner, country, court, crowd,
customer, decision, design, desk, detail, district, doctor, document, driver, engine, estimate, event, factory, farm, figure,
forest, garden, group, harbor, history, hospital, house, island, journal, judge, kitchen, laboratory, lake, letter, library,
machine, manager, market, measure, meeting, member, method, mountain, museum, network, notice, number, office, orchard,
order, owner, painter, paper, passage, payment, period, picture, pilot, plan, platform, policy, price, problem, procession,
product, program, project, proposal, quarter, question, railway, reason, record, region, report, result, river, road, route,
sample, school, season, series, service, shelter, signal, sister, station, storm, story, street, student, study, summer,
supply, surface, survey, system, teacher, theory, ticket, tower, town, trader, valley, vessel, village, visitor, volume,
wagon, warehouse, weaver, window, winter, worker, writer"""
)
VERBS = _list(
    """accepted, announced, approved, arranged, carried, changed, checked, collected, compared, covered, crossed, delayed,
described, divided, entered, examined, expected, explained, followed, improved, included, measured, mentioned, moved,
noticed, observed, offered, opened, ordered, passed, planned, prepared, presented, printed, produced, protected, proved,
raised, reached, received, recorded, reduced, refused, repaired, repeated, replaced, reported, required, restored, returned,
reviewed, served, shared, showed, signed, studied, supported, tested, visited, watched"""
)
PLACES = _list(
    "in the valley, on the coast, at the station, across the river, beside the road, behind the market, inside the tower, "
    "near the harbor, outside the town, over the bridge, under the roof, along the canal, at the office, in the garden"
)
TIMES = _list(
    "in the morning, at noon, last week, after the storm, before the winter, during the summer, every year, for a month, "
    "on Monday, on Friday, in the spring, at the end of the day, two days later, in March, since the meeting"
)
PATTERNS = (
    "The {a} {n} {v} the {n} {p}.",
    "{F} {L} {v} a {a} {n} and the {n} {t}.",
    "In {c} the {n} of the {n} {v} the {a} {n}.",
    "It was the {a} {n} that {v} the {n}, and not the {n}.",
    "{T}, the {n} {v} every {n} of the {a} {n}.",
    "No {n} was {v} {p}, but the {n} and the {n} were.",
    "The {n} of {c} {v} {d} of the {d2} {a} {ns}.",
    "A {n} is not a {n}, as {F} {v} {t}.",
    "We {v} the {n} to the {n}, and then to the {a} {n} of {c}.",
    "When the {n} {v} the {n}, the {a} {n} was {v} {p}.",
    "Of all the {ns} {p}, only the {a} one {v} the {n}.",
    "The {n} and the {n} {v} {t} and {t2}.",
    "For the {a} {n} {F} {L} {v} {d} {ns}.",
    "They {v} the {n} in {c}, where the {n} had {v} a {n}.",
    "Each {n} {v} the {n} of the {n} with a {a} {n}.",
    "To the {n}, the {n} was as {a} as the {n} {p}.",
)


def sentence(rng: np.random.Generator) -> str:
    """One sentence of 6 to 18 words."""
    pattern = choose(rng, PATTERNS)

    def fill(match: re.Match[str]) -> str:
        key = match.group(1)
        if key == "d":
            return str(int(rng.integers(2, 60)))
        if key == "d2":
            return str(int(rng.integers(61, 400)))
        word = choose(rng, _SLOTS[key])
        if key == "ns":
            return _plural(word)
        return word[0].upper() + word[1:] if key == "T" else word

    filled = re.sub(r"\{(\w+)\}", fill, pattern)
    return re.sub(r"\b([Aa])(?= (?:[aeio]|upper))", r"\1n", filled)


_SLOTS = {
    "a": ADJECTIVES,
    "n": NOUNS,
    "ns": NOUNS,
    "v": VERBS,
    "p": PLACES,
    "t": TIMES,
    "t2": TIMES,
    "T": TIMES,
    "F": FIRST_NAMES,
    "L": LAST_NAMES,
    "c": CITIES,
}


def _plural(noun: str) -> str:
    if noun.endswith("s"):  # "series"
        return noun
    if noun[-1] == "y" and noun[-2] not in "aeo":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("x", "ch", "sh")) else "s")


def sentences(rng: np.random.Generator, words: int) -> str:
    """Sentences until there are about that many words."""
    out: list[str] = []
    count = 0
    while count < words:
        out.append(sentence(rng))
        count += out[-1].count(" ") + 1
    return " ".join(out)


def heading(rng: np.random.Generator) -> str:
    """Two to four words in title case."""
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"The {choose(rng, ADJECTIVES)} {choose(rng, NOUNS)}",
        lambda: f"{choose(rng, NOUNS)} and {choose(rng, NOUNS)}",
        lambda: f"{choose(rng, ADJECTIVES)} {choose(rng, NOUNS)} report",
        lambda: f"Notes on the {choose(rng, NOUNS)}",
        lambda: f"The {choose(rng, NOUNS)} of {choose(rng, CITIES)}",
    )
    return choose(rng, forms)().title()


def person(rng: np.random.Generator) -> str:
    """First and last name."""
    return f"{choose(rng, FIRST_NAMES)} {choose(rng, LAST_NAMES)}"


def address(rng: np.random.Generator) -> tuple[str, str]:
    """Street with number; town with code."""
    street = f"{int(rng.integers(1, 240))} {choose(rng, STREETS)}"
    return street, f"{choose(rng, CITIES)} {int(rng.integers(10_000, 99_999))}"


def shop(rng: np.random.Generator) -> str:
    """A business's name."""
    kind = choose(rng, SHOPS)
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{choose(rng, LAST_NAMES)}'s {kind}",
        lambda: f"{choose(rng, CITIES)} {kind}",
        lambda: f"{choose(rng, LAST_NAMES)} & {choose(rng, LAST_NAMES)}",
        lambda: f"{choose(rng, ADJECTIVES).title()} {choose(rng, NOUNS).title()} {kind}",
    )
    return choose(rng, forms)()


def date(rng: np.random.Generator) -> str:
    """A day of 2015 to 2026 as 14/03/2021."""
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(2015, 2027))
    return f"{day:02d}/{month:02d}/{year}"


def clock_time(rng: np.random.Generator) -> str:
    """An opening hour as 09:45."""
    return f"{int(rng.integers(7, 22)):02d}:{5 * int(rng.integers(12)):02d}"


def phone(rng: np.random.Generator) -> str:
    """A telephone number."""
    return f"{int(rng.integers(200, 999))}-{int(rng.integers(100, 999))}-{int(rng.integers(1000, 9999))}"


def code(rng: np.random.Generator, letters: int = 2, digits: int = 6) -> str:
    """A reference number as KX-204731, without letters and digits that are easily taken for each other."""
    head = "".join(choose(rng, "ACEFGHKLMNPRTUWXY") for _ in range(letters))
    return f"{head}-{int(rng.integers(10 ** (digits - 1), 10**digits))}"
