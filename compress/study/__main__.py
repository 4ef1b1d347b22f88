r"""Run a study: one JSON file, many runs, one report.

    python -m compress.study ds_configs/studies/table4_small.json --output_dir runs/table4_small \
        --set robust_compression.model=/models/minilm robust_compression.task.data_dir=/data/{task}

Finished runs are skipped, failed ones listed at the end. `--shard i/n` makes a part on one of several
machines; `--report results.parquet ...` puts their results together. Leaves results.parquet,
report.html and report.md in the output directory.
"""

import argparse
import shlex
import sys
from pathlib import Path

from compress.errors import UserError, fail
from compress.files import artefacts
from compress.reporting import study_report
from compress.runtime import interrupts, versions
from compress.study import comparable, launch, plan, result_rows, run_order

RUNNING = {
    f"--{key}": key for key in ("shard", "jobs", "runs_per_gpu", "processes", "launcher", "list")
}
RUNNING |= {"--set": "overrides", "--accept_versions": "accept_versions"}
"""Argument of the command line that concerns runs -> its name among the options."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of a study."""
    parser = argparse.ArgumentParser(prog="python -m compress.study", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("study", type=Path, help="a file of ds_configs/studies/")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b.c=value", dest="overrides"
    )
    parser.add_argument("--shard", metavar="i/n", help="every n-th task and seed")
    parser.add_argument("--jobs", type=_positive, help="runs side by side (1)")
    parser.add_argument("--runs_per_gpu", type=_positive, help="runs that may share a GPU (1)")
    parser.add_argument("--processes", type=_positive, help="of each run (all GPUs, or 2 on a CPU)")
    parser.add_argument("--launcher", help="more arguments for deepspeed ('--hostfile f')")
    parser.add_argument("--accept_versions", action="store_true", help=versions.ACCEPT)
    parser.add_argument("--list", action="store_true", help="say what would be run, and stop")
    parser.add_argument(
        "--report", nargs="+", type=Path, metavar="PARQUET", help="only report these results"
    )
    options = parser.parse_args(arguments)
    try:
        _check(options)
    except UserError as error:
        parser.error(str(error))
    return options


def _check(options: argparse.Namespace) -> None:
    """Raise UserError for arguments of which one would have no effect."""
    without_effect = [
        name for name, key in RUNNING.items() if getattr(options, key) not in (None, False, [])
    ]
    if options.report and without_effect:
        raise UserError(f"--report only reports: leave out {' and '.join(without_effect)}.")
    if launch.placement(options.launcher or "") and options.processes is not None:
        raise UserError(
            f"--processes {options.processes}: --launcher '{options.launcher}' says which processes; "
            "leave one of them out."
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir: '{folder}' cannot be made ({error.strerror}).") from None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 if a run failed."""
    options = parse(arguments)
    versions.check()
    block, out = plan.load(options.study), options.output_dir
    failed: dict[str, str] = {}
    if options.report:
        rows = result_rows.load(options.report)
        _make(out)
        result_rows.save(rows, out / "results.parquet")
    else:
        runs = plan.expand(options.study, out, options.overrides)
        chosen = run_order.shard(runs, options.shard or "1/1")
        jobs, shared = options.jobs or 1, options.runs_per_gpu or 1
        count, launcher = launch.counted(options.launcher or "")
        processes = options.processes or count or launch.default_processes(-(-jobs // shared))
        machine = launch.Machine(processes, jobs, launcher, options.accept_versions, shared)
        plan.check(chosen, machine.ranks)
        machine.check()
        lines = plan.notes(chosen)
        for run in chosen:
            lines += launch.version_lines(run, machine.accept_versions)
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        if options.list:
            done = [launch.finished(run, options.accept_versions) for run in chosen]
            for run, ready in zip(chosen, done, strict=True):
                sys.stdout.write(f"{run.name}: {'finished' if ready else 'to do'}\n")
            sys.stdout.write(f"{len(chosen)} runs, {sum(done)} finished\n")
            return 0
        _make(out / "logs")
        artefacts.sweep([out])
        failed = launch.execute(chosen, machine, out / "logs")
        for name, why in failed.items():
            sys.stdout.write(f"failed: {name}: {why}\n")
        rows = result_rows.collect(
            run
            for run in runs
            if run.name not in failed and launch.finished(run, options.accept_versions)
        )
        if not rows:
            raise UserError(f"{out}: no run has finished; see {out / 'logs'}.")
        result_rows.save(rows, out / "results.parquet")
    shown, left_out = comparable.with_teacher(rows)
    for name, why in left_out.items():
        sys.stdout.write(f"left out of the report: {name}: {why}\n")
    command = shlex.join(["python", "-m", "compress.study", *(arguments or sys.argv[1:])])
    paths = study_report.write(out, shown, block.title, block.published, failed, command, left_out)
    sys.stdout.write("".join(f"report: {path}\n" for path in paths))
    return 1 if failed else 0


def run() -> None:
    """Run the command line and end with its exit code; 75 where the same command goes on."""
    try:
        sys.exit(main())
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it stopped\n")
        sys.exit(interrupts.AGAIN)


if __name__ == "__main__":
    run()
