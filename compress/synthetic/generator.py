"""The embedded benchmark: inference pairs from a small grammar, with lexical overlap as shortcut.

A premise states one or two events in one of six structures; a hypothesis, one event, is entailed if it
is one of them, in either voice and up to synonyms. In training, overlap predicts the label of all but
a few "conflicting" pairs; the OOD split has high overlap throughout, as HANS does (McCoy et al. 2019).
Run: ``python -m compress.synthetic.generator --output_dir data/synthetic [--seed 0]``.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

logger = logging.getLogger(__name__)

FIELDS = ("premise", "hypothesis", "label", "structure", "alignment")
ENTAILED, NOT_ENTAILED = "entailment", "not_entailment"
ALIGNED, CONFLICTING = "aligned", "conflicting"
MAX_PAIRS = 200_000
"""Most pairs of one call: the rarest kind of pair has a million members in each hash part."""


def _forms(text: str) -> tuple[tuple[str, ...], ...]:
    """Meanings, separated by spaces, each with its two synonyms, separated by a slash."""
    return tuple(tuple(meaning.split("/")) for meaning in text.split())


NOUNS = _forms(
    "doctor/physician lawyer/attorney actor/performer author/novelist teacher/instructor "
    "student/pupil manager/supervisor thief/robber sailor/mariner cook/chef child/kid "
    "king/monarch merchant/trader pilot/aviator janitor/caretaker driver/chauffeur "
    "scientist/researcher judge/magistrate reporter/journalist guest/visitor "
    "detective/investigator barber/hairdresser priest/clergyman tenant/lodger"
)
VERBS = _forms(
    "saw/noticed helped/assisted hired/employed praised/commended blamed/accused "
    "stopped/halted taught/educated called/phoned chased/pursued hated/despised "
    "beat/defeated hid/concealed forgave/pardoned scared/frightened annoyed/irritated "
    "deceived/misled greeted/welcomed mocked/ridiculed"
)
"""Past tenses. No verb is symmetric and none implies another, so distinct means not entailed."""
ADJECTIVES = _forms(
    "happy/cheerful sad/gloomy clever/smart angry/furious rich/wealthy brave/courageous "
    "quiet/silent famous/renowned tired/weary polite/courteous lazy/idle strange/odd"
)
PLACES = (
    *("garden", "shop", "harbor", "forest", "street", "hotel", "corridor", "cellar"),
    *("museum", "station", "library", "church", "market", "theater", "kitchen", "village"),
)
PREPOSITIONS = ("near", "behind", "beside")
FUNCTION_WORDS = ("the", "was", "by", "that", "and", "in", *PREPOSITIONS)
IRREGULAR = {"saw": "seen", "beat": "beaten", "hid": "hidden", "forgave": "forgiven"}
"""Participles that differ from the past tense."""
SYNONYM = {
    word: other
    for first, second in (*NOUNS, *VERBS, *ADJECTIVES)
    for word, other in ((first, second), (second, first))
}


@dataclass(frozen=True)
class Person:
    """A noun phrase: a noun and, perhaps, an adjective."""

    noun: str
    adjective: str | None = None

    def __str__(self) -> str:
        """The phrase with its article."""
        return " ".join(filter(None, ("the", self.adjective, self.noun)))


@dataclass(frozen=True)
class Event:
    """Who did what to whom; ``verb`` is a past tense."""

    agent: Person
    verb: str
    patient: Person

    def text(self, passive: bool) -> str:
        """The event as a clause."""
        if passive:
            participle = IRREGULAR.get(self.verb, self.verb)
            return f"{self.patient} was {participle} by {self.agent}"
        return f"{self.agent} {self.verb} {self.patient}"


@dataclass(frozen=True)
class Scene:
    """A premise, the events that it states and only seems to state, and the hypothesis' voice."""

    premise: str
    stated: tuple[Event, ...]
    misread: tuple[Event, ...]
    passive: bool = False

    def words(self) -> set[str]:
        """The premise's nouns, adjectives, articles and verbs, the latter as past tenses."""
        events = (*self.stated, *self.misread)
        return {word for event in events for word in event.text(passive=False).split()}


def _draw(rng: Random, lexicon: Sequence[Sequence[str]], count: int) -> list[str]:
    """Words of distinct meaning, each in one of its two forms."""
    return [rng.choice(forms) for forms in rng.sample(lexicon, count)]


def _cast(rng: Random) -> list[Person]:
    """Three distinct persons, each with an adjective with probability 0.2."""
    adjectives = _draw(rng, ADJECTIVES, 3)
    return [
        Person(noun, adjective if rng.random() < 0.2 else None)
        for noun, adjective in zip(_draw(rng, NOUNS, 3), adjectives, strict=True)
    ]


def _place(rng: Random, probability: float) -> str:
    """The end of a premise: a place, or nothing."""
    return f" in the {rng.choice(PLACES)}" if rng.random() < probability else ""


def _two_voices(rng: Random, place: float, change: bool) -> Scene:
    """One event. place: probability of a place; change: the hypothesis has the other voice."""
    a, b, _ = _cast(rng)
    (verb,) = _draw(rng, VERBS, 1)
    event, passive = Event(a, verb, b), rng.random() < 0.5
    premise = event.text(passive) + _place(rng, place)
    return Scene(premise, (event,), (Event(b, verb, a),), passive != change)


def _embed(rng: Random, described: str, cast: list[Person], verb: str) -> tuple[str, Event, Event]:
    """A premise in which `described` is agent or patient, its main event, and a misreading of it.

    described: a phrase for the first of `cast` that names the second, who takes no part.
    """
    a, b, c = cast
    if rng.random() < 0.5:
        premise, stated, misread = f"{described} {verb} {c}", Event(a, verb, c), Event(b, verb, c)
    else:
        premise, stated, misread = f"{c} {verb} {described}", Event(c, verb, a), Event(c, verb, b)
    return premise + _place(rng, 0.4), stated, misread


def _relative(rng: Random, subject: bool) -> Scene:
    """A person described by a clause of which he or she is the subject or the object."""
    a, b, c = _cast(rng)
    inner, outer = _draw(rng, VERBS, 2)
    described = f"{a} that {inner} {b}" if subject else f"{a} that {b} {inner}"
    premise, stated, misread = _embed(rng, described, [a, b, c], outer)
    act, reverse = Event(a, inner, b), Event(b, inner, a)
    if not subject:
        act, reverse = reverse, act
    return Scene(premise, (stated, act), (misread, reverse))


def _prepositional(rng: Random) -> Scene:
    """A person who takes no part stands next to the agent or the patient."""
    a, b, c = _cast(rng)
    (verb,) = _draw(rng, VERBS, 1)
    described = f"{a} {rng.choice(PREPOSITIONS)} {b}"
    premise, stated, misread = _embed(rng, described, [a, b, c], verb)
    return Scene(premise, (stated,), (misread, Event(a, verb, b)))


def _conjunction(rng: Random) -> Scene:
    """Two agents, two patients or two verbs."""
    a, b, c = _cast(rng)
    first, second = _draw(rng, VERBS, 2)
    kind = rng.randrange(3)
    misread = (Event(a, first, b), Event(b, first, a))
    if kind == 0:
        premise = f"{a} and {b} {first} {c}"
        stated = (Event(a, first, c), Event(b, first, c))
    elif kind == 1:
        premise = f"{c} {first} {a} and {b}"
        stated = (Event(c, first, a), Event(c, first, b))
    else:
        premise = f"{a} {first} {b} and {second} {c}"
        stated = (Event(a, first, b), Event(a, second, c))
        misread = (Event(b, second, c), Event(a, first, c))
    return Scene(premise + _place(rng, 0.4), stated, misread)


_BUILDERS: dict[str, Callable[[Random], Scene]] = {
    "swap": partial(_two_voices, place=1.0, change=False),  # a place, so that no pair has equal texts
    "passive": partial(_two_voices, place=0.4, change=True),
    "relative_subject": partial(_relative, subject=True),
    "relative_object": partial(_relative, subject=False),
    "prepositional": _prepositional,
    "conjunction": _conjunction,
}
STRUCTURES = tuple(_BUILDERS)


def vocabulary() -> list[str]:
    """Every word of the grammar, in lower case, sorted."""
    return sorted({*SYNONYM, *IRREGULAR.values(), *PLACES, *FUNCTION_WORDS, "."})


def overlap(premise: str, hypothesis: str) -> float:
    """Share of the hypothesis' distinct content words that the premise has too, from 0 to 1."""
    bags = [set(text.lower().rstrip(".").split()) - {*FUNCTION_WORDS} for text in (premise, hypothesis)]
    return len(bags[0] & bags[1]) / max(1, len(bags[1]))


def _drop_adjectives(event: Event, rng: Random) -> Event:
    """Each adjective left out with probability 0.5, which never adds a claim."""

    def shorten(person: Person) -> Person:
        return replace(person, adjective=None) if rng.random() < 0.5 else person

    return Event(shorten(event.agent), event.verb, shorten(event.patient))


def _reword(event: Event, used: set[str], entailed: bool, rng: Random) -> Event:
    """The event with synonyms; unless entailed, one to three of its slots get another meaning.

    used: the premise's words; a new word differs from all of them in meaning and is added. In half of
    the cases one slot, unless it has another meaning, keeps its own noun or verb.
    """
    changed = set() if entailed else set(rng.sample(range(3), rng.randint(1, 3)))
    kept = rng.randrange(6)

    def fresh(lexicon: Sequence[Sequence[str]]) -> str:
        form = rng.choice(rng.choice([forms for forms in lexicon if not used & set(forms)]))
        used.add(form)
        return form

    def word(slot: int, old: str, lexicon: Sequence[Sequence[str]]) -> str:
        if slot in changed:
            return fresh(lexicon)
        return old if slot == kept else SYNONYM[old]

    def person(slot: int, old: Person) -> Person:
        adjective = SYNONYM[old.adjective] if old.adjective else None
        if slot in changed:
            adjective = fresh(ADJECTIVES) if rng.random() < 0.1 else None
        return Person(word(slot, old.noun, NOUNS), adjective)

    agent, patient = person(0, event.agent), person(2, event.patient)
    return Event(agent, word(1, event.verb, VERBS), patient)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _pair(structure: str, label: str, alignment: str, rng: Random) -> dict[str, str]:
    """One pair with the keys FIELDS."""
    scene = _BUILDERS[structure](rng)
    entailed = label == ENTAILED
    if entailed == (alignment == ALIGNED):
        event = _drop_adjectives(rng.choice(scene.stated if entailed else scene.misread), rng)
    else:
        event = _drop_adjectives(rng.choice(scene.stated), rng)
        event = _reword(event, scene.words(), entailed, rng)
    texts = _sentence(scene.premise), _sentence(event.text(scene.passive))
    return dict(zip(FIELDS, (*texts, label, structure, alignment), strict=True))


def _in_pretraining_part(premise: str, hypothesis: str) -> bool:
    """Whether a pair belongs to the half of all pairs, by a hash, that no benchmark draws from."""
    return hashlib.sha256(f"{premise}\t{hypothesis}".encode()).digest()[0] % 2 == 0


def _kinds(size: int, conflicting: int) -> Iterator[tuple[str, str, int]]:
    """(label, alignment, count) of `size` pairs with balanced labels."""
    entailed, low = size // 2, conflicting // 2
    yield ENTAILED, ALIGNED, entailed - low
    yield ENTAILED, CONFLICTING, low
    yield NOT_ENTAILED, ALIGNED, size - entailed - (conflicting - low)
    yield NOT_ENTAILED, CONFLICTING, conflicting - low


def _sample(
    kinds: Iterator[tuple[str, str, int]],
    rng: Random,
    seen: set[tuple[str, str]],
    pretraining: bool,
) -> list[dict[str, str]]:
    """New pairs of the given kinds, structures in turn, from one hash part; added to `seen`."""
    rows = []
    for label, alignment, count in kinds:
        turns = rng.sample(STRUCTURES, len(STRUCTURES))
        for index in range(count):
            while True:
                row = _pair(turns[index % len(turns)], label, alignment, rng)
                key = row["premise"], row["hypothesis"]
                if key not in seen and _in_pretraining_part(*key) == pretraining:
                    break
            seen.add(key)
            rows.append(row)
    rng.shuffle(rows)
    return rows


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"{name} must be 0 or more pairs, not {size}.")
    if (total := sum(sizes.values())) > MAX_PAIRS:
        raise ValueError(f"The grammar gives at most {MAX_PAIRS} pairs at a time, not {total}.")


def generate(
    seed: int = 0, train: int = 4000, dev: int = 1000, ood: int = 2000, conflicting: float = 0.05
) -> dict[str, list[dict[str, str]]]:
    """The benchmark's splits "train", "dev" and "ood": rows with the keys FIELDS, no pair twice.

    train, dev, ood: sizes in pairs; conflicting: share of train and dev on which overlap misleads. A
    split depends on the seed and, but for avoided repetitions, on its own size only.

    Raises ValueError for a negative size, sizes beyond MAX_PAIRS together, a share outside [0, 1].
    """
    _check_sizes(train=train, dev=dev, ood=ood)
    if not 0 <= conflicting <= 1:
        raise ValueError(f"conflicting must be a share from 0 to 1, not {conflicting}.")
    seen: set[tuple[str, str]] = set()
    high = iter(((ENTAILED, ALIGNED, ood // 2), (NOT_ENTAILED, CONFLICTING, ood - ood // 2)))
    rows = {"ood": _sample(high, Random(f"ood {seed}"), seen, pretraining=False)}
    for name, size in (("dev", dev), ("train", train)):
        kinds = _kinds(size, round(size * conflicting))
        rows[name] = _sample(kinds, Random(f"{name} {seed}"), seen, pretraining=False)
    return {name: rows[name] for name in ("train", "dev", "ood")}


def pretraining_pairs(seed: int, n: int) -> list[dict[str, str]]:
    """Rows as in `generate`, half of them conflicting, that no benchmark of any seed holds.

    Raises ValueError if `n` is negative or beyond MAX_PAIRS.
    """
    _check_sizes(n=n)
    return _sample(_kinds(n, n // 2), Random(f"pretraining {seed}"), set(), pretraining=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Write train.jsonl, dev.jsonl and ood_synthetic.jsonl into --output_dir."""
    parser = argparse.ArgumentParser(
        prog="python -m compress.synthetic.generator",
        description="Write the synthetic inference benchmark.",
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=4000, help="pairs to train on")
    parser.add_argument("--dev", type=int, default=1000, help="pairs distributed as in training")
    parser.add_argument("--ood", type=int, default=2000, help="pairs with high overlap throughout")
    parser.add_argument("--conflicting", type=float, default=0.05, help="share in train and dev")
    sizes = vars(parser.parse_args(argv))
    folder = sizes.pop("output_dir")
    try:
        splits = generate(**sizes)
    except ValueError as error:
        parser.error(str(error))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        stem = "ood_synthetic" if name == "ood" else name
        path = folder / f"{stem}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        logger.info("%s: %d pairs", path, len(rows))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
