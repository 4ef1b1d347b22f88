"""How fast models are (inference), their training here and elsewhere (train), and its parts (steps).

python -m compress.benchmark inference TEACHER/model STUDENT/model ... --batch 1 32 128 --length 32 128
python -m compress.benchmark train --deepspeed_config FILES
python -m compress.benchmark steps --deepspeed_config FILES

FILES: as of a run, such as ds_configs/zero2.json, a task, a compression and a mitigation.

Writes a table, a picture and JSON into the output directory and prints the table.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import transformers

from compress.benchmark import inference, steps, training
from compress.errors import UserError
from compress.runtime import interrupts, launchers

MOST = {"batch": 2**31 - 1, "length": 2**31 - 1, "threads": 1024}
MOST |= dict.fromkeys(("repeats", "rounds", "steps"), 2**31 - 1)
"""Largest values that the libraries take."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; raises UserError for a number that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m compress.benchmark", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("inference", help="latency and throughput of model directories")
    one.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="the first is the reference")
    one.add_argument("--batch", nargs="+", type=int, default=[1, 32, 128])
    one.add_argument("--length", nargs="+", type=int, default=[32, 128], help="tokens")
    one.add_argument(
        "--runtime", nargs="+", choices=inference.RUNTIMES, default=list(inference.RUNTIMES)
    )
    one.add_argument("--threads", type=int, default=torch.get_num_threads())
    one.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    one.add_argument("--repeats", type=int, default=30, help="timings of each model, default 30")
    train = commands.add_parser("train", help="samples a second of a student's training, and of peers")
    parts = commands.add_parser("steps", help="where the time of a student's step goes, by part")
    for command in (train, parts):
        command.add_argument("--deepspeed_config", nargs="+", required=True, metavar="JSON")
        command.add_argument(
            "--set", nargs="+", action="extend", default=[], metavar="a.b.c=value", dest="overrides"
        )
        command.add_argument("--rounds", type=int, default=5, help="turns of each training, default 5")
        command.add_argument(
            "--steps", type=int, default=10, help="timed optimiser steps of a turn, default 10"
        )
        command.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    train.add_argument(
        "--only", choices=training.NAMES, help="one training, with the largest memory of its process"
    )
    train.add_argument(
        "--teacher",
        type=Path,
        metavar="DIR",
        help="a trained teacher: tells also when each training keeps the dev accuracy that all reach",
    )
    for command in (one, train, parts):
        command.add_argument(
            "--output", type=Path, default=Path("benchmark"), help="directory of the results"
        )
    options = parser.parse_args(arguments)
    for name, most in MOST.items():
        value = getattr(options, name, None)
        for number in value if isinstance(value, list) else [value] if value is not None else []:
            if number < 1:
                raise UserError(f"--{name} {number}: must be at least 1.")
            if number > most:
                raise UserError(f"--{name} {number}: must be at most {most}.")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for, print the table."""
    options = parse(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.command == "inference":
        text = inference.run(options)
    else:
        measured = training if options.command == "train" else steps
        text = measured.run(options, launchers.adopt(os.environ))
    sys.stdout.write(text)


if __name__ == "__main__":
    interrupts.run(main)
