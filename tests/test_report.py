"""The report says what the metrics say, loads nothing, and trusts no text."""

import copy
import re
import subprocess
import sys

import numpy as np
import pytest
from reports import HANS, Page, metrics, two_sets, view, writing

from compress.errors import UserError
from compress.reporting.report import DifficultyView, write_report
from compress.reporting.summary import table as summary_table
from compress.reporting.summary import verdict

pytestmark = pytest.mark.slow


@pytest.fixture
def write(tmp_path):
    return writing(tmp_path)


def test_results_table_equals_the_metrics(write):
    rows = {row[0]: row[1:] for row in Page(write(metrics())).named["results"]}
    assert rows["Model"][:2] == ["bert-base-uncased", "bert-base-uncased"]
    assert rows["Parameters"] == ["109,484,547", "109,484,547", "0.0 %"]
    assert rows["Non-zero parameters"] == ["109,484,547", "75,500,123", "−31.0 %"]
    assert rows["Sparsity, %"] == ["", "40.0", ""]
    assert rows["Dev accuracy, % n = 1,000"] == ["84.2", "83.8", "−0.4"]
    assert rows["OOD accuracy on hans, % n = 30,000"] == ["59.8", "55.1", "−4.7"]
    assert rows["Delta"] == ["0.290", "0.342", ""]
    assert rows["Fbias"] == ["", "1.182", ""]


def test_pooled_row_stands_only_with_several_sets(write):
    assert "pooled" not in write(metrics())
    found = two_sets(metrics())
    found["samples"]["ood"] = {"v1": 712, "v2": 712}
    found["set_sizes"] = {"ood_v1": 712, "ood_v2": 9288}
    rows = {row[0]: row[1:] for row in Page(write(found)).named["results"]}
    assert rows["OOD accuracy on v1, % n = 712"] == ["70.0", "70.0", "0.0"]
    assert rows["OOD accuracy, pooled, % n = 1,424 of 10,000"] == ["59.8", "55.1", "−4.7"]


def test_sets_used_in_part_are_named_with_the_size_of_the_whole(write):
    found = metrics()
    found["set_sizes"] = {"train": 50000, "dev": 9815, "ood_hans": 300000}
    page = Page(write(found))
    rows = [row[0] for row in page.named["results"]]
    assert "Dev accuracy, % n = 1,000 of 9,815" in rows
    assert "OOD accuracy on hans, % n = 30,000 of 300,000" in rows
    assert "4,000 of 50,000 training samples" in page.text


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ({"vanished": ["neutral"]}, "because the student has collapsed"),
        (
            {"at_chance": {"hans": 0.5}},
            "because the teacher is not clearly above the majority class on OOD",
        ),
    ],
)
def test_the_verdict_does_not_praise_a_bias_that_says_nothing(why, told):
    sentence = verdict(metrics(student=(0.8, 0.7)) | why)
    assert sentence.endswith(f"F_bias (0.431) says nothing, {told}.") and "only" not in sentence


def test_one_set_of_two_above_chance_does_not_silence_the_bias_but_marks_it():
    found = two_sets(metrics(student=(0.8, 0.7)))
    found |= {"at_chance": {"v1": 0.5}, "notes": ["v1 is at chance."]}
    assert verdict(found).endswith("F_bias is 0.431, which the notes speak against.")


def test_easy_hard_and_subset_tables(write):
    page = Page(write(metrics(), view()))
    assert page.named["halves"][1:] == [
        ["Teacher", "93.0", "75.0", "18.0"],
        ["Student", "93.0", "71.3", "21.7"],
    ]
    tables = [table for table in page.tables if table[0][0] == "Subset"]
    assert tables[0][1:] == [["alignment: aligned", "950", "99.0", "99.0", "0.0"]]
    assert [row[0] for row in tables[1][1:]] == list(HANS)
    assert tables[1][2] == ["lexical_overlap, not_entailment", "5,000", "31.0", "11.0", "−20.0"]


@pytest.mark.parametrize(
    ("teacher", "student", "parts"),
    [
        (
            (0.984, 0.6),
            (0.983, 0.509),
            [
                "keeps 98.3 of the teacher's 98.4 % on dev",
                "loses 9.1 points on OOD (hans, 50.9 % against 60.0 %)",
                "is 1.236 times the teacher's.",
            ],
        ),
        (
            (0.8, 0.6),
            (0.81, 0.7),
            [
                "gains 1.0 point on dev (81.0 % against 80.0 %)",
                "gains 10.0 points on OOD",
                "is only 0.543 times the teacher's.",
            ],
        ),
        (
            (0.8, 0.6),
            (0.80001, 0.60001),
            [
                "keeps all of the teacher's 80.0 % on dev",
                "stays level on OOD (hans, 60.0 %)",
                "is the same as the teacher's.",
            ],
        ),
        ((0.8, 0.6), (0.7, 0.7), ["gains 10.0 points", "so no relative bias is left (0.000)."]),
        ((0.8, 0.6), (0.7, 0.75), ["no relative bias is left (−0.286)."]),
        ((0.6, 0.6), (0.6, 0.5), ["F_bias is n/a, because", "(Delta 0.000)"]),
        ((0.6, 0.66), (0.6, 0.5), ["F_bias is n/a, because", "(Delta −0.100)"]),
    ],
)
def test_verdict(teacher, student, parts, write):
    found = metrics(teacher, student)
    sentence = verdict(found)
    for part in parts:
        assert part in sentence
    assert sentence in Page(write(found)).text


def test_alphas_that_were_tried_stand_in_a_table(write):
    found = metrics()
    assert 'id="alpha"' not in write(found)
    rows = {"0.2": (0.8, 0.9, 0.7, 0.222), "0.5": (0.81, 0.88, 0.74, 0.159)}
    keys = ("dev", "dev_easy", "dev_hard", "gap")
    tried = {alpha: dict(zip(keys, row, strict=True)) for alpha, row in rows.items()}
    found["difficulty"] = {**found.get("difficulty", {}), "alpha": 0.5, "alpha_candidates": tried}
    source = write(found)
    table = Page(source).named["alpha"]
    assert ["0.5", "81.0", "88.0", "74.0", "0.159"] in table
    assert source.count('<tr class="strong"><th class="word" scope="row">0.5') == 1


def test_partial_input_halves(write):
    found = metrics()
    halves = {"easy": 0.91, "hard": 0.62, "gap": 0.29}
    parts = {"text": "hypothesis", "majority": 0.35, "easy": 60, "hard": 40, "agreement": 0.7}
    found["easy_hard"] = {**parts, "teacher": halves, "student": {**halves, "hard": 0.5, "gap": 0.41}}
    page = Page(write(found))
    assert ["Student", "91.0", "50.0", "41.0"] in page.named["partial"]
    for told in ("nothing but the hypothesis", "60.0 % of dev", "35.0 %", "agrees on 70.0 %"):
        assert told in page.text


def test_verdict_without_ood():
    found = metrics()
    for role in ("teacher", "student"):
        found[role] |= {"ood": {}, "ood_pooled": None, "delta": None, "ood_subsets": {}}
    found["f_bias"] = None
    assert verdict(found).endswith("there is no OOD set, so its relative bias is not known.")
    assert "no OOD accuracy" in summary_table(found)


def test_several_sets_are_named_as_pooled():
    assert "on OOD (2 sets pooled, 55.1 % against 59.8 %)" in verdict(two_sets(metrics()))


def test_missing_bias_is_na_with_its_reason(write):
    found = metrics((0.6, 0.66), (0.6, 0.5))
    page = Page(write(found))
    assert ["Fbias", "", "n/a", ""] in page.named["results"]
    assert "bias is n/a: the teacher is no worse on OOD than on dev" in page.text
    del found["f_bias"]
    assert Page(write(found)).text == page.text


def test_summary_table_is_aligned_and_right():
    apart = {"value": 0.0523, "interval": [0.0401, 0.0645]}
    lines = summary_table(metrics() | {"delta_difference": apart}).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [re.split(r"  +", line.strip()) for line in lines]
    assert cells == [
        ["parameters", "non-zero", "dev %", "hans %", "Delta", "Delta diff [95 %]", "F_bias"],
        ["teacher", "109,484,547", "109,484,547", "84.2", "59.8", "0.290", "-", "-"],
        [
            *("student", "109,484,547", "75,500,123", "83.8", "55.1", "0.342"),
            *("+0.052 [0.040, 0.065]", "1.182"),
        ],
    ]


def test_an_f_bias_with_a_note_against_it_is_marked_and_not_praised(write):
    found = metrics((0.8, 0.6), (0.75, 0.65))
    assert "only 0.533 times" in verdict(found)
    assert not summary_table(found).endswith("*")
    found["notes"] = ["The student lost more than 2 points of dev accuracy."]
    assert verdict(found).endswith("F_bias is 0.533, which the notes speak against.")
    collapsed = metrics((0.842, 0.598), (0.5, 0.52)) | {"notes": found["notes"]}
    assert verdict(collapsed).endswith("F_bias is −0.138, which the notes speak against.")
    assert summary_table(found).endswith("0.533 *")
    assert "0.533 *" in Page(write(found)).text


def test_summary_table_pools_several_sets_and_gives_the_reason_for_na():
    found = two_sets(metrics((0.6, 0.66), (0.6, 0.5)))
    lines = summary_table(found).splitlines()
    assert re.split(r"  +", lines[0].strip())[3:6] == ["v1 %", "v2 %", "pooled OOD %"]
    assert lines[1].split()[3:] == ["60.0", "70.0", "60.0", "66.0", "-0.100", "-", "-"]
    assert lines[2].endswith("n/a")
    assert lines[3].startswith("F_bias n/a: the teacher")
    assert "\n".join(lines).isascii()


def test_untrusted_text_is_escaped(write):
    evil = '</p><script>alert(1)</script><img src=x onerror=alert(1)> & "q"'
    found = metrics()
    found["task"] = found["artefacts"]["student"]["versions"]["x"] = found["student"]["model"] = evil
    found["notes"] = ["A note & <i>more</i>."]
    for role in ("teacher", "student"):
        found[role]["ood_subsets"]["hans"][evil + "\x00\x1b $x_1$"] = {"accuracy": 0.5}
    page = Page(write(found, view(text=evil), {"key": evil}))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "i", "iframe"}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    sentences = next(table for table in page.tables if table[0][0] == "d")
    assert evil in sentences[1][-1]
    assert "A note & <i>more</i>." in page.text


def test_nothing_is_loaded_from_outside(write):
    source = write(metrics(), view())
    assert "http" not in source
    assert "@import" not in source
    page = Page(source)
    assert not {tag for tag, _ in page.tags} & {"link", "script", "img", "iframe", "object"}
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", source))
    assert all(attrs["href"].startswith("#") for _, attrs in page.tags if "href" in attrs)


def test_ids_are_unique_and_every_reference_is_met(write):
    source = write(metrics(), view())
    page = Page(source)
    assert len(page.ids) == len(set(page.ids))
    referred = re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^)"]+)', source)
    assert referred
    assert set(referred) <= set(page.ids)


def test_difficulty_section(write):
    shown = view()
    page = Page(write(metrics(), shown))
    assert "Sub-networks at 20, 40, 85 % sparsity. AUROC: 0.980" in page.text
    medians = next(table for table in page.tables if table[0][-1] == "Median d")
    mask = shown.truth == "conflicting"
    assert medians[2][1] == str(mask.sum())
    assert medians[2][3] == f"{np.median(shown.difficulty[mask]):.3f}"
    hard, easy = (table for table in page.tables if table[0][0] == "d")
    assert hard[1][:4] == ["0.987", "1.23", "refutes", "conflicting"]
    assert easy[1][:4] == ["0.500", "1.4e-06", "supports", "n/a"]


def test_long_sentences_are_folded_but_whole(write):
    text = " ".join(f"word{i}" for i in range(1300))
    source = write(metrics(), view(text=text))
    assert source.count(text) == 1
    summary = re.search(r"<summary><span>(.*?)</span> <em>(.*?)</em>", source)
    assert len(summary[1]) <= 360
    assert summary[1].endswith(" …")
    assert summary[2] == "1,300 words"


def test_stages_config_and_versions(write):
    page = Page(write(metrics(), None, {"b": 1, "a": {"lr": 2e-5}}))
    assert page.named["seconds"][1:3] == [
        ["teacher", "31.2 s", "700", "cpu", "2", "reused from an earlier run"],
        ["difficulty", "2 min 35 s", "700", "cpu", "2", ""],
    ]
    assert page.named["seconds"][4] == ["evaluate", "8.0 s", "700", "cuda:0", "2", ""]
    assert '{ "b": 1, "a": { "lr": 2e-05 } }' in page.text
    for part in (
        "4,000 training samples.",
        "teacher: deepspeed 0.19.6, torch 2.12.0, transformers 5.23.0.",
        "difficulty, student, evaluate: deepspeed 0.19.6, torch 2.13.0, transformers 5.23.0.",
    ):
        assert part in page.text


def test_optional_keys_may_be_missing(write):
    found = metrics()
    for key in ("f_bias", "difficulty"):
        del found[key]
    for role in ("teacher", "student"):
        for key in ("dev_easy", "dev_hard", "dev_subsets", "ood_subsets", "model"):
            del found[role][key]
    found["student"]["dev_subsets"] = found["teacher"]["dev_easy"] = None
    found["reused"] = []
    page = Page(write(found))
    assert "halves" not in page.named
    assert "Difficulty of the training samples" not in page.text
    untold = view()
    bare = DifficultyView(
        untold.variance, untold.difficulty, (0.2, 0.4, 0.85), untold.mean_loss, None, [], []
    )
    text = Page(write(found, bare)).text
    assert "Truth" not in text
    assert "AUROC" not in text


@pytest.mark.parametrize(
    "key",
    ["task", "seed", "artefacts", "samples", "teacher", "teacher.dev", "student.delta"],
)
def test_a_missing_required_key_is_named_and_no_file_is_left(key, tmp_path):
    found = copy.deepcopy(metrics())
    *outer, last = key.split(".")
    del (found[outer[0]] if outer else found)[last]
    with pytest.raises(ValueError, match=f"required key '{key}'"):
        write_report(tmp_path / "report.html", found, {}, None)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    path.mkdir()
    with pytest.raises(UserError, match="report"):
        write_report(path, metrics(), {}, None)
    assert list(tmp_path.iterdir()) == [path]


def test_shapes_must_fit():
    shown = view()
    with pytest.raises(ValueError, match="mean_loss has shape"):
        DifficultyView(shown.variance, shown.difficulty, (0.2,), shown.mean_loss, None, [], [])
    with pytest.raises(ValueError, match="difficulty has shape"):
        DifficultyView(shown.variance, np.ones(3), (), np.ones(0), None, [], [])


def test_equal_input_gives_equal_bytes(write):
    first = write(metrics(), view(), {"a": 1})
    assert write(metrics(), view(), {"a": 1}) == first


def test_the_report_needs_no_torch_and_no_pyplot():
    code = (
        "import sys, compress.reporting.report; "
        "sys.exit(bool({'torch', 'deepspeed', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
