"""Made-up opinions: public sentences of praise and complaint, from word lists and a seed.

An encoder's states of them say, before any customer's text is read, where its states lie and in
which direction praise and complaint differ. No person wrote them, so that no epsilon has to cover
them.

>>> texts, praise = made_up_opinions(3, seed=7)
>>> for text, good in zip(texts, praise, strict=True):
...     print("+" if good else "-", text)
- This film is flimsy. Could not be worse.
- Dirty museum!
- What a slow headset, it broke at once.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_THINGS: Final = _words(
    "phone camera hotel room meal soup pizza coffee tea waiter staff service book film story "
    "jacket dress shoe bag chair table lamp toy game battery charger cable headset screen "
    "speaker keyboard printer car bike tool knife pan kettle cream soap perfume delivery package "
    "price store place restaurant bar museum tour flight app website manual support music garden "
    "bed towel shirt watch"
)
_GOOD: Final = _words(
    "good great excellent wonderful perfect lovely beautiful fantastic superb delightful pleasant "
    "reliable sturdy comfortable friendly fresh tasty delicious clean quick helpful easy bright "
    "sharp clear generous fair impressive brilliant amazing outstanding charming smooth solid "
    "satisfying"
)
_BAD: Final = _words(
    "bad terrible awful horrible poor ugly disappointing dreadful useless broken flimsy "
    "uncomfortable rude stale bland disgusting dirty slow confusing difficult dull blurry noisy "
    "cheap overpriced annoying boring pathetic unacceptable faulty cold weak mediocre frustrating "
    "defective"
)
_PRAISE: Final = (
    *("I love it", "it works well", "I would buy it again", "I recommend it to everyone"),
    *("we will come back", "it exceeded what I expected", "it lasts long", "worth every penny"),
    *("I am very happy", "it fits well", "no complaints at all", "my family enjoyed it"),
    *("five stars", "could not be better", "I use it every day"),
)
_COMPLAINT: Final = (
    *("I hate it", "it does not work", "it stopped working after a week", "one star"),
    *("I would not recommend it", "we will never come back", "it is a waste of money"),
    *("it broke at once", "I want my money back", "I am very unhappy", "it does not fit"),
    *("save your money", "nobody enjoyed it", "could not be worse", "I returned it"),
)
_FACTS: Final = (
    *("I bought it last week", "it comes in black", "we ordered two of them"),
    *("it arrived on Tuesday", "my brother has one", "it is for the kitchen"),
    *("we were there for lunch", "this is my second one", "it has two buttons"),
    "I got it as a gift",
)
_DEGREES: Final = _words("very really quite so truly just pretty absolutely rather extremely")
_DENIALS: Final = ("not", "never", "hardly", "not very")
_FORMS: Final = (
    "the {thing} is {degree} {same}.",
    "{same} {thing}!",
    "the {thing} was {same} and {verdict}.",
    "{verdict}.",
    "the {thing} is {denial} {opposite}.",
    "{fact}, and {verdict}.",
    "I found the {thing} {same}, and the {other} {degree} {same_too}.",
    "the {other} was {opposite}, but the {thing} is {same}, {verdict}.",
    "this {thing} is {same}. {verdict}.",
    "what a {same} {thing}, {verdict}.",
)


def made_up_opinions(count: int, *, seed: int) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """Make up sentences of praise and of complaint, about half of each.

    Args:
        count: Number of sentences N.
        seed: The same seed gives the same sentences.

    Returns:
        N English sentences, and [N] which of them praise.
    """
    rng = np.random.default_rng(seed)
    praise = rng.random(count) < 0.5
    return [_opinion(rng, good=bool(good)) for good in praise], praise


def _opinion(rng: np.random.Generator, *, good: bool) -> str:
    def one(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    same, opposite = (_GOOD, _BAD) if good else (_BAD, _GOOD)
    text = one(_FORMS).format(
        thing=one(_THINGS),
        other=one(_THINGS),
        same=one(same),
        same_too=one(same),
        opposite=one(opposite),
        verdict=one(_PRAISE if good else _COMPLAINT),
        fact=one(_FACTS),
        degree=one(_DEGREES),
        denial=one(_DENIALS),
    )
    return ". ".join(part[:1].upper() + part[1:] for part in text.split(". "))
