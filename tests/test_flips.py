"""Samples that only one of two models gets right, counted; Wilson's interval against its equation."""

import numpy as np
import pytest

from compress.scoring import flips


def test_they_are_counted_by_set():
    right, wrong = True, False
    teacher = {
        "dev": np.array([right, right, right, wrong, wrong, right, right, right]),
        "ood_a": np.array([wrong, wrong]),
    }
    student = {
        "dev": np.array([right, wrong, wrong, right, wrong, right, right, wrong]),
        "ood_a": np.array([wrong, right]),
    }
    found = flips.figures(teacher, student)
    assert list(found) == ["dev", "ood_a"]
    told = {
        name: {k: (v["samples"], v["share"]) for k, v in one.items()} for name, one in found.items()
    }
    assert told["dev"] == {"lost": (3, 3 / 8), "gained": (1, 1 / 8)}
    assert told["ood_a"] == {"lost": (0, 0), "gained": (1, 1 / 2)}
    # by hand: (0.375 + 0.2401 -+ 1.96 sqrt(0.029297 + 0.015006)) / 1.4802
    assert found["dev"]["lost"]["interval"] == pytest.approx([0.1368, 0.6943], abs=1e-4)


@pytest.mark.parametrize(("count", "size"), [(0, 40), (1, 40), (17, 40), (39, 40), (40, 40), (3, 9815)])
def test_a_bound_is_a_share_from_which_the_count_is_just_196_standard_errors_off(count, size):
    share = count / size
    low, high = flips.wilson(count, size)
    assert 0 <= low <= share <= high <= 1 and low < high
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) / np.sqrt(bound * (1 - bound) / size) == pytest.approx(1.96)
    assert (low == 0, high == 1) == (count == 0, count == size)
