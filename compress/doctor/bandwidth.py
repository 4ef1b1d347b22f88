"""An all-reduce between the hosts: whether they reach each other, how fast. Rank 0 prints it as JSON.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m compress.doctor.bandwidth

One process a host, over NCCL where the hosts have GPUs and over gloo otherwise.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

SIZES = {"gloo": 16 * 2**20, "nccl": 256 * 2**20}
"""Bytes of the tensor that is summed."""
ROUNDS = 4
TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class Speed:
    """bandwidth: bytes a second on each link, 2 (n - 1) / n of the tensor a round; latency: seconds."""

    backend: str
    ranks: int
    bandwidth: float
    latency: float

    @staticmethod
    def read(text: str) -> "Speed":
        """From the JSON of `write`."""
        return Speed(**json.loads(text))

    def write(self) -> str:
        """As JSON in one line."""
        return json.dumps(asdict(self))


def measure(backend: str, device: str) -> Speed:
    """Sum a small and a large tensor over all ranks; the fastest of some rounds. Collective."""
    import torch
    import torch.distributed as dist

    ranks = dist.get_world_size()

    def seconds(count: int) -> float:
        tensor, taken = torch.ones(count, device=device), []
        for _ in range(ROUNDS):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
        if abs(float(tensor[0]) / ranks**ROUNDS - 1) > 1e-3:
            raise RuntimeError(f"the sum over {ranks} ranks is wrong")
        return min(taken)

    size = SIZES[backend]
    latency, large = seconds(1), seconds(size // 4)
    return Speed(backend, ranks, 2 * (ranks - 1) / ranks * size / large, latency)


def main() -> None:
    """Join the group that the environment names, measure, and print it on rank 0."""
    import torch
    import torch.distributed as dist

    backend = os.environ.get("DOCTOR_BACKEND", "gloo")
    device = "cpu"
    if backend == "nccl":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=TIMEOUT)
    speed = measure(backend, device)
    if dist.get_rank() == 0:
        sys.stdout.write(f"{speed.write()}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
