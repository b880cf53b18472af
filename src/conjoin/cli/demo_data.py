"""Pairs for the demo: sentences with spoken dates, times, amounts and ordinals, and the same sentences as written.

Everything is lower case and spaced as MiniLM's WordPiece tokens are decoded ("250 €", "17 h 30"), so that a generated
text can be compared with its target character by character.
"""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


UNITS = _listed(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
)
TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")
FIRST = _listed(
    """
    zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth
    """
)
TENTHS = _listed("twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth")
MONTHS = _listed("january february march april may june july august september october november december")

PEOPLE = _listed(
    """
    adam alice andrew arthur ben betty bob carl catherine charles claire david donald dorothy eleanor emily eric
    frank fred grace harry henry howard ian jack jane jennifer jim joe joseph julia karen kate larry linda lisa
    lucy maria martha martin matthew michael nick nina oscar patrick peter rachel ralph richard roger ruth sam
    simon stephen ted teresa tim victor walter
    """
)
PLACES = _listed(
    """
    amsterdam athens baltimore bath berlin birmingham brighton brussels cairo calgary cardiff cleveland copenhagen
    dallas denver dublin edinburgh exeter frankfurt genoa hamburg helsinki istanbul leeds lisbon london lyon
    manchester memphis milan montreal munich newcastle nottingham oslo oxford perth pittsburgh portland quebec
    rotterdam seattle seville southampton stuttgart tokyo toronto vancouver vienna york
    """
)
THINGS = _listed(
    """
    album apple basket bell boat bottle box camera carpet chair coat concert contract curtain dinner door film
    garden gate hammer horse jacket knife letter magazine mirror needle newspaper parcel phone piano pipe printer
    radio ring saddle sail screen shoe sofa statue suitcase table ticket toy train umbrella violin wallet wheel
    """
)

TEMPLATES = (
    "{person} meets {person} in {place} on {date} at {time}",
    "the {ordinal} {thing} costs {amount} in {place}",
    "please send the {thing} to {person} before {date}",
    "{person} paid {amount} for the {thing} on {date}",
    "the {thing} leaves {place} at {time}",
    "on {date} {person} moved from {place} to {place}",
    "the price of a {thing} rose by {share} to {amount}",
    "{person} finished {ordinal} in {place} at {time}",
    "call {person} at {time} about the {ordinal} {thing}",
    "is the {thing} from {place} really worth {amount} , {person} ?",
    "{person} and {person} will be back in {place} by {time} on {date}",
    "only {share} of the people in {place} own a {thing}",
    "the {thing} weighs {weight} and {place} is {distance} away",
    "{person} was born on {date} in {place}",
)


class Pair(NamedTuple):
    """A sentence as spoken, and as written."""

    source: str
    target: str


def cardinal(number: int) -> str:
    """Return a number from 0 to 999 in words."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f" {UNITS[number % 10]}" if number % 10 else "")
    rest = f" and {cardinal(number % 100)}" if number % 100 else ""
    return f"{UNITS[number // 100]} hundred{rest}"


def ordinal(number: int) -> str:
    """Return a rank from 1 to 99 in words."""
    if number < 20:
        return FIRST[number]
    return f"{TENS[number // 10 - 2]} {FIRST[number % 10]}" if number % 10 else TENTHS[number // 10 - 2]


def rank(number: int) -> str:
    """Return a rank in figures, such as 21st."""
    suffix = "th" if number // 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def year(number: int) -> str:
    """Return a year from 1000 to 2099 in words."""
    century, rest = divmod(number, 100)
    if rest == 0:
        return "two thousand" if number == 2000 else f"{cardinal(century)} hundred"
    if rest < 10:
        return f"two thousand and {UNITS[rest]}" if century == 20 else f"{cardinal(century)} oh {UNITS[rest]}"
    return f"{cardinal(century)} {cardinal(rest)}"


def _date(rng: random.Random) -> tuple[str, str]:
    day, month, number = rng.randint(1, 31), rng.choice(MONTHS), rng.randint(1950, 2029)
    spoken = rng.choice((f"the {ordinal(day)} of {month}", f"{month} the {ordinal(day)}"))
    return f"{spoken} {year(number)}", f"{day} {month} {number}"


def _time(rng: random.Random) -> tuple[str, str]:
    hour, minute = rng.randrange(24), rng.randrange(0, 60, 5)
    part = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
    return f"{clock(hour, minute)} in the {part}", f"{hour} h {minute:02d}"


def clock(hour: int, minute: int) -> str:
    """Return a time of day in words, on a 12-hour clock."""
    this, following = (UNITS[(h - 1) % 12 + 1] for h in (hour, hour + 1))
    named = {0: f"{this} o'clock", 15: f"quarter past {this}", 30: f"half past {this}", 45: f"quarter to {following}"}
    plain = f"{cardinal(minute)} past {this}" if minute < 30 else f"{cardinal(60 - minute)} to {following}"
    return named.get(minute, plain)


def _amount(rng: random.Random) -> tuple[str, str]:
    number = rng.choice((rng.randint(2, 99), rng.randrange(100, 1000, 50)))
    word, sign = rng.choice((("euros", "€"), ("pounds", "£")))
    return f"{cardinal(number)} {word}", f"{number} {sign}"


def _counted(word: str, sign: str) -> Callable[[random.Random], tuple[str, str]]:
    def make(rng: random.Random) -> tuple[str, str]:
        number = rng.randint(2, 99)
        return f"{cardinal(number)} {word}", f"{number} {sign}"

    return make


def _ordinal(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(1, 31)
    return ordinal(number), rank(number)


_SPOKEN: Mapping[str, Callable[[random.Random], tuple[str, str]]] = {
    "date": _date,
    "time": _time,
    "amount": _amount,
    "share": _counted("percent", "%"),
    "weight": _counted("kilograms", "kg"),
    "distance": _counted("kilometers", "km"),
    "ordinal": _ordinal,
}
_COPIED: Mapping[str, tuple[str, ...]] = {"person": PEOPLE, "place": PLACES, "thing": THINGS}


def make_pairs(count: int, *, seed: int = 0) -> list[Pair]:
    """Return distinct pairs; the same seed gives the same pairs."""
    rng = random.Random(seed)
    pairs: dict[str, Pair] = {}
    while len(pairs) < count:
        pair = _pair(rng)
        pairs[pair.source] = pair
    return list(pairs.values())


def _pair(rng: random.Random) -> Pair:
    source: list[str] = []
    target: list[str] = []
    for word in rng.choice(TEMPLATES).split():
        slot = word.strip("{}")
        spoken = written = rng.choice(_COPIED[slot]) if slot in _COPIED else word
        if slot in _SPOKEN:
            spoken, written = _SPOKEN[slot](rng)
        source.append(spoken)
        target.append(written)
    return Pair(_joined(source), _joined(target))


def _joined(words: list[str]) -> str:
    return " ".join(words).replace(" ,", ",").replace(" ?", "?")
