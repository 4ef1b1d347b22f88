"""Started by test_partitioned.py: models divided among the ranks, and what each rank holds.

    OUTPUT MODEL...

For each directory every rank writes to OUTPUT/<name>-rank<r>.json: `logits` through the engine and
`whole` of the plain model, numbers of parameters `all`, `largest` and `held`, and the `written` values.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.configuration import config
from compress.models import deferred, encoders
from compress.runtime import ranks
from compress.training import distributed, frozen, gathering

ROOT = Path(__file__).parents[2]
LABELS = ("no", "yes")
IDS = torch.arange(5, 25).view(2, 10)


def one(folder: Path, settings: config.Config) -> dict:
    torch.manual_seed(0)
    whole = encoders.load_classifier(folder, LABELS).eval()
    torch.manual_seed(0)
    model = encoders.load_classifier(folder, LABELS, whole=False).eval()
    assert deferred.deferred(model)
    sizes = [parameter.numel() for parameter in model.parameters()]
    engine = frozen.place(model, settings, torch.device("cpu"))
    with torch.no_grad():
        logits, plain = engine(IDS).logits, whole(IDS).logits
    held = sum(parameter.ds_tensor.numel() for parameter in model.parameters())
    state, equal = whole.state_dict(), []
    for portion in gathering.of_engine(engine):
        equal += [torch.equal(state[name], v) for name, v in portion.items() if name in state]
    engine.destroy()
    found = {"logits": logits.tolist(), "whole": plain.tolist(), "all": sum(sizes)}
    return found | {"held": held, "count": len(sizes), "state": len(state), "equal": equal}


def main() -> None:
    output, *folders = map(Path, sys.argv[1:])
    files = [ROOT / f"ds_configs/{name}.json" for name in ("zero3", "tasks/synthetic")]
    settings = config.load([str(file) for file in files], ["robust_compression.model=none"])
    distributed.start()
    for folder in folders:
        found = one(folder, settings)
        (output / f"{folder.name}-rank{ranks.rank()}.json").write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main()
