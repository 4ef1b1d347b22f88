"""Started by test_plan_measured.py: live tensor bytes of trainings, one after another.

    deepspeed tests/drivers/training_bytes.py OUTPUT MODEL SPECS

SPECS is a JSON list of {"name", "set", "masked"}: settings of train.py's --set; masked: prune weights.
Every rank writes OUTPUT/<name>-rank<r>.json: bytes that live before, `built` and after the last step
(`steady`), the peak of `build`, `forward`, `backward` and `step`, and how often a step gathers the
weights (`gatherings`).
"""

import gc
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from live_bytes import LiveBytes

from compress import run
from compress.compression.masks import Masks
from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruning_schedule import PruningSchedule
from compress.configuration import config
from compress.mitigations.vanilla import Vanilla
from compress.models import encoders
from compress.models.blocks import linear_layers
from compress.runtime import ranks
from compress.stages import context
from compress.training import distributed

STEPS = 4
GATHERED = list[int]()
"""Numbers of the tensors that were gathered in a step."""


def named(live: LiveBytes, engine, methods: dict[str, str]) -> None:
    """Count what an engine's methods do under names of their own."""
    for method, name in methods.items():
        original = getattr(engine, method)

        def counted(*args, original=original, name=name, **kwargs):
            with live.part(name):
                return original(*args, **kwargs)

        setattr(engine, method, counted)


def count_gathered(sizes: list[int]) -> None:
    """Have the numbers of each gathered tensor added to `sizes` from now on."""
    original = torch.distributed.all_gather_into_tensor

    def counted(output_tensor, *args, **kwargs):
        sizes.append(output_tensor.numel())
        return original(output_tensor, *args, **kwargs)

    torch.distributed.all_gather_into_tensor = counted


def let_go_after_sums() -> None:
    """Wait after each all-reduce until gloo's thread has let go of its tensor, a moment later."""
    original = torch.distributed.all_reduce

    def summed(*args, **kwargs):
        result = original(*args, **kwargs)
        time.sleep(0.003)
        return result

    torch.distributed.all_reduce = summed


def one(spec: dict, output: Path, files: list[str], overrides: list[str], device: torch.device) -> None:
    settings = config.load(files, [*overrides, *spec["set"]], ranks.world_size())
    here = run.prepare(settings, output / "run", device)
    pruners = []
    with LiveBytes() as live:
        before = live.current
        torch.manual_seed(settings.robust.seed)
        model = encoders.load_classifier(here.encoder.model, here.data.labels)
        if spec.get("masked"):
            weights = Weights((PruningSchedule(0.0, 0.5, 0, 1, 1),), tuple(linear_layers(model)))
            pruners = [Magnitude({"all": weights})]
        with live.part("build"):
            masks = Masks(pruners)
            masks.attach(model)
            trainer = context.new_trainer("t", here, model, [masks, Vanilla()], settings.robust.epochs)
        built = live.current - before
        methods = {"forward": "forward", "backward": "backward", "step": "step"}
        named(live, trainer.engine, methods)
        del methods
        trainer.run_until(STEPS - 1)
        GATHERED.clear()
        trainer.run_until(STEPS)
        weights = sum(p.ds_numel if hasattr(p, "ds_numel") else p.numel() for p in model.parameters())
        gathered = sum(GATHERED) / weights
        steady = live.current - before
        peaks = {name: peak - before for name, peak in live.peaks.items() if name}
        trainer.close()
        closed = live.current - before
        del trainer, model, masks
        gc.collect()
        left = live.current - before
    result = {"built": built, "steady": steady, **peaks, "closed": closed, "left": left}
    result["gatherings"] = gathered
    (output / f"{spec['name']}-rank{ranks.rank()}.json").write_text(json.dumps(result))
    ranks.say(f"{spec['name']}: {json.dumps(result)}")


def main() -> None:
    arguments = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    output, model, specs = arguments
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[2]
    names = ("zero2", "tasks/synthetic", "mitigation/vanilla", "compression/imp40")
    files = [str(root / f"ds_configs/{name}.json") for name in names]
    overrides = [
        f"robust_compression.model={model}",
        'robust_compression.task.synthetic={"train": 16, "dev": 8, "ood": 8}',
        "train_batch_size=4",
        "robust_compression.epochs=1",
        "robust_compression.task.max_length=16",
        "robust_compression.checkpoint.enabled=false",
        "tensorboard.enabled=false",
    ]
    count_gathered(GATHERED)
    let_go_after_sums()
    device = distributed.start()
    for spec in json.loads(specs):
        one(spec, output, files, overrides, device)
    distributed.stop()


if __name__ == "__main__":
    main()
