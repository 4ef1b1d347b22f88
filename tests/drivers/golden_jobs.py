"""Train every mechanism for 20 steps in one process and write what is the same on all processors.

    python tests/drivers/golden_jobs.py FILE [JOB ...]

Jobs are those that side_by_side.py calls RECORDED; the first is evaluated too. Kept of each: how
often a scalar was logged, the highest learning rate, the sparsity of each step, the first loss of each
training, numbers of parameters and zeros, a digest of the shapes and zeros of the exported tensors (not
where heads are chosen by importance: a near tie may fall otherwise), heads and ffn neurons left in all
layers, the names in metrics.json. Run it to renew tests/golden_runs.json after a change that is
meant to alter results.
"""

import functools
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from side_by_side import COMMON, JOBS, RECORDED, ROOT, Job

from compress import run
from compress.configuration import config
from compress.models import probe
from compress.training import distributed

CHOSEN = ("heads20", "heads40", "heads20_rows50_imp40")


def execute(job: Job, output: Path, device: Any, whole: bool) -> None:
    parts = (f"zero{job.zero}", "tasks/synthetic", f"compression/{job.compression}")
    names = (*parts, f"mitigation/{job.mitigation}")
    files = [ROOT / f"ds_configs/{name}.json" for name in names]
    settings = config.load(files, [*COMMON, *job.overrides])
    context = run.prepare(settings, output, device)
    stages = run.stages_of(settings.robust, "all")
    for stage in ["all"] if whole else stages[: stages.index("evaluate")]:
        run.execute(context, stage)


def scalars(file: Path) -> list[float]:
    return [float(line.split(",")[1]) for line in file.read_text().splitlines()[1:]]


def facts(output: Path, chosen: bool) -> dict[str, Any]:
    """What a finished run holds that does not depend on the processor, by name.

    chosen: heads go by importance.
    """
    found: dict[str, Any] = {}
    for file in sorted(output.rglob("*.csv")):
        values = scalars(file)
        name = file.stem.lower()
        if name.endswith("_sparsity"):
            found[name] = values
        elif name.endswith("_lr"):
            found[name] = [max(values), len(values)]
        elif name.endswith("_loss"):
            found[name] = [*values[:1], len(values)]
        else:
            found[name] = len(values)
    weights = load_file(output / "student/model/model.safetensors")
    zeros = {name: int((tensor == 0).sum()) for name, tensor in weights.items() if tensor.ndim == 2}
    table = repr([(name, tensor.shape, zeros.get(name)) for name, tensor in sorted(weights.items())])
    found["parameters"] = sum(tensor.size for tensor in weights.values())
    found["zeros"] = sum(zeros.values())
    if not chosen:
        found["tensors"] = hashlib.sha256(table.encode()).hexdigest()[:16]
    layers = json.loads((output / "student/student.json").read_text())["layers"]
    found["left"] = {key: sum(layer[key] for layer in layers) for key in (layers or [{}])[0]}
    if (metrics := output / "metrics.json").exists():
        found["metrics"] = sorted(json.loads(metrics.read_text()))
    return found


def main() -> None:
    device = distributed.start()
    probe.check = functools.cache(probe.check)  # the model is tried once
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[2:] or RECORDED:
            job = JOBS[name]
            execute(job, Path(folder) / name, device, whole=name == RECORDED[0])
            out[name] = facts(Path(folder) / name, job.compression in CHOSEN)
    distributed.stop()
    lines = [
        f'  "{name}": {{\n'
        + ",\n".join(f'    "{key}": {json.dumps(value)}' for key, value in sorted(found.items()))
        + "\n  }"
        for name, found in out.items()
    ]
    Path(sys.argv[1]).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
