"""Started by test_frozen.py on two ranks: frozen models in parts, compared with whole ones.

    torchrun --nproc_per_node 2 tests/drivers/frozen_parts.py OUTPUT NAME ...

Names: of small_models. Every rank writes OUTPUT/<rank>.json: of each model the largest difference of
logits and hidden states, of outputs of another length on each rank, and numbers of weights.
"""

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from small_models import fresh

from compress.runtime import ranks
from compress.training import distributed, frozen

BATCHES = 4
"""The second records the order of the layers, later ones fetch weights ahead."""


def main() -> None:
    output, *names = sys.argv[1:]
    device, found = distributed.start(), {}
    zero = SimpleNamespace(zero_optimization=SimpleNamespace(stage=3))
    for name in names:
        torch.manual_seed(0)
        whole = AutoModelForSequenceClassification.from_config(fresh(name)).eval()
        parts = copy.deepcopy(whole).train()
        frozen.place(parts, SimpleNamespace(deepspeed=zero), device)
        generator, errors = torch.Generator().manual_seed(ranks.rank()), []
        for _ in range(BATCHES):
            ids = torch.randint(3, 30, (2, 8 + ranks.rank()), generator=generator)
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.no_grad():
                one, other = (m(**given, output_hidden_states=True) for m in (whole, parts))
            pairs = [(one.logits, other.logits)]
            pairs += zip(one.hidden_states, other.hidden_states, strict=True)
            errors.append(max(float((a - b).abs().max()) for a, b in pairs))
        found[name] = {
            "errors": errors,
            "largest": float(one.logits.abs().max()),
            "whole": sum(p.numel() for p in whole.parameters()),
            "own": sum(p.ds_tensor.numel() for p in parts.parameters()),
            "fetched": sum(p.numel() for p in parts.parameters()),
            "learning": [parts.training, any(p.requires_grad for p in parts.parameters())],
        }
    (Path(output) / f"{ranks.rank()}.json").write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main()
