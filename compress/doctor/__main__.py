"""Look at the machines of a run: one table, and what to do about each thing that is wrong.

    python -m compress.doctor [--hostfile hosts] [--deepspeed_config ... --set ...] [--output_dir DIR]

Without a hostfile it looks at this machine alone. It changes nothing: what it writes to the output
directory it removes. Exit code 1 if anything is wrong.
"""

import argparse
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from compress.configuration import batch_sizes, config
from compress.configuration.config import Config
from compress.doctor import facts, findings, hosts
from compress.doctor.bandwidth import Speed
from compress.doctor.facts import Facts
from compress.doctor.findings import Finding, Silent
from compress.doctor.hosts import Hosts
from compress.errors import UserError, fail, first_line
from compress.models import directories

NO_SSH = 255
"""Exit code of ssh where it does not come to the command."""
LONGEST = 120.0
"""Seconds after which a host counts as not answering."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.doctor", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--hostfile", type=Path, help="hosts and ranks, as for deepspeed")
    parser.add_argument(
        "--ranks", type=int, help="of this machine (its GPUs, or 2); not with a hostfile"
    )
    parser.add_argument("--deepspeed_config", nargs="+", metavar="JSON", help="as for train.py")
    parser.add_argument("--set", nargs="+", action="extend", default=[], dest="overrides")
    parser.add_argument("--output_dir", type=Path, default=Path("runs"), help="as for train.py (runs)")
    parser.add_argument("--master_addr", default="", help="as for deepspeed")
    parser.add_argument("--master_port", type=int, default=29500, help="as for deepspeed (29500)")
    parser.add_argument("--ssh_port", type=int, help="as for deepspeed")
    options = parser.parse_args(arguments)
    if options.hostfile and options.ranks is not None:
        parser.error("--ranks: the hostfile says how many; leave one of them out.")
    if options.overrides and not options.deepspeed_config:
        parser.error("--set: has an effect with --deepspeed_config only.")
    return options


def find_hosts(options: argparse.Namespace) -> Hosts:
    """The hosts that the command line means."""
    variables = hosts.read_variables()
    if options.hostfile is not None:
        slots = hosts.read_hostfile(options.hostfile)
        return Hosts(slots, variables, ssh_port=options.ssh_port)
    import torch

    return hosts.alone(options.ranks or torch.cuda.device_count() or 2, variables)


def ask(found: Hosts, folder: Path, port: int) -> dict[str, Facts | Silent]:
    """The facts of every host, or why there are none, all at once; and whether they share `folder`."""
    token, answers = secrets.token_hex(4), dict[str, Facts | Silent]()
    mark = folder / f".doctor-{token}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(token, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_dir {folder}: cannot be written to ({error.strerror}).") from None
    try:
        place = ("--folder", str(folder.absolute()), "--token", token, "--port", str(port))
        patience = ("--patience", str(facts.PATIENCE))
        words = ("compress.doctor.facts", *place, *patience, "--host")
        started = {host: found.start(host, (*words, host)) for host in found.names}
        for host, process in started.items():
            answers[host] = _read(process)
        for host, answer in answers.items():
            written = folder / f".doctor-{token}-{host}"
            if (
                isinstance(answer, Facts)
                and not answer.shared
                and not facts.appears(written, facts.PATIENCE)
            ):
                why = f"a file that it wrote to {folder} cannot be seen here"
                answers[host] = Facts(**{**vars(answer), "shared": why})
        return answers
    finally:
        for file in folder.glob(f".doctor-{token}*"):
            file.unlink(missing_ok=True)


def _read(process: subprocess.Popen[str]) -> Facts | Silent:
    out, why = _finish(process)
    if why:
        return Silent(why, process.returncode != NO_SSH)
    try:
        return Facts.read(out.splitlines()[-1])
    except (ValueError, LookupError, TypeError):
        return Silent("its answer cannot be read", True)


def _finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """(output, why it failed) of a process; it is ended if it takes too long."""
    try:
        out, said = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", f"not within {LONGEST:.0f} s"
    if process.returncode == 0:
        return out, ""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return out, (lines[-1] if lines else f"exit code {process.returncode}").removeprefix("error: ")[
        :150
    ]


def all_reduce(found: Hosts, known: dict[str, Facts], address: str) -> Speed | str:
    """An all-reduce with one process on each host, or with two on a single one; or why it failed."""
    single = len(found.names) == 1
    names = found.names * 2 if single else found.names
    first = known[names[0]]
    gpus = min(len(known[host].gpus) for host in found.names)
    nccl = all(one.device == "cuda" for one in known.values()) and gpus >= (2 if single else 1)
    meeting = "127.0.0.1" if single else address or first.first
    about = {
        "WORLD_SIZE": str(len(names)),
        "MASTER_ADDR": meeting,
        "MASTER_PORT": str(first.port),
        "DOCTOR_BACKEND": "nccl" if nccl else "gloo",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        found.start(
            host,
            ["compress.doctor.bandwidth"],
            **{**about, "RANK": str(rank), "LOCAL_RANK": str(rank if single else 0)},
        )
        for rank, host in enumerate(names)
    ]
    ends = [_finish(process) for process in started]
    if failed := [(host, why) for host, (_, why) in zip(names, ends, strict=True) if why]:
        return f"at {meeting}: {failed[0][0]}: {failed[0][1]}"
    with suppress(ValueError, LookupError, TypeError):
        return Speed.read(ends[0][0].splitlines()[-1])
    return "its answer cannot be read"


def of_configuration(options: argparse.Namespace, ranks: int) -> tuple[list[Finding], Config | None]:
    """Whether the configuration suits the ranks; the configuration if it is valid."""
    if not options.deepspeed_config:
        return [], None
    where = f"{ranks} rank{'s' * (ranks > 1)}"
    try:
        settings = config.load(options.deepspeed_config, options.overrides, ranks)
        said = batch_sizes.sentence(settings.deepspeed, ranks)
    except UserError as error:
        return [Finding("batch", where, "does not fit", str(error))], None
    return [Finding("batch", where, said)], settings


def weights(settings: Config | None) -> int | None:
    """Bytes of the weights of the run's model; None if it is not on this machine or not known."""
    if settings is None:
        return None
    with suppress(UserError, OSError):
        folder = directories.local(settings.robust.model, "robust_compression.model")
        if folder is not None:
            files = (file for pattern in directories.WEIGHTS for file in folder.glob(pattern))
            return sum(file.stat().st_size for file in files) or None
    return None


def main(arguments: list[str] | None = None) -> int:
    """Print the table and what to do; 1 if anything is wrong."""
    options = parse(arguments)
    found = find_hosts(options)
    answers = ask(found, options.output_dir, options.master_port)
    rows = findings.of_hosts(found, answers, options.master_port)
    if len(found.names) > 1:
        rows.append(findings.of_pdsh(shutil.which("pdsh") is not None))
    known = {host: answer for host, answer in answers.items() if isinstance(answer, Facts)}
    about_batch, settings = of_configuration(options, found.ranks)
    if known:
        host, first = next(iter(known.items()))
        rows.append(findings.of_disk(host, first.disk, weights(settings)))
    if len(known) == len(answers):
        try:
            speed = all_reduce(found, known, options.master_addr)
        except OSError as error:
            speed = first_line(error)
        rows.append(findings.of_speed(found, speed))
    rows += about_batch
    wrong = [row.advice for row in rows if row.advice]
    sys.stdout.write(f"{findings.table(rows)}\n")
    sys.stdout.write("".join(f"{number}. {advice}\n" for number, advice in enumerate(wrong, 1)))
    sys.stdout.write("nothing is wrong\n" if not wrong else f"{len(wrong)} to do\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        fail(error)
