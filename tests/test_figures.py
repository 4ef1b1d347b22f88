"""The report's figures draw what the metrics and the difficulty say."""

import math
import re

import numpy as np
import pytest
from reports import HANS, Page, metrics, two_sets, view, writing

from compress.reporting.figures import MOST_SUBSETS, histogram_counts
from compress.reporting.report import figures


@pytest.fixture
def write(tmp_path):
    return writing(tmp_path)


def test_as_many_bars_as_subsets_and_their_widths_are_the_accuracies():
    svg = figures(metrics(), None)["ood_subsets"]
    widths = {}
    for role, row, path in re.findall(r'bar-(teacher|student)-(\d)">\s*<path d="([^"]+)"', svg):
        xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)]
        widths[role, int(row)] = max(xs) - min(xs)
    assert len(widths) == 2 * len(HANS)
    unit = widths["teacher", 0] / HANS["lexical_overlap, entailment"][0]
    for row, pair in enumerate(HANS.values()):
        for side, role in enumerate(("teacher", "student")):
            assert widths[role, row] == pytest.approx(unit * pair[side], rel=1e-3)


def test_a_missing_accuracy_has_no_bar_and_a_set_without_subsets_is_a_row(write):
    found = metrics()
    del found["student"]["ood_subsets"]["hans"]["subsequence, entailment"]
    svg = figures(found, None)["ood_subsets"]
    assert (svg.count("bar-teacher-"), svg.count("bar-student-")) == (4, 3)
    tables = [table for table in Page(write(found)).tables if table[0][0] == "Subset"]
    assert tables[1][3] == ["subsequence, entailment", "5,000", "98.0", "n/a", ""]
    assert figures(two_sets(found), None)["ood_subsets"].count("bar-student-") == 2


def test_many_subsets_show_the_most_different_and_say_so(write):
    found = metrics()
    for side, role in enumerate(("teacher", "student")):
        found[role]["ood_subsets"]["hans"] = {
            f"subset {i}": {"accuracy": 0.5 + side * i / 200, "samples": 10} for i in range(50)
        }
    page = Page(write(found))
    shown = next(table for table in page.tables if table[-1][:1] == ["subset 49"])[1:]
    assert [row[0] for row in shown] == [f"subset {i}" for i in range(10, 50)]
    assert re.search(r"The 40 subsets [^.]* of 50\.", page.text)
    svg = figures(found, None)["ood_subsets"]
    assert svg.count("bar-student-") == MOST_SUBSETS
    height = float(re.search(r'viewBox="0 0 \S+ (\S+)"', svg)[1])
    few = float(re.search(r'viewBox="0 0 \S+ (\S+)"', figures(metrics(), None)["ood_subsets"])[1])
    assert height > 4 * few


def test_histogram_counts_add_up_and_follow_the_truth():
    shown = view()
    for values in (shown.variance, shown.difficulty):
        edges, groups = histogram_counts(values, shown.truth)
        assert list(groups) == ["aligned", "conflicting"]
        assert sum(counts.sum() for counts in groups.values()) == len(values)
        assert groups["conflicting"].sum() == (shown.truth == "conflicting").sum()
        assert (edges[0], edges[-1]) == (values.min(), values.max())
    values = np.array([0.0, 0.0, math.nan, 1.0])
    assert histogram_counts(values, None)[1]["samples"].sum() == 3
    assert histogram_counts(np.full(5, 0.5), None)[1]["samples"].sum() == 5


def test_histograms_draw_one_bar_per_filled_bin():
    shown = view()
    drawn = figures(metrics(), shown)
    assert set(drawn) == {"ood_subsets", "variance", "difficulty", "sparsity"}
    for name, values in (("variance", shown.variance), ("difficulty", shown.difficulty)):
        groups = histogram_counts(values, shown.truth)[1].values()
        filled = sum(int((counts > 0).sum()) for counts in groups)
        assert len(re.findall(rf'id="{name}-bar-\d+-\d+"', drawn[name])) == filled
        assert f"aligned ({(shown.truth == 'aligned').sum()})" in drawn[name]
    assert all(f">{loss:.3f}<" in drawn["sparsity"] for loss in shown.mean_loss)
