"""Started by test_native_masks.py on several ranks: matrices in parts, compared with a plain sort.

    torchrun --nproc_per_node 3 tests/drivers/divided_selection.py OUTPUT

Every rank draws the same matrices and cuts each at random positions into one part a rank, some of them
empty. The ranks write what goes of their own parts as OUTPUT/<rank>.json.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.compression.native import patterns, selection


def cases(generator: torch.Generator) -> list[torch.Tensor]:
    """Magnitude bits with many ties, few values and none."""
    coarse = [torch.randint(0, 4, (n,), generator=generator).float() for n in (16, 64, 120)]
    fine = [torch.randn(n, generator=generator) for n in (16, 64, 400)]
    return [selection.magnitude_bits(w, torch.float32) for w in (*coarse, *fine, torch.zeros(24))]


def main() -> None:
    output = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(3)
    results = []
    for _ in range(20):
        whole = cases(generator)
        parts, starts = [], []
        for keys in whole:
            cuts = torch.randint(0, len(keys) + 1, (world - 1,), generator=generator).sort().values
            edges = [0, *cuts.tolist(), len(keys)]
            parts.append(keys[edges[rank] : edges[rank + 1]])
            starts.append(edges[rank])
        counts = [int(torch.randint(0, len(k) + 1, (1,), generator=generator)) for k in whole]
        gone = selection.lowest(parts, counts, divided=True)
        pruned = [torch.rand(len(k), generator=generator) < 0.2 for k in whole]
        masked = [
            part.masked_fill(p[s : s + len(part)], -1)
            for part, p, s in zip(parts, pruned, starts, strict=True)
        ]
        allowed = {
            size: patterns.candidates(masked, starts, (size // 2, size), True) for size in (4, 8)
        }
        results.append(
            {
                "keys": [k.tolist() for k in whole],
                "counts": counts,
                "pruned": [p.tolist() for p in pruned],
                "gone": [g.tolist() for g in gone],
                **{f"allowed{size}": [m.tolist() for m in masks] for size, masks in allowed.items()},
            }
        )
    (output / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
