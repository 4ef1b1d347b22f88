"""The learning-rate schedule of each training, with no value left to a default of the library.

Of the pinned release `WarmupDecayLR` peaks at 0.001 whatever optimizer.params.lr says, and every warmup
takes 1000 steps (deepspeed/runtime/lr_schedules.py; upstream issue #7303). So `settled` sets absent
keys to "auto", `resolve` fills in every number of one training, `record` writes them to config.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.configuration.merge import RECORD
from compress.files import artefacts

if TYPE_CHECKING:
    from compress.configuration.config import Config

WARMUP_SHARE = 0.06
REPLACED = {
    "WarmupLR": ("warmup_num_steps",),
    "WarmupDecayLR": ("warmup_max_lr", "warmup_num_steps"),
    "WarmupCosineLR": ("warmup_num_steps",),
}
"""Type of schedule -> keys that become "auto" when absent, because the library's default is fixed."""
LIBRARY: dict[str, dict[str, Any]] = {
    "WarmupLR": {"warmup_min_lr": 0.0, "warmup_max_lr": "auto", "warmup_type": "log"},
    "WarmupDecayLR": {"warmup_min_lr": 0.0, "warmup_type": "log"},
    "WarmupCosineLR": {"warmup_min_ratio": 0.0, "cos_min_ratio": 0.0001, "warmup_type": "log"},
}
"""The library's other defaults, written out. WarmupLR's own peak is the optimiser's rate."""
AT_START = 2
"""Steps that every schedule begins with at its least rate, whatever the warmup."""


def settled(merged: Mapping[str, Any]) -> dict[str, Any]:
    """The merged configuration with a value for absent keys of the schedule and of torch_autocast.

    Two configurations that train alike become equal, so that they share their cache.
    """
    values = dict(merged)
    if block := values.get("scheduler"):
        absent = [key for key in REPLACED[block["type"]] if key not in block["params"]]
        values["scheduler"] = {**block, "params": block["params"] | dict.fromkeys(absent, "auto")}
    autocast = values.get("torch_autocast", {})
    if autocast.get("enabled") and "dtype" not in autocast:
        values["torch_autocast"] = {**autocast, "dtype": "bfloat16"}
    return values


def resolve(config: "Config", total_steps: int) -> dict[str, Any] | None:
    """The `scheduler` block for a training of so many steps, every key given; None without one."""
    block = settled(config.merged).get("scheduler")
    if block is None:
        return None
    filled = {
        "total_num_steps": total_steps,
        "warmup_num_steps": max(1, round(WARMUP_SHARE * total_steps)),
        "warmup_max_lr": config.deepspeed.optimizer.params.lr,
    }
    params = {**LIBRARY[block["type"]], **block["params"]}
    params = {key: filled.get(key, v) if v == "auto" else v for key, v in params.items()}
    return {**block, "params": params}


def notes(scheduler: Mapping[str, Any] | None, total_steps: int) -> list[str]:
    """Sentences on a schedule, given in steps, that does not fit the length of the training."""
    params = scheduler["params"] if scheduler else {}
    warmup, total = params.get("warmup_num_steps", 0), params.get("total_num_steps", total_steps)
    found = []
    least = "warmup_min_ratio" if "warmup_min_ratio" in params else "warmup_min_lr"
    if total_steps <= AT_START and params.get(least) == 0:
        found.append(
            "the learning rate is 0 in every step, so that nothing is trained: the first "
            f"{AT_START} have scheduler.params.{least}, and the training has {total_steps}"
        )
    if warmup > total_steps:
        found.append(
            "the learning rate does not reach its peak: scheduler.params.warmup_num_steps is "
            f"{warmup}, the training has {total_steps} steps"
        )
    if total < total_steps:
        found.append(
            f"the schedule ends before the training: scheduler.params.total_num_steps is {total}, "
            f"the training has {total_steps} steps"
        )
    return found


def record(config: "Config", samples: int, folder: Path) -> None:
    """Write config.json again, with the schedule of each training on so many samples."""
    values = {**config.merged, RECORD: of_trainings(config, samples)}
    artefacts.write_json(folder / "config.json", values)


def of_trainings(config: "Config", samples: int) -> dict[str, dict[str, Any]]:
    """Training -> its steps, learning rates, and schedule with every number.

    sub_networks: with the protocol "independent" each of the runs has it.
    """
    robust, per_epoch = config.robust, -(-samples // config.deepspeed.train_batch_size)
    epochs = {
        "teacher": (robust.teacher.epochs or robust.epochs) if robust.teacher_trained else None,
        "sub_networks": robust.sub_networks["epochs"],
        "student": robust.student.epochs or robust.epochs,
        "first": robust.loss.first_model_epochs,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, count in epochs.items():
        if count is None:
            continue
        steps = count * per_epoch
        found[name] = {"steps": steps, "lr": config.deepspeed.optimizer.params.lr}
        if name == "student" and config.compression.learned:
            found[name]["score_lr"] = robust.score_lr
        if scheduler := resolve(config, steps):
            found[name]["scheduler"] = scheduler
    return found
