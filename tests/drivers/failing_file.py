"""Started by test_partitioned.py: a file of weights that cannot be read once the training begins.

    OUTPUT MODEL

Each rank writes what ended it to OUTPUT/ended-<r>.json: `divided`, while its model is divided among the
ranks, and `exported`, while the weights of a deferred model are written.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.configuration import config
from compress.errors import UserError
from compress.models import encoders
from compress.runtime import ranks
from compress.stages import export
from compress.training import distributed, frozen, gathering

ROOT = Path(__file__).parents[2]
LABELS = ("no", "yes")


def main() -> None:
    output, folder = map(Path, sys.argv[1:])
    files = [str(ROOT / f"ds_configs/{name}.json") for name in ("zero3", "tasks/synthetic")]
    settings = config.load(files, ["robust_compression.model=none"])
    device = distributed.start()
    model, again = (encoders.load_classifier(folder, LABELS, whole=False) for _ in range(2))
    ranks.barrier()
    if ranks.is_main():
        file = folder / "model.safetensors"
        os.truncate(file, file.stat().st_size // 2)
    ranks.barrier()
    tried = {
        "divided": lambda: frozen.place(model, settings, device),
        "exported": lambda: export.write_plain(gathering.of_model(again), again, output / "weights"),
    }
    ended = {}
    for name, work in tried.items():
        try:
            work()
        except UserError as error:
            ended[name] = str(error)
    (output / f"ended-{ranks.rank()}.json").write_text(json.dumps(ended))
    distributed.stop()


if __name__ == "__main__":
    main()
