"""A study file: its runs, their places, and every mistake before the first run. No training."""

import json
from dataclasses import replace

import pytest
from launcher import ROOT
from studies import STUDY, names, runs_of, study_file

from compress.errors import UserError
from compress.study import plan, published

SHIPPED = sorted((ROOT / "ds_configs/studies").glob("*.json"))


def test_expansion_keeps_a_teachers_runs_together(tmp_path):
    runs = runs_of(tmp_path, tasks=["fever", "qqp"])
    assert len(runs) == len(set(names(runs))) == 2 * 2 * 2 * 2
    assert names(runs)[:5] == [
        "fever/imp40-vanilla-seed1",
        "fever/imp40-rmc-seed1",
        "fever/imp60-vanilla-seed1",
        "fever/imp60-rmc-seed1",
        "fever/imp40-vanilla-seed2",
    ]
    run = runs[-1]
    assert run.output_dir == tmp_path / "out/qqp/imp60-rmc-seed2"
    robust = run.config.robust
    assert (robust.task.name, robust.seed, robust.loss.hook) == ("qqp", 2, "rmc")
    assert run.config.compression_label == "imp60"


def test_what_is_set_wins_in_its_order(tmp_path):
    file = study_file(
        tmp_path,
        tasks=["fever", "qqp"],
        settings=["minilm_cpu"],
        set=["robust_compression.epochs=7", "robust_compression.task.data_dir=/data/{task}"],
        task_set={"qqp": ["robust_compression.epochs=8"]},
    )
    epochs = {run.task: run.config.robust.epochs for run in plan.expand(file, tmp_path)}
    assert epochs == {"fever": 7, "qqp": 8}
    runs = plan.expand(file, tmp_path, ["robust_compression.epochs=9"])
    assert {run.config.robust.epochs for run in runs} == {9}
    assert {run.config.robust.task.data_dir for run in runs} == {"/data/fever", "/data/qqp"}
    assert runs[0].config.deepspeed.optimizer.params.lr == 1e-4


def test_a_part_may_be_a_path(tmp_path):
    (tmp_path / "mine.json").write_text('{"robust_compression": {"loss": {"hook": "distil"}}}')
    runs = runs_of(tmp_path, mitigations=["vanilla", str(tmp_path / "mine.json")])
    assert names(runs)[1] == "fever/imp40-mine-seed1"
    assert runs[1].config.robust.loss.hook == "distil"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_study_expands(file, tmp_path):
    runs = plan.expand(file, tmp_path)
    assert len({run.output_dir for run in runs}) == len(runs) >= 3


def test_all_studies_of_the_paper_are_there_in_both_sizes():
    wanted = [f"table{n}" for n in range(1, 7)] + ["figure1", "figure3"]
    there = {file.stem for file in SHIPPED}
    assert {*wanted, *(f"{name}_small" for name in wanted)} <= there


@pytest.mark.parametrize("number", range(1, 6))
def test_a_full_size_study_makes_every_row_that_its_table_prints(number, tmp_path):
    runs = plan.expand(ROOT / f"ds_configs/studies/table{number}.json", tmp_path)
    made = {(run.compression, run.mitigation, run.task) for run in runs}
    student = {4: "imp40", 5: "minilm_l6"}.get(number)
    for table, row, task in published.ENTRIES:
        if table == f"table{number}":
            how = (student, row) if student else (published.COMPRESSIONS[row], "vanilla")
            assert (*how, task) in made
    assert {run.config.robust.epochs for run in runs} == {5}
    assert {run.config.robust.model for run in runs} == {"bert-base-uncased"}


def test_what_studies_say_of_themselves():
    for file in SHIPPED:
        study, name = plan.load(file), file.stem.removesuffix("_small")
        if name in ("table4_synthetic", "compressions", "bias_models"):
            assert study.published is None
        else:
            assert study.published == name and study.seeds == [42, 43, 44]
        if name in ("table4", "table5", "table4_synthetic"):
            assert study.mitigations == ["all"]
        if name in ("table6", "figure3"):
            assert set(study.mitigations) == {"vanilla", "rmc"}
        small = file.stem.endswith("_small")
        assert (study.settings == ["minilm_cpu"]) == small
        paper = "robust_compression.uncertainty.protocol=independent" in study.set
        assert paper == (not small and study.mitigations != ["vanilla"] and study.published is not None)
    synthetic = plan.load(ROOT / "ds_configs/studies/table4_synthetic.json")
    assert len(synthetic.seeds) == 5 and {"imp60", "layers_first_half"} <= set(synthetic.compressions)


def test_all_stands_for_every_mitigation(tmp_path):
    """Those beside the study's folder too, and others that are named after it."""
    shipped = {file.stem for file in (ROOT / "ds_configs/mitigation").glob("*.json")}
    for name in ("mitigation", "studies"):
        (tmp_path / name).mkdir()
    for file in ("mitigation/careful.json", "mine.json"):
        (tmp_path / file).write_text('{"robust_compression": {"loss": {"hook": "focal"}}}')
    values = {"title": "t", "tasks": ["mnli"], "compressions": ["imp40"], "seeds": [1]}
    values["mitigations"] = ["all", str(tmp_path / "mine.json")]
    file = tmp_path / "studies/study.json"
    file.write_text(json.dumps(values))
    found = [run.mitigation for run in plan.expand(file, tmp_path / "out")]
    assert found == ["vanilla", *sorted((shipped | {"careful"}) - {"vanilla"}), "mine"]


def test_table_3_leaves_116_of_144_heads(tmp_path):
    for run in plan.expand(ROOT / "ds_configs/studies/table3.json", tmp_path):
        (group,) = run.config.compression.head_pruning.different_groups.values()
        assert round(144 * group.params.dense_ratio) == 116


def test_figures_ask_for_the_levels_that_they_draw(tmp_path):
    for name, levels in (("figure1", {20, 40, 60, 70, 85}), ("figure3", {20, 40, 60, 70})):
        for size in ("", "_small"):
            runs = plan.expand(ROOT / f"ds_configs/studies/{name}{size}.json", tmp_path)
            assert {run.compression for run in runs} == {f"imp{level}" for level in levels}


def test_study_files_hold_nothing_but_a_study():
    for file in SHIPPED:
        values = json.loads(file.read_text())
        assert values["title"] and "/" not in json.dumps(values.get("set", []))


def test_a_study_may_lie_anywhere(tmp_path):
    values = {**STUDY, "mitigations": ["vanilla"]}
    (tmp_path / "mine.json").write_text(json.dumps(values))
    assert len(plan.expand(tmp_path / "mine.json", tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mitigations": ["vanila"]}, "'mitigations': there is no 'vanila'"),
        ({"mitigations": ["vanila"]}, "did you mean 'vanilla'?"),
        ({"compressions": ["imp41"]}, "'compressions': there is no 'imp41'"),
        ({"tasks": ["nope.json"]}, "'tasks': there is no 'nope.json'"),
        ({"engine": ["zero9"]}, "'engine': there is no 'zero9'"),
        ({"compressions": ["../compression/imp40"]}, "write 'imp40' or '../compression/imp40.json'."),
        ({"tasks": ["own/"]}, "'tasks': 'own/' is neither a name nor a path that ends in .json"),
        ({"engine": ["a\\zero2"]}, "'engine': 'a\\zero2' is neither a name nor a path"),
        ({"seeds": [1, 1]}, "'seeds' has '1' twice: two runs would share one place"),
        ({"compressions": ["imp40", "imp40"]}, "'compressions' has 'imp40' twice"),
        ({"mitigation": ["rmc"]}, "'mitigation': is not a key of a study; did you mean 'mitigations'?"),
        ({"seeds": []}, "'seeds': list should have at least 1 item"),
        ({"seeds": None}, "'seeds': field required"),
        ({"published": "table9"}, "'published': input should be 'table1'"),
        ({"task_set": {"qqq": []}}, "'task_set.qqq': no such task"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError) as error:
        runs_of(tmp_path, **changes)
    assert str(error.value).startswith(str(tmp_path / "own/studies/study.json"))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_two_parts_of_one_name_would_share_a_place(tmp_path):
    (tmp_path / "rmc.json").write_text("{}")
    with pytest.raises(UserError, match="'mitigations' has 'rmc' twice"):
        runs_of(tmp_path, mitigations=["rmc", str(tmp_path / "rmc.json")])


def test_two_runs_that_spell_one_place(tmp_path):
    for name in ("imp40-x", "x-rmc"):
        (tmp_path / f"{name}.json").write_text("{}")
    compressions = ["imp40", str(tmp_path / "imp40-x.json")]
    with pytest.raises(UserError, match=r"imp40 with x-rmc and imp40-x with rmc would share one place"):
        runs_of(tmp_path, compressions=compressions, mitigations=[str(tmp_path / "x-rmc.json"), "rmc"])


@pytest.mark.parametrize("text", ["robust_compression.seed=3", 'robust_compression={"seed": 9}'])
@pytest.mark.parametrize("where", ["set", "task_set", "command line"])
def test_the_seeds_are_the_studys(tmp_path, text, where):
    changes = {"set": {"set": [text]}, "task_set": {"task_set": {"fever": [text]}}}.get(where, {})
    with pytest.raises(UserError) as error:
        file = study_file(tmp_path, **changes)
        plan.expand(file, tmp_path, [] if changes else [text])
    sentence = "'robust_compression.seed': the study's 'seeds' say which; set them in"
    assert str(error.value) == f"--set {text}: {sentence} {file}."


@pytest.mark.parametrize("key", ["engine", "settings", "compressions", "mitigations"])
@pytest.mark.parametrize("task", [{"name": "qqp"}, {"definition": {}}])
def test_a_task_stands_in_tasks_only(tmp_path, key, task):
    part = tmp_path / "mine.json"
    part.write_text(json.dumps({"robust_compression": {"task": task}}))
    with pytest.raises(UserError) as error:
        runs_of(tmp_path, **{key: [str(part)]})
    assert str(error.value).startswith(f"{part}: says which task (robust_compression.task.name); name")
    assert str(error.value).endswith(f"own/studies/study.json, not in '{key}'.")


def test_a_part_may_set_more_of_the_task(tmp_path):
    part = tmp_path / "mine.json"
    part.write_text('{"robust_compression": {"task": {"max_length": 64}}}')
    assert runs_of(tmp_path, settings=[str(part)])[0].config.robust.task.max_length == 64


@pytest.mark.parametrize("key", ["engine", "settings", "tasks", "compressions", "mitigations"])
def test_no_part_sets_the_seed(tmp_path, key):
    part = tmp_path / "mine.json"
    part.write_text('{"robust_compression": {"seed": 7}}')
    with pytest.raises(UserError) as error:
        runs_of(tmp_path, **{key: [str(part)]})
    assert str(error.value).startswith(f"{part}: 'robust_compression.seed': the study's 'seeds' say")


@pytest.mark.parametrize(
    ("override", "processes", "why"),
    [
        ("robust_compression.task.data_dir=/nowhere", 2, "'/nowhere' is not a folder"),
        ("robust_compression.task.name=fevr", 2, "no task is called 'fevr'; did you mean 'fever'"),
        ("robust_compression.loss.hook=mine:loss", 2, "'mine:loss' cannot be imported"),
        ("train_batch_size=32", 3, "train_batch_size is 32, but 3 ranks"),
    ],
)
def test_what_every_run_would_find_is_found_before_the_first(tmp_path, override, processes, why):
    runs = plan.expand(study_file(tmp_path, mitigations=["vanilla"]), tmp_path, [override])
    with pytest.raises(UserError, match=f"^fever/imp40-vanilla-seed1: .*{why}"):
        plan.check(runs, processes)


@pytest.mark.parametrize(
    ("own", "key"),
    [
        ({"train_batch_size": 16}, "train_batch_size"),
        ({"robust_compression": {"epochs": 9}}, "robust_compression.epochs"),
        ({"optimizer": {"params": {"lr": 1e-3}}}, "optimizer"),
    ],
)
def test_runs_that_would_not_share_their_teacher_are_found_before_the_first_run(tmp_path, own, key):
    own.setdefault("robust_compression", {})["loss"] = {"hook": "vanilla"}
    (tmp_path / "mine.json").write_text(json.dumps(own))
    runs = runs_of(tmp_path, mitigations=["vanilla", str(tmp_path / "mine.json")])
    with pytest.raises(UserError, match=f"mine-seed1: '{key}' is not that of fever/imp40-vanilla"):
        plan.check(runs, 2)
    own = {"robust_compression": {"loss": {"hook": "vanilla"}, "student": {"epochs": 9}}}
    (tmp_path / "mine.json").write_text(json.dumps(own))
    plan.check(runs_of(tmp_path, mitigations=["vanilla", str(tmp_path / "mine.json")]), 2)


@pytest.mark.parametrize(
    ("key", "value"), [("precision", "bf16"), ("metric", "macro_f1"), ("ood", ["sym1"])]
)
def test_runs_that_would_not_be_evaluated_alike_are_found_before_the_first_run(tmp_path, key, value):
    """Of one task; another may have what it likes."""
    values = {"loss": {"hook": "rmc"}, "evaluation": {key: value}}
    (tmp_path / "mine.json").write_text(json.dumps({"robust_compression": values}))
    runs = runs_of(tmp_path, mitigations=["vanilla", str(tmp_path / "mine.json")])
    (tmp_path / "ood/ood_sym2.jsonl").touch()
    with pytest.raises(UserError) as error:
        plan.check(runs, 2)
    assert str(error.value) == (
        f"fever/imp40-mine-seed1: 'robust_compression.evaluation.{key}' is not that of "
        "fever/imp40-vanilla-seed1, so their figures could not stand in one table; set it for the "
        "whole study."
    )
    one, other = (
        runs_of(tmp_path, set=[f"robust_compression.task.ood_dir={tmp_path}/ood", *more])
        for more in ([], [f"robust_compression.evaluation.{key}={json.dumps(value)}"])
    )
    plan.check([*one, *(replace(run, task="other") for run in other)], 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("protocol", "independent"),
        ("sparsities", [0.2, 0.9]),
        ("epochs", 9),
        ("init_from", "teacher"),
    ],
)
def test_runs_that_would_not_share_their_difficulty_are_found_before_the_first_run(
    tmp_path, key, value
):
    own = {"loss": {"hook": "weighted"}, "uncertainty": {key: value}}
    (tmp_path / "mine.json").write_text(json.dumps({"robust_compression": own}))
    runs = runs_of(tmp_path, mitigations=["vanilla", str(tmp_path / "mine.json")])
    with pytest.raises(UserError) as error:
        plan.check(runs, 2)
    assert str(error.value) == (
        f"fever/imp40-mine-seed1: 'robust_compression.uncertainty.{key}' is not that of "
        "fever/imp40-vanilla-seed1, so their difficulties would differ and their figures could not "
        "stand in one table; set it for the whole study (alpha, normalisation and quantile may differ)."
    )


def test_one_difficulty_may_be_used_in_different_ways(tmp_path):
    own = {"normalisation": "quantile", "quantile": 0.9, "alpha": 0.1}
    values = {"loss": {"hook": "weighted"}, "uncertainty": own}
    (tmp_path / "mine.json").write_text(json.dumps({"robust_compression": values}))
    plan.check(runs_of(tmp_path, mitigations=["vanilla", str(tmp_path / "mine.json")]), 2)
    spelled = {"epochs": 5, "init_from": "pretrained"}
    values = {"loss": {"hook": "rmc"}, "uncertainty": spelled}
    (tmp_path / "mine.json").write_text(json.dumps({"robust_compression": values}))
    plan.check(runs_of(tmp_path, mitigations=["rmc", str(tmp_path / "mine.json")]), 2)


def test_a_task_without_an_ood_set_is_found_before_the_first_run(tmp_path):
    runs = runs_of(tmp_path, set=[])
    with pytest.raises(UserError, match=r"vanilla-seed1: the hub: has no OOD set of fever"):
        plan.check(runs, 2)


def test_a_refused_configuration_is_found_before_any_run(tmp_path):
    with pytest.raises(UserError, match=r"'robust_compression\.epoch' is not a key"):
        plan.expand(study_file(tmp_path), tmp_path, ["robust_compression.epoch=1"])
