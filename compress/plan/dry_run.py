"""The plan of the run at hand, whose data, models and settings have been read and checked."""

import torch

from compress.errors import UserError
from compress.models import encoders
from compress.plan import report
from compress.plan.communication import GB
from compress.plan.engine import FLOAT
from compress.plan.memory import BUCKET, Need
from compress.plan.report import Models, Plan, Rows
from compress.runtime import memory, ranks
from compress.stages.context import Context


def check(stage: str) -> None:
    """Raise UserError for a stage that trains nothing."""
    if stage == "prepare":
        raise UserError("--dry_run: --stage prepare trains nothing anyway; leave one of the two out.")


def say(context: Context) -> None:
    """Print the plan, and whether its largest part fits this rank's device; nothing is trained."""
    plan = plan_of(context)
    ranks.say(plan.text())
    if when := context.resolved.timetable:
        ranks.say(f"student: {when}")
    ranks.say(f"{_verdict(plan, context.device)}\ndry run: checked, and nothing was trained")


def plan_of(context: Context) -> Plan:
    """With the sizes of the data that were read and the compression as it was resolved.

    Raises UserError for models whose weights are damaged; their headers are read.
    """
    data = context.data
    scored = sum(len(split) for name, split in data.splits().items() if name != "train")
    made = {}
    for key in context.encoders.keys() & {"model", "teacher.model"}:
        given, task = key == "teacher.model", data.task
        path = context.encoders[key].model
        made[key] = encoders.load_classifier(path, data.labels, trained=given, task=task, whole=False)
    rows = Rows(len(data.train), scored, len(data.labels))
    start = context.resolved.model
    models = Models(made["model"], made.get("teacher.model"), start, context.resolved.pruners)
    return report.make(context.config, ranks.world_size(), rows, models, context.device.type)


def _verdict(plan: Plan, device: torch.device) -> str:
    """Whether the largest need fits what this rank's device has in all, or its share of the host."""
    if device.type == "cuda":
        total, what = torch.cuda.get_device_properties(device).total_memory, f"{device} has"
        needed = {need.stage: need.on_device for need in plan.parts}
    else:
        total = int(memory.available() / ranks.on_this_host())
        what = "each rank's share of this machine's free memory is"
        needed = {need.stage: filled(need, plan.parameters) for need in plan.parts}
    part = max(needed, key=lambda stage: needed[stage])
    sizes = f"it needs {needed[part] / GB:.2f} GB, and {what} {total / GB:.2f} GB"
    if needed[part] < total:
        return f"{part} fits: {sizes}"
    return f"{part} does not fit: {sizes}; docs/scale.md says what needs less"


def filled(need: Need, parameters: int) -> int:
    """Bytes of device and host that a CPU backs with memory: of buckets what is ever filled.

    parameters: of the model; each of the two buckets at most never holds more gradients.
    """
    bucket = need.device.get(BUCKET, 0)
    return need.on_device + need.on_host - bucket + min(bucket, 2 * FLOAT * parameters)
