"""What TensorBoard is given of a finished run, read back with its own reader."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from reports import metrics, view
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from compress.stages import events
from compress.training.monitor import Monitor


class Values:
    """A writer that keeps what it gets."""

    enabled = True

    def __init__(self):
        self.events = []

    def write_events(self, event_list):
        self.events += event_list


def context(monitor):
    robust = SimpleNamespace(
        model="bert",
        uncertainty=SimpleNamespace(alpha=0.5),
        loss=SimpleNamespace(lambda_=0.9),
    )
    task = SimpleNamespace(texts=("premise", "hypothesis"))
    config = SimpleNamespace(robust=robust)
    return SimpleNamespace(monitor=monitor, config=config, data=SimpleNamespace(task=task))


@pytest.fixture
def read(tmp_path):
    """Function metrics -> what a reader of the events sees, after two steps of training."""

    pairs = replace(view(), easiest=view().hardest)

    def written(found):
        with SummaryWriter(str(tmp_path)) as writer:
            for step in (1, 2):
                writer.add_scalar("student/loss", 1 / step, step)
            events.write(context(Monitor(None, lambda: nullcontext(writer))), found, pairs)
        assert [path.is_file() for path in tmp_path.iterdir()] == [True], "no run beside the run"
        return EventAccumulator(str(tmp_path)).Reload()

    return written


def told(**changes):
    return metrics() | {"delta_difference": {"value": 0.05, "interval": [0.04, 0.06]}} | changes


def test_final_figures_are_hparams_and_no_points_among_the_curves(read):
    reader = read(told())
    assert reader.Tags()["scalars"] == ["student/loss"]
    content = reader.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["compression"].string_value == "imp40" and values["seed"].number_value == 42
    assert values["student dev"].number_value == pytest.approx(0.838)
    assert values["student ood hans"].number_value == pytest.approx(0.551)
    assert values["delta difference"].number_value == pytest.approx(0.05)
    assert values["f_bias"].number_value == pytest.approx(1.182, abs=1e-3)


def test_curves_come_first_by_name(read):
    tags = read(told()).Tags()
    rest = [tag for kind in ("histograms", "tensors") for tag in tags[kind]]
    assert len(rest) > 4
    assert not [tag for tag in rest if tag.split("/")[0] in ("difficulty", "student", "teacher")]
    assert all(tag > "teacher/" for tag in tags["histograms"])


def test_the_text_says_what_the_terminal_says(read):
    found = told(f_bias=None, f_bias_reason="because <of> it", notes=["a|b"], remarks=["So it is."])
    (text,) = read(found).Tensors("results/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    assert r"| student | 109,484,547 | 75,500,123 | 83.8 | 55.1 |" in words
    assert (
        "because &lt;of&gt; it" in words
        and r"a\|b" in words
        and "So it is." in words
        and "<" not in words
    )


def test_writers_without_hparams_get_last_values():
    table, off = Values(), SimpleNamespace(enabled=False)
    writer = SimpleNamespace(csv_monitor=table, wandb_monitor=off)
    events.write(context(Monitor(writer)), told(f_bias=None), None)
    names = [name for name, _, _ in table.events]
    assert "results/student dev" in names and "results/f_bias" not in names
    assert all(np.isfinite(value) and step == 0 for _, value, step in table.events)
