"""Started by test_partitioned.py: models divided among the ranks, and what each rank holds.

    OUTPUT MODEL...

For each directory every rank writes to OUTPUT/<name>-rank<r>.json: `errors` of logits and hidden states
against the whole model's by batch, numbers of parameters (`all`, `held`, `fetched` afterwards), and
whether each gathered tensor is `equal`.
"""

import gc
import json
import sys
import weakref
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.configuration import config
from compress.models import deferred, encoders
from compress.runtime import ranks
from compress.training import distributed, frozen, gathering
from compress.training.engine import release

ROOT = Path(__file__).parents[2]
LABELS = ("no", "yes")
BATCHES = 4
"""The second records the order of the layers, later ones fetch weights ahead."""


def one(folder: Path, settings: config.Config, device: torch.device) -> dict:
    torch.manual_seed(0)
    whole = encoders.load_classifier(folder, LABELS).eval()
    torch.manual_seed(0)
    model = encoders.load_classifier(folder, LABELS, whole=False)
    assert deferred.deferred(model)
    sizes = [parameter.numel() for parameter in model.parameters()]
    engine = frozen.place(model, settings, device)
    assert engine is not None
    generator, errors = torch.Generator().manual_seed(ranks.rank()), []
    for _ in range(BATCHES):
        ids = torch.randint(3, 30, (2, 8 + ranks.rank()), generator=generator)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            ours, theirs = (m(**given, output_hidden_states=True) for m in (model, whole))
        pairs = [(ours.logits, theirs.logits)]
        pairs += zip(ours.hidden_states, theirs.hidden_states, strict=True)
        errors.append(max(float((a - b).abs().max()) for a, b in pairs))
    found = {
        "errors": errors,
        "largest": float(theirs.logits.abs().max()),
        "all": sum(sizes),
        "count": len(sizes),
        "held": sum(parameter.ds_tensor.numel() for parameter in model.parameters()),
        "fetched": sum(parameter.numel() for parameter in model.parameters()),
        "learning": [model.training, any(p.requires_grad for p in model.parameters())],
    }
    state, equal = whole.state_dict(), []
    for portion in gathering.of_engine(engine):
        equal += [torch.equal(state[name], v) for name, v in portion.items() if name in state]
    release(engine)
    kept = weakref.ref(model)
    del engine, model, ours
    gc.collect()
    return found | {"state": len(state), "equal": equal, "freed": kept() is None}


def main() -> None:
    output, *folders = map(Path, sys.argv[1:])
    files = [ROOT / f"ds_configs/{name}.json" for name in ("zero3", "tasks/synthetic")]
    divided = "zero_optimization.stage3_param_persistence_threshold=0"
    words = ["robust_compression.model=none", divided]
    settings = config.load([str(file) for file in files], words)
    device = distributed.start()
    for folder in folders:
        found = one(folder, settings, device)
        (output / f"{folder.name}-rank{ranks.rank()}.json").write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main()
