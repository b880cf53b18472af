"""Pairs for the demo: sentences with spoken dates, times, amounts and ordinals, and the same sentences as written.

Everything is lower case and spaced as MiniLM's word pieces come back ("250 €", "17 h 30"), so that what a model
generates can be compared with what was asked for, character by character.
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
    adam alice amy andrew anna arthur barbara ben betty bill bob brian carl carol catherine charles chris claire
    daniel david diana donald dorothy edward eleanor elizabeth emily emma eric eva frank fred george grace hannah
    harry helen henry howard hugh ian isabel jack james jane jennifer jessica jim joan joe john joseph judith
    julia karen karl kate kevin larry laura linda lisa louis lucy margaret maria mark martha martin mary matthew
    max michael nancy nick nina oliver oscar pamela patrick paul peter philip rachel ralph rebecca richard robert
    roger rose ruth sam sarah simon sophie stephen susan ted teresa thomas tim tony victor vincent walter william
    """
)
PLACES = _listed(
    """
    amsterdam athens austin baltimore barcelona bath belfast berlin birmingham boston brighton bristol brussels
    budapest cairo calgary cambridge cardiff chicago cleveland cologne copenhagen dallas delhi denver detroit
    dublin durham edinburgh exeter florence frankfurt geneva genoa glasgow hamburg helsinki houston istanbul kiev
    leeds leicester lisbon liverpool london lyon madrid manchester melbourne memphis miami milan montreal moscow
    munich naples newcastle norwich nottingham oslo ottawa oxford paris perth philadelphia pittsburgh portland
    prague quebec rome rotterdam salzburg seattle seville sheffield southampton stockholm stuttgart sydney tokyo
    toronto turin vancouver venice vienna warsaw york zurich
    """
)
THINGS = _listed(
    """
    album apple bag basket bell bike boat book bottle box bridge camera candle carpet chair clock coat computer
    concert contract cup curtain desk dinner door engine film flute garden gate guitar hammer hat horse jacket
    kitchen knife lamp letter magazine map mirror movie needle newspaper painting parcel pen phone piano picture
    pipe poster printer radio recipe ring rope saddle sail scarf screen shirt shoe sofa spoon statue stove
    suitcase table tent ticket tower toy train truck umbrella vase violin wallet watch wheel window
    """
)

FRAMES = (
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
    """A number from 0 to 999 in words."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f" {UNITS[number % 10]}" if number % 10 else "")
    rest = f" and {cardinal(number % 100)}" if number % 100 else ""
    return f"{UNITS[number // 100]} hundred{rest}"


def ordinal(number: int) -> str:
    """A rank from 1 to 99 in words."""
    if number < 20:
        return FIRST[number]
    return f"{TENS[number // 10 - 2]} {FIRST[number % 10]}" if number % 10 else TENTHS[number // 10 - 2]


def rank(number: int) -> str:
    """A rank in figures: 21st."""
    suffix = "th" if number // 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def year(number: int) -> str:
    """A year from 1000 to 2099 in words."""
    century, rest = divmod(number, 100)
    if rest == 0:
        return "two thousand" if number == 2000 else f"{cardinal(century)} hundred"
    if rest < 10:
        return f"two thousand and {UNITS[rest]}" if century == 20 else f"{cardinal(century)} oh {UNITS[rest]}"
    return f"{cardinal(century)} {cardinal(rest)}"


def _date(dice: random.Random) -> tuple[str, str]:
    day, month, number = dice.randint(1, 31), dice.choice(MONTHS), dice.randint(1950, 2029)
    spoken = dice.choice((f"the {ordinal(day)} of {month}", f"{month} the {ordinal(day)}"))
    return f"{spoken} {year(number)}", f"{day} {month} {number}"


def _time(dice: random.Random) -> tuple[str, str]:
    hour, minute = dice.randrange(24), dice.randrange(0, 60, 5)
    part = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
    return f"{clock(hour, minute)} in the {part}", f"{hour} h {minute:02d}"


def clock(hour: int, minute: int) -> str:
    """A time of day in words, on a clock of twelve hours."""
    this, following = (UNITS[(h - 1) % 12 + 1] for h in (hour, hour + 1))
    named = {0: f"{this} o'clock", 15: f"quarter past {this}", 30: f"half past {this}", 45: f"quarter to {following}"}
    plain = f"{cardinal(minute)} past {this}" if minute < 30 else f"{cardinal(60 - minute)} to {following}"
    return named.get(minute, plain)


def _amount(dice: random.Random) -> tuple[str, str]:
    number = dice.choice((dice.randint(2, 99), dice.randrange(100, 1000, 50)))
    word, sign = dice.choice((("euros", "€"), ("pounds", "£")))
    return f"{cardinal(number)} {word}", f"{number} {sign}"


def _counted(word: str, sign: str) -> Callable[[random.Random], tuple[str, str]]:
    def make(dice: random.Random) -> tuple[str, str]:
        number = dice.randint(2, 99)
        return f"{cardinal(number)} {word}", f"{number} {sign}"

    return make


def _ordinal(dice: random.Random) -> tuple[str, str]:
    number = dice.randint(1, 31)
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
    """Different pairs, the same ones for the same seed."""
    dice = random.Random(seed)
    made: dict[str, Pair] = {}
    while len(made) < count:
        pair = _pair(dice)
        made[pair.source] = pair
    return list(made.values())


def _pair(dice: random.Random) -> Pair:
    source: list[str] = []
    target: list[str] = []
    for word in dice.choice(FRAMES).split():
        slot = word.strip("{}")
        spoken = written = dice.choice(_COPIED[slot]) if slot in _COPIED else word
        if slot in _SPOKEN:
            spoken, written = _SPOKEN[slot](dice)
        source.append(spoken)
        target.append(written)
    return Pair(_joined(source), _joined(target))


def _joined(words: list[str]) -> str:
    return " ".join(words).replace(" ,", ",").replace(" ?", "?")
