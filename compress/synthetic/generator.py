"""An embedded inference benchmark with a known shortcut, made by a small grammar of our own.

Why: the robustness of a compressed encoder (Du et al. 2023) shows on pairs where a shortcut that
the training data rewards gives the wrong answer. Public corpora need a download and say nothing
sure about the difficulty of one sample; here every pair is built from events whose truth is known.

What: English premise/hypothesis pairs, labelled "entailment" or "not_entailment". In training,
lexical overlap predicts the label of all but a few "conflicting" pairs; the out-of-distribution
split has high overlap throughout, as HANS does (McCoy et al. 2019), so overlap says nothing there.
A premise tells one or two events in one of six structures; a hypothesis tells one event. It is
entailed if and only if it is one of the premise's events, in either voice and up to synonyms.
Each structure comes with both labels at both overlap levels, and no word gives a label away.

Run: ``python -m compress.synthetic.generator --output_dir data/synthetic [--seed 0]``.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

logger = logging.getLogger(__name__)

FIELDS = ("premise", "hypothesis", "label", "structure", "alignment")
ENTAILED, NOT_ENTAILED = "entailment", "not_entailment"
ALIGNED, CONFLICTING = "aligned", "conflicting"
MAX_PAIRS = 200_000
"""Most pairs one call gives: the rarest kind of pair has a million members in each hash part."""


def _forms(text: str) -> tuple[tuple[str, ...], ...]:
    """Read space-separated meanings, each with its synonymous forms between slashes."""
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
        """Give the phrase with its article."""
        return " ".join(filter(None, ("the", self.adjective, self.noun)))


@dataclass(frozen=True)
class Event:
    """Who did what to whom; ``verb`` is a past tense."""

    agent: Person
    verb: str
    patient: Person

    def text(self, passive: bool) -> str:
        """Tell the event as a clause in the given voice."""
        if passive:
            participle = IRREGULAR.get(self.verb, self.verb)
            return f"{self.patient} was {participle} by {self.agent}"
        return f"{self.agent} {self.verb} {self.patient}"


@dataclass(frozen=True)
class Scene:
    """A premise, the events that it states, events that it seems to state, the hypothesis voice."""

    premise: str
    stated: tuple[Event, ...]
    misread: tuple[Event, ...]
    passive: bool = False

    def words(self) -> set[str]:
        """Give the premise's nouns, adjectives and verbs, the latter as past tenses."""
        told = (*self.stated, *self.misread)
        verbs = {event.verb for event in told}
        people = {person for event in told for person in (event.agent, event.patient)}
        return verbs | {word for person in people for word in str(person).split()}


def _draw(rng: Random, lexicon: Sequence[Sequence[str]], count: int) -> list[str]:
    """Draw ``count`` words of distinct meaning, each in one of its two forms."""
    return [rng.choice(forms) for forms in rng.sample(lexicon, count)]


def _cast(rng: Random) -> list[Person]:
    """Draw three distinct persons, two in ten of them with an adjective of their own."""
    adjectives = _draw(rng, ADJECTIVES, 3)
    return [
        Person(noun, adjective if rng.random() < 0.2 else None)
        for noun, adjective in zip(_draw(rng, NOUNS, 3), adjectives, strict=True)
    ]


def _place(rng: Random, probability: float) -> str:
    """Close a premise with a place, or with nothing."""
    return f" in the {rng.choice(PLACES)}" if rng.random() < probability else ""


def _two_voices(rng: Random, place: float, change: bool) -> Scene:
    """Tell one event, in the voice of the hypothesis or in the other one."""
    a, b, _ = _cast(rng)
    (verb,) = _draw(rng, VERBS, 1)
    event, passive = Event(a, verb, b), rng.random() < 0.5
    premise = event.text(passive) + _place(rng, place)
    return Scene(premise, (event,), (Event(b, verb, a),), passive != change)


def _swap(rng: Random) -> Scene:
    """Exchange who did it with whom it was done to; the place keeps the pair from being equal."""
    return _two_voices(rng, 1.0, change=False)


def _passive(rng: Random) -> Scene:
    """Change the voice, with the roles moved rightly or left where they were."""
    return _two_voices(rng, 0.4, change=True)


def _embed(rng: Random, described: str, cast: list[Person], verb: str) -> tuple[str, Event, Event]:
    """Let the person described act, or be acted on: the premise, its main event and a misreading.

    ``described`` names the first of ``cast`` by means of the second, who takes no part.
    """
    a, b, c = cast
    if rng.random() < 0.5:
        premise, stated, misread = f"{described} {verb} {c}", Event(a, verb, c), Event(b, verb, c)
    else:
        premise, stated, misread = f"{c} {verb} {described}", Event(c, verb, a), Event(c, verb, b)
    return premise + _place(rng, 0.4), stated, misread


def _relative_subject(rng: Random) -> Scene:
    """Describe a person by a clause in which he or she acts."""
    a, b, c = _cast(rng)
    inner, outer = _draw(rng, VERBS, 2)
    premise, stated, misread = _embed(rng, f"{a} that {inner} {b}", [a, b, c], outer)
    return Scene(premise, (stated, Event(a, inner, b)), (misread, Event(b, inner, a)))


def _relative_object(rng: Random) -> Scene:
    """Describe a person by a clause in which something is done to him or her."""
    a, b, c = _cast(rng)
    inner, outer = _draw(rng, VERBS, 2)
    premise, stated, misread = _embed(rng, f"{a} that {b} {inner}", [a, b, c], outer)
    return Scene(premise, (stated, Event(b, inner, a)), (misread, Event(a, inner, b)))


def _prepositional(rng: Random) -> Scene:
    """Put a bystander next to the agent or the patient."""
    a, b, c = _cast(rng)
    (verb,) = _draw(rng, VERBS, 1)
    described = f"{a} {rng.choice(PREPOSITIONS)} {b}"
    premise, stated, misread = _embed(rng, described, [a, b, c], verb)
    return Scene(premise, (stated,), (misread, Event(a, verb, b)))


def _conjunction(rng: Random) -> Scene:
    """Join two agents, two patients or two things done."""
    a, b, c = _cast(rng)
    first, second = _draw(rng, VERBS, 2)
    kind = rng.randrange(3)
    if kind == 0:
        premise = f"{a} and {b} {first} {c}"
        stated = (Event(a, first, c), Event(b, first, c))
        misread = (Event(a, first, b), Event(b, first, a))
    elif kind == 1:
        premise = f"{c} {first} {a} and {b}"
        stated = (Event(c, first, a), Event(c, first, b))
        misread = (Event(a, first, b), Event(b, first, a))
    else:
        premise = f"{a} {first} {b} and {second} {c}"
        stated = (Event(a, first, b), Event(a, second, c))
        misread = (Event(b, second, c), Event(a, first, c))
    return Scene(premise + _place(rng, 0.4), stated, misread)


_BUILDERS: dict[str, Callable[[Random], Scene]] = {
    "swap": _swap,
    "passive": _passive,
    "relative_subject": _relative_subject,
    "relative_object": _relative_object,
    "prepositional": _prepositional,
    "conjunction": _conjunction,
}
STRUCTURES = tuple(_BUILDERS)


def vocabulary() -> list[str]:
    """Every word that the grammar can write, lower-cased and sorted."""
    return sorted({*SYNONYM, *IRREGULAR.values(), *PLACES, *FUNCTION_WORDS, "."})


def overlap(premise: str, hypothesis: str) -> float:
    """Share of the hypothesis' distinct content words that the premise has too, from 0 to 1."""
    bags = [set(text.lower().rstrip(".").split()) - {*FUNCTION_WORDS} for text in (premise, hypothesis)]
    return len(bags[0] & bags[1]) / max(1, len(bags[1]))


def _drop_adjectives(event: Event, rng: Random) -> Event:
    """Leave each adjective out with probability one half; that never adds a claim."""

    def shorten(person: Person) -> Person:
        return replace(person, adjective=None) if rng.random() < 0.5 else person

    return Event(shorten(event.agent), event.verb, shorten(event.patient))


def _reword(event: Event, used: set[str], entailed: bool, rng: Random) -> Event:
    """Tell the event in other words, of the same meaning or, in one slot at least, of another.

    ``used`` holds the premise's words; a foreign word differs from them in meaning and joins them.
    In half of the cases one slot, unless foreign, keeps its own noun or verb.
    """
    foreign = set() if entailed else set(rng.sample(range(3), rng.randint(1, 3)))
    kept = rng.randrange(6)

    def fresh(lexicon: Sequence[Sequence[str]]) -> str:
        form = rng.choice(rng.choice([forms for forms in lexicon if not used & set(forms)]))
        used.add(form)
        return form

    def word(slot: int, old: str, lexicon: Sequence[Sequence[str]]) -> str:
        if slot in foreign:
            return fresh(lexicon)
        return old if slot == kept else SYNONYM[old]

    def person(slot: int, old: Person) -> Person:
        adjective = SYNONYM[old.adjective] if old.adjective else None
        if slot in foreign:
            adjective = fresh(ADJECTIVES) if rng.random() < 0.1 else None
        return Person(word(slot, old.noun, NOUNS), adjective)

    agent, patient = person(0, event.agent), person(2, event.patient)
    return Event(agent, word(1, event.verb, VERBS), patient)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _pair(structure: str, label: str, alignment: str, rng: Random) -> dict[str, str]:
    """Build one pair of the kind asked for, with the keys FIELDS."""
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
    """Split the space of all pairs in two halves, the same on every machine and for every seed."""
    return hashlib.sha256(f"{premise}\t{hypothesis}".encode()).digest()[0] % 2 == 0


def _kinds(size: int, conflicting: int) -> Iterator[tuple[str, str, int]]:
    """Share ``size`` pairs out over (label, alignment, count) so that labels are balanced."""
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
    """Draw unseen pairs of the given kinds, structures in turn, from one hash part."""
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
    if sum(sizes.values()) > MAX_PAIRS:
        raise ValueError(
            f"The grammar gives at most {MAX_PAIRS} pairs at a time, not {sum(sizes.values())}."
        )


def generate(
    seed: int = 0, train: int = 4000, dev: int = 1000, ood: int = 2000, conflicting: float = 0.05
) -> dict[str, list[dict[str, str]]]:
    """Make the benchmark's three splits, keyed "train", "dev" and "ood".

    Sizes are in pairs; ``conflicting`` is the share of train and dev pairs, from 0 to 1, on which
    overlap misleads. Each row has the keys FIELDS. In ood every pair has high overlap, so its
    entailed half is aligned and the other half conflicting. No pair occurs twice, in one split or
    two. A split depends on the seed and, but for avoided repetitions, on nothing but its own size.

    Raises ValueError on a negative size, on sizes beyond MAX_PAIRS together, and on a share
    outside [0, 1].
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
    """Make ``n`` pairs of which half conflict with overlap, none of them in any benchmark.

    Rows are as in :func:`generate`. The two draw from disjoint parts of the space of pairs,
    whatever their seeds. Raises ValueError if ``n`` is negative or beyond MAX_PAIRS.
    """
    _check_sizes(n=n)
    return _sample(_kinds(n, n // 2), Random(f"pretraining {seed}"), set(), pretraining=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Write train.jsonl, dev.jsonl and ood_synthetic.jsonl into --output_dir."""
    parser = argparse.ArgumentParser(description="Write the synthetic inference benchmark.")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=4000, help="pairs to train on")
    parser.add_argument("--dev", type=int, default=1000, help="pairs distributed as in training")
    parser.add_argument("--ood", type=int, default=2000, help="pairs with high overlap throughout")
    parser.add_argument("--conflicting", type=float, default=0.05, help="share in train and dev")
    args = parser.parse_args(argv)
    try:
        splits = generate(args.seed, args.train, args.dev, args.ood, args.conflicting)
    except ValueError as error:
        parser.error(str(error))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        stem = "ood_synthetic" if name == "ood" else name
        path = args.output_dir / f"{stem}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        logger.info("%s: %d pairs", path, len(rows))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
