"""What preparing data costs, and what a start on prepared data takes, by the number of pairs.

    python tests/prepare_scale.py --model DIR --pairs 40000 400000 [--processes 2] [--folder DIR]

For each number: pairs of random words of the model's vocabulary are written as JSON lines, with the
lengths of MNLI; `--stage prepare` reads and tokenises them; then a teacher is trained on two ranks
until its first step, and stopped. Prints seconds, pairs a second, seconds to the first step, and the
resident memory of the ranks at that time (anonymous, and mapped files).
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from compress.runtime.launchers import free_port

ROOT = Path(__file__).parents[1]
LABELS = ("entailment", "neutral", "contradiction")
LONGEST = 900


def words_of(model: Path) -> list[str]:
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    return [word for word in vocabulary if word.isalpha() and len(word) > 1]


def write(file: Path, count: int, words: list[str], seed: int) -> None:
    """Pairs of about 20 and 10 words; some words are frequent, as in a language."""
    draw = random.Random(seed)
    weights = [1 / (rank + 10) for rank in range(len(words))]
    pool = draw.choices(words, weights, k=1_000_000)
    with file.open("w") as target:
        for number in range(count):
            texts = []
            for mean in (20, 10):
                start, length = (
                    draw.randrange(len(pool) - 200),
                    3 + int(draw.expovariate(1 / (mean - 3))),
                )
                texts.append(" ".join(pool[start : start + min(length, 120)]))
            row = {"premise": texts[0], "hypothesis": texts[1], "label": LABELS[number % 3]}
            target.write(json.dumps(row) + "\n")


def command(options: argparse.Namespace, data: Path, out: Path, stage: str) -> list[str]:
    ours = "robust_compression"
    settings = [
        f"{ours}.task.data_dir={data}",
        f"{ours}.model={options.model}",
        f"{ours}.processes={options.processes}",
        "steps_per_print=1",
        'csv_monitor={"enabled": true}',
    ]
    files = [str(ROOT / f"ds_configs/{name}.json") for name in ("zero2", "tasks/mnli")]
    whole = ["train.py", "--deepspeed_config", *files, "--set", *settings, "--output_dir", str(out)]
    return [sys.executable, *whole, "--stage", stage]


def environment(rank: int, port: int) -> dict[str, str]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    there = {name: str(value) for name, value in names.items()}
    return os.environ | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"} | there


def resident(pid: int) -> dict[str, float]:
    """MiB of a process: anonymous, and of mapped files."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        name: int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024 for name in ("RssAnon", "RssFile")
    }


def first_step(
    options: argparse.Namespace, data: Path, out: Path
) -> tuple[float, list[dict[str, float]]]:
    """Seconds from the start to a teacher's first step on two ranks, and their memory then."""
    port, began = free_port(), time.monotonic()
    started = [
        subprocess.Popen(
            command(options, data, out, "teacher"),
            cwd=ROOT,
            env=environment(rank, port),
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    try:
        while not list(out.glob("csv_monitor/*teacher*loss*.csv")):
            assert all(p.poll() is None for p in started) and time.monotonic() - began < LONGEST
            time.sleep(0.1)
        return time.monotonic() - began, [resident(p.pid) for p in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=int, nargs="+", default=[4000, 40_000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where data and runs are written")
    options = parser.parse_args()
    options.model = options.model.resolve()
    words = words_of(options.model)
    for count in options.pairs:
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        data = folder / "data"
        data.mkdir()
        for number, (name, size) in enumerate((("train", count), ("dev", 1000), ("ood_mine", 1000))):
            write(data / f"{name}.jsonl", size, words, number)
        began = time.monotonic()
        prepare = command(options, data, folder / "run", "prepare")
        subprocess.run(prepare, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        start, memory = first_step(options, data, folder / "run")
        shown = ", ".join(f"{m['RssAnon']:.0f} + {m['RssFile']:.0f} MiB" for m in memory)
        print(
            f"{count:,} pairs: prepared in {seconds:.1f} s ({count / seconds:,.0f} a second); "
            f"first step {start:.1f} s after the start; resident {shown}",
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
