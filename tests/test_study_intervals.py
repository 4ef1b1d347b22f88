"""Intervals and bold against a bootstrap written anew, replicate by replicate, and closed forms."""

import numpy as np
import pytest
from studies import DEV, model, rows_of

from compress.reporting import study_tables
from compress.scoring import bootstrap
from compress.study import analysis, figures

pytestmark = pytest.mark.slow

EASY, HARD, SYM1, SYM2 = ("dev", "easy"), ("dev", "hard"), ("ood_sym1", ""), ("ood_sym2", "")
SIZES = {DEV: 200, EASY: 150, HARD: 50, SYM1: 150, SYM2: 80}
STRETCH = {1: 1.0, 2: 12.706, 3: np.sqrt(3 / 2) * 4.303 / 1.96}
SEEDS = [1, 2, 3]
REPLICATES = 200
TEACHER, VANILLA = ("", ""), ("imp40", "vanilla")
STUDENTS = {VANILLA: SEEDS, ("imp40", "rmc"): SEEDS, ("imp40", "distil"): [1, 3]}


# A plain bootstrap: lists of drawn seeds and samples, no weights, no arrays of replicates


class Plain:
    """hits: (compression, mitigation, seed) -> part -> right or wrong; draws: those of the program."""

    def __init__(self, hits, draws):
        self.hits, self.known = hits, {}
        self.draws = draws
        self.samples = {part: [_drawn(w) for w in weights] for part, weights in draws.samples.items()}

    def accuracy(self, name, parts, number, seeds):
        """Of one model on the concatenated parts, in replicate `number`."""
        of_model = {s: np.concatenate([self.hits[*name, s][part] for part in parts]) for s in seeds}
        places, before = [], 0
        for part in parts:
            places += [before + place for place in self.samples[part][number]]
            before += SIZES[part]
        of_these = self.draws.over([SEEDS.index(seed) for seed in seeds])[number]
        kept = [seeds[place] for place in _drawn(of_these)]
        assert len(kept) == len(seeds)
        again = np.mean([of_model[seed][places].mean() for seed in kept])
        apart = np.mean([of_model[s].mean() for s in kept]) - np.mean(
            [h.mean() for h in of_model.values()]
        )
        return again + (STRETCH[len(seeds)] - 1) * apart

    def figures(self, name, number, seeds):
        """Every figure of a model in a replicate."""
        out = {"dev": self.accuracy(name, [DEV], number, seeds)}
        for key, parts in (("ood", [SYM1, SYM2]), ("ood_sym1", [SYM1]), ("ood_sym2", [SYM2])):
            out[key] = self.accuracy(name, parts, number, seeds)
        easy, hard = (self.accuracy(name, [part], number, seeds) for part in (EASY, HARD))
        out["delta"], out["gap"] = 1 - out["ood"] / out["dev"], easy - hard
        if name != TEACHER:
            theirs = self.replicates(TEACHER, seeds)[number]["delta"]
            out["f_bias"] = out["delta"] / theirs if theirs > 0 else np.nan
        return out

    def replicates(self, name, seeds):
        """The figures of a model in each replicate; computed once."""
        if (name, seeds) not in self.known:
            self.known[name, seeds] = [self.figures(name, n, seeds) for n in range(REPLICATES)]
        return self.known[name, seeds]

    def interval(self, name, key, other=None):
        """Of a figure, or of its difference to another model over the seeds that both have."""
        seeds = tuple(s for s in STUDENTS[name] if other is None or s in STUDENTS[other])
        values = np.array([one[key] for one in self.replicates(name, seeds)])
        if other is not None:
            values -= [one[key] for one in self.replicates(other, seeds)]
        known = values[~np.isnan(values)]
        if len(known) < 0.95 * len(values):
            return np.nan, np.nan
        return np.quantile(known, 0.025), np.quantile(known, 0.975)


def _drawn(weights):
    """Weights of a replicate -> the places drawn, each as often as it was."""
    return np.repeat(np.arange(len(weights)), np.rint(weights * len(weights)).astype(int))


@pytest.fixture(scope="module")
def study():
    """A teacher and three students that mostly agree sample by sample; distil lacks a seed.

    With two seeds Delta of the teacher is often below zero, so F_bias of distil has no interval.
    """
    generator, hits = np.random.default_rng(5), {}
    luck = {part: generator.random(size) for part, size in SIZES.items()}
    level = {TEACHER: 0.9, VANILLA: 0.86, ("imp40", "rmc"): 0.87, ("imp40", "distil"): 0.85}
    for name, dev in level.items():
        for seed in STUDENTS.get(name, SEEDS):
            rates = {DEV: dev, EASY: dev + 0.05, HARD: dev - 0.2, SYM1: dev - 0.25, SYM2: dev - 0.3}
            rates[SYM1] += 0.06 * (name == ("imp40", "rmc"))
            hits[*name, seed] = {
                part: luck[part] + generator.normal(0, 0.1, size) < rates[part] + 0.004 * seed
                for part, size in SIZES.items()
            }
    task = analysis.tasks(rows_of(hits), REPLICATES)[0]
    return task, Plain(hits, task.teacher.draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS, ids="-".join)
def test_intervals_are_those_of_a_plain_bootstrap(study, name):
    task, plain = study
    ours = model(task, *name)
    figures = {
        "dev": ours.dev,
        "ood": ours.pool(),
        "ood_sym1": ours.parts[SYM1],
        "delta": ours.delta(),
        "f_bias": ours.f_bias(task.teacher),
        "gap": ours.gap,
    }
    for key, found in figures.items():
        told = found.estimate()
        assert (told.low, told.high) == pytest.approx(
            plain.interval(name, key), rel=1e-4, abs=1e-5, nan_ok=True
        ), key
        assert told.low < told.high or (name[1], key) == ("distil", "f_bias")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STUDENTS if name != VANILLA], ids="-".join)
def test_intervals_of_differences_are_those_of_a_plain_bootstrap(study, name):
    task, plain = study
    found = task.versus(model(task, *name))
    assert found.keys() == {"dev", "ood", "delta", "f_bias", "gap", "ood_sym1", "ood_sym2"}
    for key, told in found.items():
        expected = plain.interval(name, key, VANILLA)
        assert (told.low, told.high) == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True), key
        assert told.certain == (expected[0] > 0 or expected[1] < 0)


# Closed forms


def alone(**students):
    """A task of one seed: dev without errors, OOD samples right as given, by loss or `teacher`."""
    hits = {}
    for name, right in students.items():
        compression, loss = TEACHER if name == "teacher" else ("imp40", name)
        hits[compression, loss, 1] = {DEV: np.ones(50, dtype=bool), SYM1: np.asarray(right, dtype=bool)}
    return analysis.tasks(rows_of(hits), 4000)[0]


def test_a_paired_difference_is_certain_where_an_unpaired_one_is_not():
    """Vanilla is right on 200 of 400, rmc on these and 20 more: the error is that of the 20 alone."""
    places = np.arange(400)
    task = alone(teacher=places % 4 > 0, vanilla=places < 200, rmc=places < 220)
    ours, theirs = model(task, "imp40", "rmc"), model(task, *VANILLA)
    found = task.versus(ours)
    paired = 1.96 * np.sqrt(0.05 - 0.05**2) / np.sqrt(400)
    unpaired = 1.96 * np.sqrt(0.5 * 0.5 + 0.55 * 0.45) / np.sqrt(400)
    assert paired < 0.05 < unpaired
    assert (found["ood"].low, found["ood"].high) == pytest.approx(
        (0.05 - paired, 0.05 + paired), abs=0.003
    )
    assert (found["delta"].low, found["delta"].high) == pytest.approx(
        (-0.05 - paired, -0.05 + paired), abs=0.003
    )
    assert found["f_bias"].value == pytest.approx(-0.05 / 0.25)
    assert all(found[key].certain for key in ("ood", "delta", "f_bias"))
    for one, other in ((ours.pool(), theirs.pool()), (ours.delta(), theirs.delta())):
        low, high = bootstrap.interval(one.replicates - other.replicates[::-1])
        assert low < 0 < high, "the case could not tell"
    cells = study_tables.differences(task).rows[0]
    assert [cell.startswith("**") for cell in cells[2:6]] == [False, True, True, True]


def test_f_bias_is_as_uncertain_as_the_teacher():
    """A student that is always wrong out of distribution has Delta 1: F_bias is 1 / Delta_teacher."""
    task = alone(teacher=np.arange(400) % 5 < 3, vanilla=np.zeros(400))
    told = task.students[0].f_bias(task.teacher).estimate()
    error = 1.96 * np.sqrt(0.6 * 0.4 / 400)
    assert task.students[0].delta().estimate().low == task.students[0].delta().estimate().high == 1
    assert told.value == pytest.approx(1 / 0.4)
    assert (told.low, told.high) == pytest.approx((1 / (0.4 + error), 1 / (0.4 - error)), rel=0.02)


def test_f_bias_of_the_teacher_itself_is_one_without_doubt():
    """Student and teacher see the same drawn samples."""
    right = np.arange(400) % 5 < 3
    task = alone(teacher=right, vanilla=right)
    told = task.students[0].f_bias(task.teacher).estimate()
    assert (told.low, told.value, told.high) == pytest.approx((1, 1, 1))


def mean_dev(hits):
    """Vanilla's dev accuracy averaged over tasks; hits: by task and seed."""
    rows = []
    for name, by_seed in hits.items():
        right = {seed: np.asarray(values, dtype=bool) for seed, values in by_seed.items()}
        models = {(*who, seed): {DEV: v} for seed, v in right.items() for who in (TEACHER, VANILLA)}
        rows += rows_of(models, name)
    return figures.mean_of([task.students[0].dev for task in analysis.tasks(rows, 4000)])


def test_a_mean_over_tasks_is_that_of_whole_seeds():
    """Each seed is right on two of three tasks: its mean never varies, though every task does."""
    levels = {"a": (1, 0, 1), "b": (0, 1, 1), "c": (1, 1, 0)}
    hits = {name: {s: np.full(20, v) for s, v in enumerate(of)} for name, of in levels.items()}
    found = mean_dev(hits)
    assert found.by_seed == pytest.approx(dict.fromkeys(range(3), 2 / 3))
    told = found.estimate()
    assert (told.low, told.value, told.high) == pytest.approx([2 / 3] * 3)


def test_a_mean_over_tasks_varies_with_the_samples_of_each():
    """With one seed its variance is a ninth of the sum of p (1 - p) / n."""
    sizes, generator = {"a": 200, "b": 300, "c": 500}, np.random.default_rng(1)
    hits = {name: {1: generator.random(size) < 0.7} for name, size in sizes.items()}
    p = {name: right[1].mean() for name, right in hits.items()}
    error = np.sqrt(sum(p[name] * (1 - p[name]) / size for name, size in sizes.items())) / 3
    found = mean_dev(hits)
    assert found.value == pytest.approx(np.mean(list(p.values())))
    assert found.replicates.std() == pytest.approx(error, rel=0.05)


# Where the teacher's Delta may be nothing


def small_delta(sizes, seeds, rates):
    """Hits of teacher (Delta by seed) and of a student that is worse, on one OOD set."""
    hits = {}
    for seed, (dev, ood) in zip(seeds, rates, strict=True):
        for name, lost in ((TEACHER, 0), (VANILLA, 0.1)):
            hits[*name, seed] = {
                DEV: np.arange(sizes) < sizes * dev,
                SYM1: np.arange(sizes) < sizes * (ood - lost),
            }
    return analysis.tasks(rows_of(hits), 2000)[0]


@pytest.mark.parametrize(("size", "there"), [(100, False), (4000, True)])
def test_a_delta_that_may_be_nothing_has_no_ratio_with_any_number_of_seeds(size, there):
    for rates in ([(0.9, 0.87)], [(0.9, 0.87), (0.91, 0.88), (0.9, 0.86)]):
        task = small_delta(size, range(len(rates)), rates)
        student, teacher = task.students[0], task.teacher
        assert (student.f_bias(teacher) is not None) == there
        means = np.mean(rates, axis=0)
        apart = student.delta_difference(teacher)
        assert apart.value == pytest.approx(0.1 / means[0], abs=0.002)
        row = study_tables.accuracies(task).rows[1]
        assert row[5].startswith("**+0.11") and (row[6] == "n/a") == (not there)
        told = "beyond chance (Delta 0.03" in study_tables.accuracies(task).caption
        assert told == (not there)


def test_the_interval_over_the_samples_leaves_the_seeds_as_they_are():
    """A plain bootstrap of the mean of three seeds, drawn sample by sample."""
    rates = [(0.9, 0.8), (0.85, 0.8), (0.95, 0.75)]
    task = small_delta(200, range(3), rates)
    by_seed, told = task.teacher.delta_over_samples()
    generator, values = np.random.default_rng(1), []
    for _ in range(4000):
        dev, ood = (np.sort(generator.integers(200, size=200)) for _ in range(2))
        accuracies = [((dev < 200 * a).mean(), (ood < 200 * b).mean()) for a, b in rates]
        first, second = np.mean(accuracies, axis=0)
        values.append([1 - b / a for a, b in accuracies] + [1 - second / first])
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    assert told == pytest.approx((low[-1], high[-1]), abs=0.01)
    for seed in range(3):
        assert by_seed[seed] == pytest.approx((low[seed], high[seed]), abs=0.012)


def test_a_seed_whose_teacher_lost_nothing_is_left_out_of_the_spread():
    task = small_delta(1000, range(3), [(0.9, 0.8), (0.9, 0.897), (0.9, 0.7)])
    found = task.students[0].f_bias(task.teacher)
    assert set(found.by_seed) == {0, 2}
    assert found.by_seed[0] == pytest.approx(2, abs=0.02)
