"""Peak of live tensor bytes of each rank in each part of a run, as JSON; on a CPU, with random models.

    python tests/measure_memory.py --ranks 2 --zero 3 --model bert --layers 24 [key=value ...]

A line of JSON for each compression.

Runs teacher, difficulty, student and evaluation on a few samples of the embedded benchmark, under the
real launcher, with heads, ffn neurons and weights pruned. `key=value` goes to train.py's --set. In MB
(10^6 bytes): `live`, tensors; `resident`, anonymous memory of the process; of each rank; `planned`,
what `compress.plan` says.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed says in stdout that it found none

import torch
from launcher import environment_of
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig

from compress.plan import __main__ as plan
from compress.runtime.launchers import free_port
from compress.synthetic import pretrain

ROOT = Path(__file__).parents[1]
FILES = ("tasks/synthetic", "mitigation/rmc")
SETTINGS = {
    "task.max_length": 16,
    "epochs": 1,
    "student.epochs": 1,
    "uncertainty.epochs": 1,
    "uncertainty.sparsities": [0.4, 0.6],
    "uncertainty.alpha": 0.5,
    "evaluation.batch_size": 2,
    "checkpoint.enabled": False,
}
"""Of `robust_compression`: each training has four steps."""
BUCKETS = {
    1: {"reduce_bucket_size": 2_000_000},
    3: {
        "stage3_prefetch_bucket_size": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_param_persistence_threshold": 0,
    },
}
"""Of `zero_optimization` from that stage on, so that DeepSpeed's buffers do not hide the rest: by
default a bucket holds 500 million numbers, and what is used again within 1,000 million stays."""
MEASURED_AS = {
    "evaluation: scores": "scores of the teacher: score",
    "evaluation: latency": "evaluation: rest",
}
"""Names of the measurement for parts of the plan."""
LEAST = 0.01
"""Share of the model's float32 weights below which a part is left out."""


def config_of(kind: str, hidden: int, layers: int, vocabulary: int):
    """A configuration of the shape of BERT, or of Llama."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    if kind == "bert":
        return BertConfig(**sizes, intermediate_size=4 * hidden)
    sizes["intermediate_size"] = 11 * hidden // 4
    return LlamaConfig(**sizes, bos_token_id=2, eos_token_id=3)


def write_model(folder: Path, kind: str, hidden: int, layers: int, vocabulary: int) -> int:
    """Write a random classifier with the benchmark's words; its number of parameters."""
    tokenizer = pretrain.build_tokenizer()
    assert len(tokenizer) <= vocabulary, f"the benchmark has {len(tokenizer)} words"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config_of(kind, hidden, layers, vocabulary))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def settings_of(
    options: argparse.Namespace, compression: str, model: Path
) -> tuple[list[str], list[str]]:
    """Configuration files, and what is set beside them."""
    files = [f"zero{options.zero}", *FILES, f"compression/{compression}"]
    rows = {"train": 4 * options.micro * options.ranks, "dev": 4, "ood": 4}
    pruned = (ROOT / f"ds_configs/compression/{compression}.json").read_text()
    by_importance = '"importance"' in pruned
    structured = {"structured.samples": 4} if by_importance else {}
    settings = {**SETTINGS, **structured, "task.synthetic": rows, "model": str(model)}
    buckets = [item for stage, own in BUCKETS.items() if options.zero >= stage for item in own.items()]
    return [str(ROOT / f"ds_configs/{name}.json") for name in files], [
        *(f"robust_compression.{key}={json.dumps(value)}" for key, value in settings.items()),
        f"train_batch_size={options.micro * options.ranks}",
        *(f"zero_optimization.{key}={value}" for key, value in buckets),
        "tensorboard.enabled=false",
        *options.settings,
    ]


def words(options: argparse.Namespace, compression: str, folder: Path) -> list[str]:
    files, settings = settings_of(options, compression, folder / "model")
    return [
        str(ROOT / "tests/drivers/measured_run.py"),
        *["--deepspeed_config", *files, "--output_dir", str(folder / compression)],
        *["--stage", options.stage, "--set", *settings],
    ]


def planned(options: argparse.Namespace, compression: str, model: Path) -> dict[str, float]:
    """MB by part that the plan says, on device and host, which are one here."""
    files, settings = settings_of(options, compression, model)
    rows = str(4 * options.micro * options.ranks)
    given = ["--ranks", str(options.ranks), "--rows", rows, "--deepspeed_config", *files]
    found = plan.plan_of(plan.parse([*given, "--set", *settings]), device="cpu")
    sums = {need.stage: (need.on_device + need.on_host) / 1e6 for need in found.needs}
    return {MEASURED_AS.get(name, name): round(value, 1) for name, value in sums.items()}


def table(
    folder: Path, ranks: int, least: float, expected: dict[str, float]
) -> dict[str, dict[str, list[float] | float]]:
    """MB by part, of each rank, of parts that need more than `least` bytes."""
    found = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]
    if missing := found[0]["missing"]:
        print(f"not in the program, so not told apart: {', '.join(missing)}", file=sys.stderr)
    peaks = found[0]["peaks"]
    names = [name for name in peaks if name and peaks[name] > least]
    return {
        name: {
            "live": [round(rank["peaks"].get(name, 0) / 1e6, 1) for rank in found],
            "resident": [round(rank["resident"].get(name, 0) / 1e6) for rank in found],
            **({"planned": expected[name]} if name in expected else {}),
        }
        for name in names
    }


def launched(count: int, *command: str, **extra: str) -> None:
    """Run it under the real launcher; ends this process if the run fails."""
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(count)]
    done = subprocess.run(
        [sys.executable, *launcher, f"--master_port={free_port()}", *command],
        env=environment_of(**extra),
        cwd=ROOT,
        stdout=sys.stderr,
        preexec_fn=lambda: os.nice(10),
    )
    if done.returncode:
        sys.exit(done.returncode)


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--zero", type=int, default=3, choices=range(4))
    parser.add_argument("--model", choices=["bert", "llama"], default="bert")
    parser.add_argument("--hidden", type=int, default=1024, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--micro", type=int, default=1, help="samples of a rank in a forward pass")
    compressions = ["heads20_rows50_imp40"]
    parser.add_argument("--compression", nargs="+", default=compressions, help="one after another")
    parser.add_argument("--stage", default="all", help="of train.py")
    parser.add_argument("--folder", type=Path, help="for models and runs; about 20 bytes a parameter")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    return parser.parse_args(given)


def measured(
    options: argparse.Namespace, start: Callable[..., object] = launched
) -> Iterator[dict[str, Any]]:
    """What is printed, of each compression; start: runs a command on so many ranks.

    Later runs have teacher and difficulty already.
    """
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        sizes = (options.hidden, options.layers, options.vocabulary)
        count = write_model(folder / "model", options.model, *sizes)
        about = {"parameters": count, "ranks": options.ranks, "zero": options.zero}
        for compression in options.compression:
            start(options.ranks, *words(options, compression, folder), MEASURED=str(folder))
            expected = planned(options, compression, folder / "model")
            parts = table(folder, options.ranks, LEAST * 4 * count, expected)
            yield {**about, "compression": compression, "parts": parts}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    for line in measured(parse()):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
