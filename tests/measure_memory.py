"""Peak of live tensor bytes of each rank in each part of a run, as JSON; on a CPU, with random models.

    python tests/measure_memory.py --ranks 2 --zero 3 --model bert --layers 24 [key=value ...]

Runs teacher, difficulty, student and evaluation on a few samples of the embedded benchmark, under the
real launcher, with heads, ffn neurons and weights pruned. `key=value` goes to train.py's --set. In MB
(10^6 bytes): `live`, tensors; `resident`, anonymous memory of the process; of each rank.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from launcher import environment_of
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig

from compress.runtime.launchers import free_port
from compress.synthetic import pretrain

ROOT = Path(__file__).parents[1]
FILES = ("tasks/synthetic", "compression/heads20_rows50_imp40", "mitigation/rmc")
SETTINGS = {
    "task.max_length": 16,
    "epochs": 1,
    "student.epochs": 1,
    "uncertainty.epochs": 1,
    "uncertainty.sparsities": [0.4, 0.6],
    "uncertainty.alpha": 0.5,
    "structured.samples": 4,
    "evaluation.batch_size": 2,
    "checkpoint.enabled": False,
}
"""Of `robust_compression`: each training has four steps."""
BUCKETS = {
    1: {"reduce_bucket_size": 2_000_000},
    3: {"stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0},
}
"""Of `zero_optimization` from that stage on, so that DeepSpeed's buffers do not hide the rest: by
default a bucket holds 500 million numbers, and what is used again within 1,000 million stays."""
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


def command(options: argparse.Namespace, model: Path, folder: Path) -> list[str]:
    files = [f"zero{options.zero}", *FILES]
    rows = {"train": 4 * options.micro * options.ranks, "dev": 4, "ood": 4}
    settings = {**SETTINGS, "task.synthetic": rows, "model": str(model)}
    buckets = [item for stage, own in BUCKETS.items() if options.zero >= stage for item in own.items()]
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(options.ranks)]
    return [
        *[sys.executable, *launcher, f"--master_port={free_port()}"],
        str(ROOT / "tests/drivers/measured_run.py"),
        *["--deepspeed_config", *(str(ROOT / f"ds_configs/{name}.json") for name in files)],
        *["--output_dir", str(folder / "run"), "--stage", options.stage, "--set"],
        *(f"robust_compression.{key}={json.dumps(value)}" for key, value in settings.items()),
        f"train_batch_size={options.micro * options.ranks}",
        *(f"zero_optimization.{key}={value}" for key, value in buckets),
        "tensorboard.enabled=false",
        *options.settings,
    ]


def table(folder: Path, ranks: int, least: float) -> dict[str, dict[str, list[float]]]:
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
        }
        for name in names
    }


def main() -> None:
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
    parser.add_argument("--stage", default="all", help="of train.py")
    parser.add_argument("--folder", type=Path, help="for models and runs; about 20 bytes a parameter")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        sizes = (options.hidden, options.layers, options.vocabulary)
        count = write_model(folder / "model", options.model, *sizes)
        words = command(options, folder / "model", folder)
        done = subprocess.run(
            words,
            env=environment_of(MEASURED=str(folder)),
            cwd=ROOT,
            stdout=sys.stderr,
            preexec_fn=lambda: os.nice(10),
        )
        if done.returncode:
            sys.exit(done.returncode)
        about = {"parameters": count, "ranks": options.ranks, "zero": options.zero}
        print(json.dumps(about | {"parts": table(folder, options.ranks, LEAST * 4 * count)}, indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
