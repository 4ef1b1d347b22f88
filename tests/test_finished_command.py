"""`python -m compress.finished`: whether the output directory holds the figures of a configuration."""

import json
import sys

import pytest
from configs import BASE, Files
from launcher import run

from compress import finished
from compress.configuration import config
from compress.errors import UserError
from compress.files import artefacts, ownership
from compress.files.artefacts import MARKER

OURS = "robust_compression"


@pytest.fixture
def words(tmp_path, tiny_model):
    """Function (*overrides) -> arguments of train.py for a run in `tmp_path/run`."""
    block = {"model": str(tiny_model), "loss": {"hook": "vanilla"}, "student": {"uncompressed": True}}
    file = Files(tmp_path).write(BASE | {OURS: BASE[OURS] | block})

    def make(*overrides):
        more = ["--set", *overrides] if overrides else []
        return ["--deepspeed_config", str(file), *more, "--output_dir", str(tmp_path / "run")]

    return make


@pytest.fixture
def figures(tmp_path, words):
    """Function (*overrides) -> writes what a run of this configuration leaves at its end."""

    def write(*overrides, **changes):
        options = finished.parse(words(*overrides))
        settings = config.load(options.deepspeed_config, options.overrides, 2)
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run/hits.npz").touch()
        (tmp_path / "run/config.json").write_text(json.dumps(dict(settings.merged)))
        keys = {"evaluate": ownership.figures_key(settings)}
        metrics = {"keys": keys, "stamp": ownership.stamp(settings), **changes}
        (tmp_path / "run/metrics.json").write_text(json.dumps(metrics))

    return write


def test_a_finished_run_and_one_that_is_not(tmp_path, words, figures, capsys, monkeypatch):
    assert finished.main(words()) == finished.TO_DO == 3
    assert capsys.readouterr().out.endswith(
        "run: not finished, there are no figures yet (metrics.json)\n"
    )
    figures()
    assert finished.main([*words(), "--accept_versions"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: finished\n"
    figures(stamp="of other files")
    assert finished.main(words()) == 3
    assert capsys.readouterr().out.endswith("or this program, have changed since\n")
    figures()
    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "FIGURES", artefacts.FIGURES + 1)
        assert finished.main(words()) == 3, "its figures are made again"
    figures()
    (tmp_path / "run/hits.npz").unlink()
    assert finished.main(words()) == 3


@pytest.mark.parametrize(
    ("export", "files"), [("onnx", ["onnx"]), ("onnx-int8", ["onnx", "onnx_int8"])]
)
def test_an_export_that_is_asked_for_belongs_to_the_run(tmp_path, words, figures, export, files):
    """Also of a run that was finished without it; each file of today's student."""
    place, asked = tmp_path / "run", [*words(), "--export", export]
    figures(int8={})
    put(place / "student", {})
    for before, name in zip(("student", *files), files, strict=False):
        assert finished.main(asked) == 3, f"without {name}"
        put(place / name, {before: artefacts.content(artefacts.read_json(place / before / MARKER))})
    assert finished.main(asked) == 0
    (place / "onnx/file").write_text("cut")
    assert finished.main(asked) == 3
    put(place / "onnx", {"student": "another"})
    assert finished.main(asked) == 3 and finished.main(words()) == 0


def test_figures_without_those_of_the_8_bit_file(tmp_path, words, figures, capsys):
    figures()
    for name in ("student", "onnx", "onnx_int8"):
        put(tmp_path / "run" / name, {})
    assert finished.main([*words(), "--export", "onnx"]) == 0
    assert finished.main([*words(), "--export", "onnx-int8"]) == 3
    assert "has no figures of the student in 8-bit integers" in capsys.readouterr().out


def put(folder, made_from):
    """Write a finished artefact of one file."""
    with artefacts.writing(folder, {"folder": str(made_from)}, 0.0, {"made_from": made_from}) as new:
        (new / "file").write_text(folder.name)


def test_figures_of_another_configuration(words, figures):
    figures()
    assert finished.main(words(f"{OURS}.evaluation.batch_size=7")) == 3
    with pytest.raises(UserError, match=f"another configuration .*{OURS}.seed"):
        finished.main(words(f"{OURS}.seed=7"))


def test_a_batch_that_follows_from_the_ranks(words, figures):
    derived = ("train_batch_size=null", "train_micro_batch_size_per_gpu=3")
    figures(*derived)
    assert finished.main([*words(*derived), "--ranks", "2"]) == 0
    with pytest.raises(UserError, match="train_batch_size differs"):
        finished.main([*words(*derived), "--ranks", "4"])
    with pytest.raises(UserError, match="depend on the number of ranks"):
        finished.main(words(*derived))


def test_alpha_that_the_run_has_chosen(words):
    auto = (f"{OURS}.loss.hook=rmc", f"{OURS}.uncertainty.alpha=auto")
    tried = f"{OURS}.uncertainty.alpha_candidates"
    options = finished.parse(words(*auto, f"{tried}=[0.1, 0.3]"))
    keys = ownership.figures_keys(config.load(options.deepspeed_config, options.overrides))
    settled = [
        config.load(options.deepspeed_config, options.overrides).with_alpha(a) for a in (0.1, 0.3)
    ]
    assert {ownership.figures_key(one) for one in settled} < keys


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_a_stage_without_figures(words, stage):
    with pytest.raises(UserError, match=f"--stage {stage}: makes no figures"):
        finished.main([*words(), "--stage", stage])


@pytest.mark.slow
def test_as_a_script_asks_it(words):
    ask = [sys.executable, "-m", "compress.finished"]
    assert run([*ask, *words()]).returncode == 3
    done = run([*ask, *words("train_bach_size=3")])
    assert done.returncode == 1 and "did you mean 'train_batch_size'" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
