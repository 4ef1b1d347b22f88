"""What a step sends and how long it takes, at each ZeRO stage: bytes of a network interface.

    deepspeed ... tests/communication.py RESULT [--stages 0 1 2 3] [--steps 8] [--layers 6]
        [--hidden 512] [--interface eth0] [--accumulation 1] [--bf16] [--set KEY=VALUE ...]

A random encoder, trained on the synthetic task; RESULT is a folder, into which the main rank writes
`<stage>.json`: parameters, ranks, `seconds` of a step (median), `sent` bytes a step of each rank's
host. tests/cluster/communication.sh runs it on two hosts with links of limited rates. Not part of the
suite.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from compress import run
from compress.compression.masks import Masks
from compress.configuration import config
from compress.mitigations.vanilla import Vanilla
from compress.runtime import ranks
from compress.stages import context
from compress.synthetic import pretrain
from compress.training import distributed

ROOT = Path(__file__).parents[1]
WARM = 3


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a step sends.")
    parser.add_argument("result", type=Path)
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--set", nargs="+", default=[])
    return parser.parse_args()


def write_model(folder: Path, options: argparse.Namespace) -> None:
    tokenizer = pretrain.build_tokenizer()
    size = {"hidden_size": options.hidden, "intermediate_size": 4 * options.hidden}
    size |= {"num_attention_heads": options.hidden // 64, "num_hidden_layers": options.layers}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sent(interface: str) -> int:
    """Bytes that this host has sent through an interface of its network namespace."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, values = line.partition(":")
        if name.strip() == interface:
            return int(values.split()[8])
    return 0


def measure(stage: int, options: argparse.Namespace, device: torch.device) -> dict:
    files = [str(ROOT / f"ds_configs/{name}.json") for name in (f"zero{stage}", "tasks/synthetic")]
    settings = config.load(
        files,
        [
            f"robust_compression.model={options.result / 'model'}",
            'robust_compression.task.synthetic={"train": 400, "dev": 16, "ood": 16}',
            "robust_compression.epochs=8",
            f"train_batch_size={4 * ranks.world_size() * options.accumulation}",
            f"gradient_accumulation_steps={options.accumulation}",
            "tensorboard.enabled=false",
            "robust_compression.checkpoint.enabled=false",
            *(['bf16={"enabled": true}'] if options.bf16 else []),
            *options.set,
        ],
    )
    here = run.prepare(settings, options.result / f"run{stage}", device)
    model = context.start_model(here, here.encoder.model)
    count = sum(parameter.numel() for parameter in model.parameters())
    trainer = context.new_trainer("t", here, model, [Masks(), Vanilla()], 8)
    trainer.run_until(WARM)
    seconds, begun = [], ranks.gathered(lambda: sent(options.interface))
    for step in range(WARM, WARM + options.steps):
        start = time.perf_counter()
        trainer.run_until(step + 1)
        seconds.append(time.perf_counter() - start)
    ended = ranks.gathered(lambda: sent(options.interface))
    trainer.close()
    return {
        "parameters": count,
        "ranks": ranks.world_size(),
        "seconds": statistics.median(seconds),
        "sent": [(b - a) / options.steps for a, b in zip(begun, ended, strict=True)],
    }


def main() -> None:
    options, device = parse(), distributed.start()
    options.result = options.result.absolute()
    ranks.on_main(lambda: write_model(options.result / "model", options))
    for stage in options.stages:
        found = measure(stage, options, device)
        if ranks.is_main():
            (options.result / f"{stage}.json").write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main()
