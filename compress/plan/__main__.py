"""Whether a model fits: bytes a rank in every part of a run, on disk and network, before it starts.

    python -m compress.plan --model meta-llama/Llama-3.1-8B --ranks 64 --zero 3
    python -m compress.plan --ranks 64 --deepspeed_config ds_configs/zero2.json ds_configs/gpu.json ...

Only the model's config.json is read. Without files: ZeRO 2, 8 samples a rank, AdamW (fused), bf16, 128
tokens, no compression. Where the files leave the precision open ("auto"), bf16 is planned for.
"""

import argparse
import json
import sys

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from compress.compression import resolved
from compress.configuration import config, precision
from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.data import tasks
from compress.errors import UserError, fail, first_line
from compress.models import compressed, directories, encoders
from compress.plan import report
from compress.plan.report import Models, Plan, Rows

MICRO = 8
"""Samples of a rank in a micro-batch, without configuration files."""
ALONE = {
    "optimizer": {"type": "AdamW", "params": {"lr": 2e-5, "torch_adam": True, "fused": True}},
    "bf16": {"enabled": True},
    f"{OURS}.task": {"name": "synthetic", "max_length": 128},
}
"""The configuration without files."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m compress.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help=f"directory or hub id; default: {OURS}.model of the files")
    parser.add_argument("--ranks", type=int, required=True, help="GPUs of all hosts together")
    parser.add_argument("--zero", type=int, choices=range(4), help="in place of the files' stage")
    parser.add_argument(
        "--deepspeed_config",
        nargs="+",
        default=[],
        metavar="JSON",
        help="the files of train.py: batch, length, compression, loss",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="as of train.py, such as zero_optimization.reduce_bucket_size=5e7",
    )
    parser.add_argument(
        "--rows", type=int, default=400_000, help="samples of train (400000), whose scores a run keeps"
    )
    parser.add_argument("--bandwidth", type=_positive, metavar="GB/S", help="of a host's network")
    parser.add_argument("--speed", type=_positive, metavar="TFLOP/S", help="that a rank reaches")
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value


def settings_of(options: argparse.Namespace) -> Config:
    """The configuration that is planned for."""
    given = []
    if not options.deepspeed_config:
        if options.model is None and not any(t.startswith(f"{OURS}.model=") for t in options.overrides):
            raise UserError(
                "--model is missing: name a directory or hub id, or give --deepspeed_config."
            )
        given += [f"{key}={json.dumps(value)}" for key, value in ALONE.items()]
        given += [f"train_batch_size={MICRO * options.ranks}", "zero_optimization.stage=2"]
    if options.model is not None:
        given.append(f"{OURS}.model={json.dumps(options.model)}")
    if options.zero is not None:
        given.append(f"zero_optimization.stage={options.zero}")
    loaded = config.load(options.deepspeed_config, [*given, *options.overrides], options.ranks)
    return precision.possible(loaded)[0]  # of "auto" bf16: this machine is none of the ranks


def shape_of(name: str, key: str, classes: int) -> PreTrainedModel:
    """A classifier of a directory's or hub model's shape, on the meta device; reads its config.json."""
    shape = _config_of(name, key)
    shape.num_labels = classes
    try:
        return encoders.of_config(shape)
    except encoders.UNREADABLE as error:
        raise UserError(f"{key} {name}: makes no classifier ({first_line(error)}).") from None


def _config_of(name: str, key: str) -> PreTrainedConfig:
    folder = directories.local(name, key)
    if folder is not None and (folder / "config.json").is_file():
        return encoders.load_config(folder)
    if folder is not None:
        raise UserError(f"{key} {name}: has no config.json.")
    repository, _, revision = name.partition("@")
    try:
        return AutoConfig.from_pretrained(
            repository, revision=revision or "main", trust_remote_code=False
        )
    except encoders.UNREADABLE as error:
        raise UserError(
            f"{key} {name}: is no directory, and its config.json cannot be had from the hub "
            f"({first_line(error)})."
        ) from None


def plan_of(options: argparse.Namespace, device: str = "cuda") -> Plan:
    """The plan that the command line asks for; device: type of what the ranks compute on."""
    if options.ranks < 1:
        raise UserError(f"--ranks {options.ranks}: give 1 or more.")
    if options.rows < 1:
        raise UserError(f"--rows {options.rows}: give 1 or more.")
    settings = settings_of(options)
    robust = settings.robust
    classes = len(tasks.of(robust.task).labels)
    model = shape_of(robust.model, f"{OURS}.model", classes)
    student, teacher = model, None
    if robust.teacher.model is not None:
        teacher = shape_of(robust.teacher.model, f"{OURS}.teacher.model", classes)
    if robust.student.init_from == "teacher":
        student = teacher or model
    elif robust.student.model is not None:
        student = shape_of(robust.student.model, f"{OURS}.student.model", classes)
    reduction = settings.compression.layers
    if reduction is not None:
        kept = reduction.kept(student.config)
        student = encoders.of_config(compressed.reduced(student.config, kept))
    pruners = resolved.pruners(settings, student, options.rows)
    rows = Rows(options.rows, options.rows // 10, classes)
    models = Models(model, teacher, student, pruners)
    return report.make(settings, options.ranks, rows, models, device)


def main(arguments: list[str] | None = None) -> int:
    """Print the plan."""
    options = parse(arguments)
    sys.stdout.write(f"{plan_of(options).text(options.bandwidth, options.speed)}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        fail(error)
