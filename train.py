"""The one training entry: fine-tune a teacher, score difficulty, train the student, evaluate, report.

deepspeed train.py --deepspeed_config ds_configs/zero2.json ds_configs/tasks/mnli.json \
    ds_configs/compression/imp40.json ds_configs/mitigation/rmc.json --output_dir runs/mnli

Method: Du et al. 2023. Everything that it does lives in `compress/`.
"""

import argparse
import io
import logging
import os
import sys
from pathlib import Path

from compress.errors import UserError
from compress.runtime import interrupts, launchers, versions


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of a run."""
    parser = argparse.ArgumentParser(description="Robust model compression on DeepSpeed.")
    parser.add_argument(
        "--deepspeed_config", nargs="+", required=True, metavar="JSON", help="merged left to right"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="a.b.c=value",
        dest="overrides",
        help="keys that override the files; the value is JSON, or else taken as a text",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="directory of this run")
    parser.add_argument(
        "--stage",
        default="all",
        choices=["prepare", "teacher", "difficulty", "student", "evaluate", "all"],
        help="make this stage alone (default: all that the run needs; docs/output.md)",
    )
    parser.add_argument(
        "--export",
        choices=["onnx", "onnx-int8"],
        help="write the student as OUTPUT_DIR/onnx/model.onnx too; onnx-int8: and in 8-bit integers as "
        "OUTPUT_DIR/onnx_int8/model.onnx",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check everything, print what the run needs of memory and disk, train nothing",
    )
    parser.add_argument("--accept_versions", action="store_true", help=versions.ACCEPT)
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    return parser.parse_args(arguments)


def main() -> None:
    """Check command line and configuration before torch is loaded, then run."""
    options = parse()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line at once
    sys.path.insert(0, str(Path.cwd()))  # for loss hooks given by dotted path
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings with stack traces at a lost rank
    launch = launchers.adopt(os.environ)

    from compress import checks
    from compress.configuration import config, machine, precision

    versions.check()
    settings = config.load(options.deepspeed_config, options.overrides, launch.ranks)
    checks.check(settings, options.stage)
    settings, chosen = precision.settle(settings)
    prepares = options.stage == "prepare"  # on any machine; the batches are of those that train
    if launch.ranks is not None and not prepares:
        config.batch_split(settings, launch.ranks)
    if not prepares:
        machine.check(settings)

    import torch

    from compress import run
    from compress.files import ownership
    from compress.plan import dry_run
    from compress.runtime import ended, memory, ranks, watchdog
    from compress.training import distributed

    settings.robust.loss.load()
    run.check_export(options.stage, options.export)
    if options.dry_run:
        dry_run.check(options.stage)
    ownership.claim(options.output_dir, settings)
    timers = settings.deepspeed.wall_clock_breakdown
    try:
        level = logging.INFO if timers else logging.ERROR
        if prepares and not launch.launcher:
            device = torch.device("cpu")
        else:
            device = distributed.start(level, 60 * settings.robust.timeout, launch)
        run.agree_on_precision(chosen)
        with ownership.held(options.output_dir, settings):
            context = run.prepare(
                settings, options.output_dir, device, options.stage, options.accept_versions
            )
            progress = context.monitor.progress
            interrupts.set_message(progress.interrupted)
            with memory.anywhere(progress.where):
                if options.dry_run:
                    dry_run.say(context)
                else:
                    run.execute(context, options.stage, options.export)
        distributed.stop()
        leave_mark()
    except RuntimeError as error:
        if (why := ranks.unreachable(error)) is not None:
            raise UserError(why) from None
        if watchdog.timed_out(error):
            watchdog.give_up()
        if not ranks.lost(error):
            raise
        ended.end()


def leave_mark() -> None:
    """Make the file by which the script that started the ranks knows that they came to their end."""
    place = os.environ.get("ROBUST_COMPRESSION_ENDED")
    if place and os.environ.get("LOCAL_RANK", "0") == "0":
        Path(place).touch()


if __name__ == "__main__":
    interrupts.run(main, resumes=True)
