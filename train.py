"""The one training entry: parse, build, run, close.

What: fine-tune a teacher, score every sample's difficulty, train the compressed student with the loss
hook, evaluate both, report (Du et al. 2023). Everything it does lives in `compress/`.
How:  deepspeed train.py --deepspeed_config ds_configs/zero2.json ds_configs/tasks/mnli.json \
          ds_configs/compression/imp40.json ds_configs/mitigation/rmc.json --output_dir runs/mnli
"""

import argparse
import io
import logging
import os
import sys
from pathlib import Path

from compress import interrupts
from compress.errors import UserError, fail


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of a run."""
    parser = argparse.ArgumentParser(description="Robust model compression on DeepSpeed.")
    parser.add_argument(
        "--deepspeed_config", nargs="+", required=True, metavar="JSON", help="merged left to right"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b.c=value", dest="overrides"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="directory of this run")
    parser.add_argument(
        "--stage", default="all", choices=["teacher", "difficulty", "student", "evaluate", "all"]
    )
    parser.add_argument(
        "--export", choices=["onnx"], help="write the student as OUTPUT_DIR/onnx/model.onnx too"
    )
    parser.add_argument(
        "--accept_versions",
        action="store_true",
        help="reuse what was made with other versions of torch, transformers or deepspeed",
    )
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    return parser.parse_args(arguments)


def main() -> None:
    """Run what the command line asks for."""
    options = parse()
    from compress import checks, versions
    from compress.configuration import config, machine

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line at once
    sys.path.insert(0, str(Path.cwd()))  # for loss hooks given by dotted path
    versions.check()
    settings = config.load(options.deepspeed_config, options.overrides)
    checks.check(settings, options.stage)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    config.batch_split(settings, world_size)
    machine.check(settings)

    from compress import memory, ownership, run
    from compress.training import trainer

    settings.robust.loss.load()
    run.check_export(options.stage, options.export)
    ownership.claim(options.output_dir, settings)
    timers = settings.deepspeed.wall_clock_breakdown
    device = trainer.start(logging.INFO if timers else logging.ERROR)
    with ownership.held(options.output_dir, settings):
        context = run.prepare(settings, options.output_dir, device, options.accept_versions)
        progress = context.monitor.progress
        interrupts.words(progress.interrupted)
        run.announce(context, options.stage)
        with memory.anywhere(progress.where):
            run.execute(context, options.stage, options.export)
    trainer.stop()


if __name__ == "__main__":
    interrupts.watch()
    try:
        main()
    except UserError as error:
        fail(error)
    except RuntimeError as error:
        from compress import ranks

        if not ranks.lost(error):
            raise
        fail(UserError("another rank has ended, and said why if it could; so this one ends too."))
