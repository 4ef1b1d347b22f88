"""The synthetic benchmark, judged by a reader of its own, and the encoder that goes with it.

The reader knows nothing of how pairs are generated: it looks a sentence's word classes up in a
table of sentence shapes and compares who did what to whom.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from compress.synthetic import generator
from compress.synthetic.pretrain import Recipe, pretrain

ENCODER = Path(generator.__file__).parent / "encoder"
STOP_WORDS = set("the was by that and in near behind beside".split())  # noqa: SIM905  nine words read better than nine quoted ones

# Word classes of a sentence -> structures, and the events as (agent, verb, patient), each the
# index of the noun or verb in reading order.
SHAPES = {
    "N V N": ({"swap", "passive"}, [(0, 0, 1)]),
    "N was V by N": ({"swap", "passive"}, [(1, 0, 0)]),
    "N that V N V N": ({"relative_subject"}, [(0, 0, 1), (0, 1, 2)]),
    "N V N that V N": ({"relative_subject"}, [(0, 0, 1), (1, 1, 2)]),
    "N that N V V N": ({"relative_object"}, [(1, 0, 0), (0, 1, 2)]),
    "N V N that N V": ({"relative_object"}, [(0, 0, 1), (2, 1, 1)]),
    "N P N V N": ({"prepositional"}, [(0, 0, 2)]),
    "N V N P N": ({"prepositional"}, [(0, 0, 1)]),
    "N and N V N": ({"conjunction"}, [(0, 0, 2), (1, 0, 2)]),
    "N V N and N": ({"conjunction"}, [(0, 0, 1), (0, 0, 2)]),
    "N V N and V N": ({"conjunction"}, [(0, 0, 1), (0, 1, 2)]),
}
MEANING = {
    form: (kind, meaning[0])
    for kind, lexicon in (
        ("N", generator.NOUNS),
        ("V", generator.VERBS),
        ("A", generator.ADJECTIVES),
    )
    for meaning in lexicon
    for form in meaning
}
MEANING |= {"seen": ("V", "saw"), "beaten": ("V", "beat")}
MEANING |= {"hidden": ("V", "hid"), "forgiven": ("V", "forgave")}
MEANING |= {word: ("P", word) for word in ("near", "behind", "beside")}


def read(sentence):
    """Give (structures, events, adjectives of each person) of a sentence."""
    assert sentence[0].isupper() and sentence[-1] == "."
    text = sentence[:-1].lower()
    text, _, place = text.partition(" in the ")
    assert place.count(" ") == 0
    shape, found, adjectives, pending = [], {"N": [], "V": [], "P": []}, {}, set()
    for word in text.split():
        kind, meaning = MEANING.get(word, (word, word))
        if kind == "A":
            pending.add(meaning)
        elif kind != "the":
            shape.append(kind)
            if kind in found:
                found[kind].append(meaning)
            if kind == "N":
                adjectives[meaning], pending = pending, set()
    assert len(set(found["N"])) == len(found["N"]) and not pending
    structures, events = SHAPES[" ".join(shape)]
    told = [(found["N"][a], found["V"][v], found["N"][p]) for a, v, p in events]
    return structures, told, adjectives


def follows(premise, hypothesis):
    _, stated, described = read(premise)
    _, (claim,), claimed = read(hypothesis)
    return claim in stated and all(claimed[who] <= described[who] for who in claimed)


def content(sentence):
    return set(sentence.lower().strip(".").split()) - STOP_WORDS


def shared(row):
    words = content(row["hypothesis"])
    return len(words & content(row["premise"])) / len(words)


def keys(rows):
    return [(row["premise"], row["hypothesis"]) for row in rows]


@pytest.fixture(scope="module")
def splits():
    return generator.generate(seed=3)


@pytest.fixture(scope="module")
def pretraining():
    return generator.pretraining_pairs(3, 6000)


def test_reader_tells_the_two_labels_apart():
    seen = "The brave doctor saw the actor in the garden."
    assert follows(seen, "The performer was noticed by the courageous physician.")
    assert not follows(seen, "The doctor was seen by the actor.")
    assert not follows(seen, "The doctor saw the brave actor.")
    assert not follows("The doctor near the actor saw the judge.", "The actor saw the judge.")
    assert follows("The doctor that the actor saw hid the judge.", "The actor saw the doctor.")


def test_every_label_and_structure_is_what_an_independent_reader_finds(splits, pretraining):
    rows = [*splits["train"], *splits["dev"], *splits["ood"], *pretraining]
    for row in rows:
        assert tuple(row) == generator.FIELDS
        truth = "entailment" if follows(row["premise"], row["hypothesis"]) else "not_entailment"
        assert truth == row["label"], row
        assert row["structure"] in read(row["premise"])[0], row


def test_swap_keeps_the_voice_and_passive_changes_it(splits):
    for row in splits["ood"]:
        changes = (" was " in row["premise"]) != (" was " in row["hypothesis"])
        if row["structure"] in {"swap", "passive"}:
            assert changes == (row["structure"] == "passive"), row


def test_alignment_says_whether_overlap_gives_the_label(splits, pretraining):
    for row in (*splits["train"], *splits["dev"], *splits["ood"], *pretraining):
        share = shared(row)
        assert share <= 0.34 or share >= 0.6, row
        guess = "entailment" if share > 0.5 else "not_entailment"
        assert (guess == row["label"]) == (row["alignment"] == "aligned"), row


@pytest.mark.parametrize(
    ("split", "expected"), [("train", 0.95), ("dev", 0.95), ("ood", 0.5), ("pretraining", 0.5)]
)
def test_overlap_classifier_is_right_as_often_as_claimed(splits, pretraining, split, expected):
    rows = {**splits, "pretraining": pretraining}[split]
    right = sum((shared(row) > 0.5) == (row["label"] == "entailment") for row in rows)
    assert right / len(rows) == pytest.approx(expected, abs=0.001)


def test_overlap_measure_agrees_with_an_independent_one(splits):
    for row in splits["dev"]:
        measured = generator.overlap(row["premise"], row["hypothesis"])
        assert measured == pytest.approx(shared(row))


def test_ood_has_high_overlap_throughout(splits):
    assert min(map(shared, splits["ood"])) >= 0.6


@pytest.mark.parametrize("split", ["train", "dev", "ood"])
def test_labels_and_structures_are_balanced(splits, split):
    rows = splits[split]
    labels = Counter(row["label"] for row in rows)
    assert labels["entailment"] == labels["not_entailment"] == len(rows) / 2
    cells = Counter((row["structure"], row["label"]) for row in rows)
    assert len(cells) == 12
    assert max(cells.values()) - min(cells.values()) <= 2


def test_every_kind_of_pair_occurs_with_both_labels_in_training(splits):
    cells = Counter((r["structure"], r["label"], r["alignment"]) for r in splits["train"])
    assert len(cells) == 24
    assert min(cells.values()) >= 16


@pytest.mark.slow
def test_no_single_word_gives_the_label_away():
    splits = generator.generate(seed=5, train=12000, dev=0, ood=12000, conflicting=0.5)
    for rows in (splits["train"], splits["ood"]):
        for field in ("premise", "hypothesis"):
            total, entailed = Counter(), Counter()
            for row in rows:
                words = set(row[field].lower().strip(".").split())
                total.update(words)
                entailed.update(words if row["label"] == "entailment" else ())
            frequent = [word for word in total if total[word] >= 300]
            assert len(frequent) > 40
            for word in frequent:
                assert entailed[word] / total[word] == pytest.approx(0.5, abs=0.11), (field, word)


@pytest.mark.slow
def test_same_seed_same_pairs_other_seed_other_pairs(splits):
    assert generator.generate(seed=3) == splits
    assert generator.pretraining_pairs(3, 50) == generator.pretraining_pairs(3, 50)
    other = generator.generate(seed=4)
    assert len(set(keys(other["train"])) & set(keys(splits["train"]))) < 40


@pytest.mark.slow
def test_evaluation_pairs_do_not_change_with_the_training_size(splits):
    smaller = generator.generate(seed=3, train=100)
    assert smaller["ood"] == splits["ood"]
    assert smaller["dev"] == splits["dev"]


def test_no_pair_occurs_twice_or_has_equal_sentences(splits):
    pairs = [key for rows in splits.values() for key in keys(rows)]
    assert len(set(pairs)) == len(pairs) == 7000
    assert all(premise != hypothesis for premise, hypothesis in pairs)


@pytest.mark.slow
def test_pretraining_never_meets_the_benchmark_even_in_a_tiny_language(monkeypatch):
    monkeypatch.setattr(generator, "NOUNS", generator.NOUNS[:5])
    monkeypatch.setattr(generator, "VERBS", generator.VERBS[:3])
    monkeypatch.setattr(generator, "ADJECTIVES", generator.ADJECTIVES[:5])
    monkeypatch.setattr(generator, "PLACES", generator.PLACES[:1])
    seeds = range(4)
    seen = {key for seed in seeds for key in keys(generator.pretraining_pairs(seed, 1200))}
    bench = [
        key
        for s in seeds
        for rows in generator.generate(s, 800, 200, 200).values()
        for key in keys(rows)
    ]
    assert len(bench) - len(set(bench)) > 20, "too large a language to meet anything"
    assert not seen & set(bench)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [0, 1, 7, 240])
def test_sizes_and_share_are_exact(size, share):
    splits = generator.generate(1, train=size, dev=size, ood=size, conflicting=share)
    for name, rows in splits.items():
        assert len(rows) == size
        labels = Counter(row["label"] for row in rows)
        assert abs(labels["entailment"] - labels["not_entailment"]) <= 1
        if name != "ood":
            conflicting = sum(row["alignment"] == "conflicting" for row in rows)
            assert conflicting == round(size * share)


@pytest.mark.parametrize(
    "arguments",
    [
        {"train": -1},
        {"dev": -5},
        {"ood": -1},
        {"conflicting": -0.1},
        {"conflicting": 1.1},
        {"conflicting": float("nan")},
        {"train": 10**9},
        {"ood": generator.MAX_PAIRS},
    ],
)
def test_impossible_arguments_are_refused_in_one_sentence(arguments):
    with pytest.raises(ValueError, match=r"^[^\n.]*\d?[^\n]*\.$"):
        generator.generate(**arguments)


def test_impossible_pretraining_sizes_are_refused():
    for size in (-1, generator.MAX_PAIRS + 1):
        with pytest.raises(ValueError, match=str(size)):
            generator.pretraining_pairs(0, size)


def test_command_writes_the_three_files(tmp_path):
    out = tmp_path / "new" / "data"
    generator.main(
        ["--output_dir", str(out), "--seed", "7", "--train", "60", "--dev", "24", "--ood", "24"]
    )
    expected = generator.generate(7, 60, 24, 24)
    assert {path.name for path in out.iterdir()} == {
        "train.jsonl",
        "dev.jsonl",
        "ood_synthetic.jsonl",
    }
    for stem, split in (("train", "train"), ("dev", "dev"), ("ood_synthetic", "ood")):
        lines = (out / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == expected[split]


def test_command_refuses_bad_arguments_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        generator.main(["--output_dir", str(tmp_path / "x"), "--conflicting", "2"])
    assert stopped.value.code == 2
    assert "share from 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ENCODER, local_files_only=True)


def inputs(tokenizer, rows):
    premises, hypotheses = zip(*keys(rows), strict=True)
    return tokenizer(list(premises), list(hypotheses), padding=True, return_tensors="pt")


def test_encoder_directory_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in ENCODER.iterdir()) < 2_000_000
    config = json.loads((ENCODER / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertModel"]
    card = (ENCODER / "README.md").read_text(encoding="utf-8")
    assert "seen the benchmark's structures" in card
    assert "python -m compress.synthetic.pretrain" in card


def test_encoder_weights_are_finite_halves_without_a_head():
    weights = load_file(ENCODER / "model.safetensors")
    assert not [name for name in weights if "classifier" in name]
    assert any("pooler" in name for name in weights)
    assert all(w.dtype == torch.float16 and w.isfinite().all() for w in weights.values())


@pytest.mark.slow
def test_tokenizer_knows_every_word_and_marks_the_segments(tokenizer, splits, pretraining):
    rows = [*splits["train"], *splits["ood"], *pretraining]
    encoded = inputs(tokenizer, rows)
    assert not (encoded["input_ids"] == tokenizer.unk_token_id).any()
    assert encoded["input_ids"].shape[1] <= 64
    hypothesis = tokenizer(rows[0]["hypothesis"], add_special_tokens=False)["input_ids"]
    assert int(encoded["token_type_ids"][0].sum()) == len(hypothesis) + 1
    assert tokenizer.unk_token_id in tokenizer("the zebra")["input_ids"]
    words = rows[0]["premise"].lower().replace(".", " .").split()
    assert tokenizer.tokenize(rows[0]["premise"]) == words


def test_encoder_loads_with_a_fresh_head_of_the_right_size(tokenizer, splits):
    heads = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            ENCODER, num_labels=2, dtype=torch.float32, local_files_only=True
        ).eval()
        heads.append(model.classifier.weight.detach().clone())
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (4, 128, 4)
    assert not torch.equal(*heads)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.inference_mode():
        logits = model(**inputs(tokenizer, splits["dev"][:8])).logits
    assert logits.shape == (8, 2) and logits.isfinite().all()


def probe(model, tokenizer, rows):
    """Share of the last third of the rows that a least-squares head on the pooled output gets."""
    with torch.inference_mode():
        pooled = [
            model.eval()(**inputs(tokenizer, rows[i : i + 200])).pooler_output
            for i in range(0, len(rows), 200)
        ]
    features = torch.cat(pooled).double()
    features = torch.cat((features, torch.ones(len(rows), 1, dtype=features.dtype)), dim=1)
    signs = torch.tensor([1.0 if r["label"] == "entailment" else -1.0 for r in rows]).double()
    cut = len(rows) * 2 // 3
    gram = features[:cut].T @ features[:cut] + 1e-3 * torch.eye(features.shape[1]).double()
    head = torch.linalg.solve(gram, features[:cut].T @ signs[:cut])
    return float(((features[cut:] @ head).sign() == signs[cut:]).double().mean())


@pytest.mark.slow
def test_encoder_separates_the_labels_where_overlap_does_not_and_a_random_one_cannot(tokenizer, splits):
    model = AutoModel.from_pretrained(ENCODER, dtype=torch.float32, local_files_only=True)
    rows = splits["ood"][:1800]
    assert probe(model, tokenizer, rows) > 0.85
    torch.manual_seed(0)
    assert probe(AutoModel.from_config(model.config).float(), tokenizer, rows) < 0.65


@pytest.mark.slow
def test_pretraining_repeats_itself_and_writes_a_loadable_encoder(tmp_path):
    recipe = Recipe(pairs=48, held_out=16, epochs=1, batch_size=16)
    for name in ("a", "b"):
        assert 0 <= pretrain(tmp_path / name, recipe) <= 1
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {path.name for path in ENCODER.iterdir()}
    assert "48 generated pairs" in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    AutoTokenizer.from_pretrained(tmp_path / "a", local_files_only=True)
