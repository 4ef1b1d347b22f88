"""Start train.py and the drivers as a user does: alone, or through the `deepspeed` launcher."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **extra,
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


def launch(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = f"--master_port={free.getsockname()[1]}"
    return run(["deepspeed", "--num_accelerators", "2", port, *arguments], **extra)


def job(
    model: Path,
    output: Path,
    *overrides: str,
    stage: str = "all",
    parts: tuple[str, str] = ("compression/imp60", "mitigation/rmc"),
) -> list[str]:
    files = ["zero2", "tasks/synthetic", *parts]
    return [
        str(ROOT / "train.py"),
        "--deepspeed_config",
        *[str(ROOT / f"ds_configs/{name}.json") for name in files],
        "--output_dir",
        str(output),
        "--stage",
        stage,
        "--set",
        f"robust_compression.model={model}",
        'robust_compression.task.synthetic={"train": 120, "dev": 40, "ood": 40}',
        "robust_compression.epochs=2",
        "train_batch_size=16",
        "steps_per_print=2",
        *overrides,
    ]
