"""The words the demo model knows: plain lists, so that the tasks and the tokeniser agree on them."""

from collections.abc import Callable
from random import Random
from typing import Final


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


WORDS: Final = _listed(
    "ant apple arm ball bat bear bed bee bell bird blue boat bone book box boy bread bus cake car cat cow cup day deer "
    "desk dog door duck ear egg eye farm fish flag fly foot fork fox frog game gate girl goat gold green hand hat hen "
    "hill horse ice jam key king kite lamp leaf leg lion map milk moon mouse nest net night nose nut oak owl pan park "
    "pen pig pin plum pond queen rain red ring road rock rose salt sea sheep ship shoe sky snow sock star stone sun "
    "swan tea tent tree wall wind wolf"
)

NAMES: Final = _listed(
    "Ada Alan Anna Ben Carl Clara Dan Emma Eva Finn Grace Hugo Ida Ivan Jane John Kurt Lena Leo Lisa Max Mia Nina "
    "Noah Olga Otto Paul Rosa Sam Tom"
)

PLACES: Final = _listed(
    "Athens Berlin Bern Boston Cairo Delhi Denver Dublin Geneva Lagos Lima Lisbon London Lyon Madrid Milan Munich "
    "Nairobi Oslo Paris Porto Prague Quito Riga Rome Seoul Sofia Tokyo Turin Vienna Warsaw Zurich"
)

COLOURS: Final[tuple[str, ...]] = ("black", "blue", "brown", "gold", "green", "grey", "pink", "red", "white", "yellow")

PETS: Final[tuple[str, ...]] = ("bird", "cat", "dog", "fish", "frog", "goat", "hen", "horse", "mouse", "sheep")

FOODS: Final[tuple[str, ...]] = ("apple", "bread", "cake", "egg", "fish", "jam", "milk", "nut", "plum", "tea")

_HEADS: Final = _listed("Ba Be Bo Da Do Fa Ga Ka Ko La Le Lo Ma Me Mo Na No Pa Ra Ro Sa So Ta To Va")

_TAILS: Final = _listed("bel dor kin lan len mar min nor ra ren rin sen ta tin ton va vik vin")


def invented(rng: Random) -> str:
    """A made-up proper name of two or three syllables, so that names are copied and not only remembered."""
    tails = "".join(rng.choice(_TAILS) for _ in range(rng.randint(1, 2)))
    return rng.choice(_HEADS) + tails


def mostly(known: tuple[str, ...]) -> Callable[[Random], str]:
    """A drawer of one of the `known` words, or one time in eight of an invented one."""
    return lambda rng: invented(rng) if rng.random() < 0.125 else rng.choice(known)
