"""Started by test_importance_engine.py: trains students that lose heads and ffn neurons by importance.

    torchrun --nproc_per_node 2 tests/drivers/importance_steps.py OUTPUT MODEL SPEC

SPEC: as that of parity_steps.py. Every job is trained twice: "engine" chooses by the importance that is
measured with the engine, "copy" by that of a plain float32 copy of the masked model, on every rank over
all samples. Every rank writes OUTPUT/<name>-<kind>-rank<r>.json: of both the losses, what is kept and
digests of the weights, and of each measurement both importances, the units that each would choose, and
what the measurement left behind.
"""

import json
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from parity_steps import Training, begun, contexts, prepare
from torch import Tensor
from transformers import PreTrainedModel
from whole_weights import gathered

from compress.compression import importance
from compress.compression.importance import Importance
from compress.compression.masks import Masks
from compress.compression.pruners.heads import kept_heads
from compress.compression.pruners.neurons import kept_neurons
from compress.models import compressed
from compress.models.blocks import find_blocks
from compress.runtime import ranks
from compress.stages.context import Context

COORDINATOR = "_PartitionedParameterCoordinator__"
BATCH = 16


def of_copy(training: Training, here: Context) -> Importance:
    """The importance of a plain copy, by products with masks of ones, over all samples on this rank."""
    with torch.random.fork_rng():
        model = compressed.build(training.shape.config)
    plain = training.masks.finish(gathered(training.trainer.engine))
    model.load_state_dict({name: plain[name] for name in model.state_dict()})
    model.eval().requires_grad_(False)
    data, robust = here.columns["train"], here.config.robust
    known, loss = training.trainer.training.known, robust.loss
    chosen = importance.sample(len(data), robust.structured.samples, robust.seed)
    sums: list[Tensor] = []
    for start in range(0, len(chosen), BATCH):
        indices = chosen[start : start + BATCH]
        with torch.enable_grad():
            masks = list(multiplied(model, len(indices)))
            logits = model(**data.batch(indices, torch.device("cpu"))).logits
            labels = torch.as_tensor(data.labels[indices]).long()
            batch = known.batch(indices, logits, labels, batch_mean=torch.ones(()))
            gradients = torch.autograd.grad(loss.loss(batch).sum(), [mask for mask, _ in masks])
        for _, handle in masks:
            handle.remove()
        rows = [gradient.double().abs().sum(dim=0) for gradient in gradients]
        sums = [a + b for a, b in zip(sums, rows, strict=True)] if sums else rows
    means = [total / len(chosen) for total in sums]
    return Importance(means[0::2], means[1::2])


def multiplied(model: PreTrainedModel, samples: int) -> Iterator[tuple[Tensor, Any]]:
    modules = dict(model.named_modules())
    for block in find_blocks(model):
        for name, units in ((block.attention_output, block.heads), (block.output, block.neurons)):
            mask = torch.ones(samples, units, requires_grad=True)

            def hook(_: object, inputs: tuple[Tensor, ...], mask: Tensor = mask) -> tuple[Tensor, ...]:
                width = inputs[0].shape[-1] // mask.shape[1]
                return (inputs[0] * mask.repeat_interleave(width, dim=1)[:, None, :], *inputs[1:])

            yield mask, modules[name].register_forward_pre_hook(hook)


def state_of(engine: Any) -> dict[str, Any]:
    """What a measurement must not change."""
    model, rng = engine.module, torch.get_rng_state()
    found = {
        "random": rng.sum().item(),
        "training": [module.training for module in model.modules()],
        "trained": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is not None for p in model.parameters()],
        "steps": [engine.micro_steps, engine.global_steps, engine.global_samples],
        "hooks": [[len(m._forward_pre_hooks), len(m._forward_hooks)] for m in model.modules()],
    }
    if engine.zero_optimization_stage() > 0:
        held = engine.optimizer.averaged_gradients
        found["averaged"] = sum(v is not None for v in held.values())
    if engine.zero_optimization_stage() == 3:
        coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
        order = getattr(coordinator, f"{COORDINATOR}submodule_order")
        found["trace"] = [coordinator.is_complete_trace(), [module.ds_id for module in order]]
    return found


def fetched(engine: Any) -> dict[str, int]:
    """What ZeRO 3 holds beyond this rank's part."""
    if engine.zero_optimization_stage() < 3:
        return {}
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    active = getattr(coordinator, f"{COORDINATOR}active_backward_submodules")
    in_flight = getattr(coordinator, f"{COORDINATOR}inflight_param_registry")
    return {
        "whole": sum(p.numel() > 0 for p in engine.module.parameters()),
        "active": len(active) + sum(len(p.ds_active_sub_modules) for p in engine.module.parameters()),
        "in_flight": len(in_flight),
    }


def chosen(found: Importance, masks: Masks) -> list[Any]:
    """The most important half, of what is not gone: heads of all layers, neurons of each."""
    gone = {pruner.unit: pruner.gone for pruner in masks.units}
    blocks = range(len(masks.blocks))
    heads = [gone["heads"](n) for n in blocks] if "heads" in gone else [set() for _ in blocks]
    left = sum(map(len, found.heads)) - sum(map(len, heads))
    rows = [
        kept_neurons(scores, len(scores) // 2, gone["neurons"](n) if "neurons" in gone else ())
        for n, scores in enumerate(found.neurons)
    ]
    return [kept_heads(found.heads, max(len(masks.blocks), left - 3), heads), rows]


def listed(found: Importance) -> dict[str, list[list[float]]]:
    return {key: [scores.tolist() for scores in getattr(found, key)] for key in ("heads", "neurons")}


def trained(here: Context, steps: int, by_engine: bool) -> dict[str, Any]:
    """A student in training, whose heads and neurons go by one of the two importances."""
    training, seen = begun(here), []
    masks = training.masks
    measure = masks._scorer
    assert measure is not None

    def scorer(engine: deepspeed.DeepSpeedEngine) -> Importance:
        kept = [dict(pruner.kept) for pruner in masks.units]
        copied = of_copy(training, here)
        for pruner, before in zip(masks.units, kept, strict=True):
            pruner.kept = before
        if not by_engine:
            return copied
        before = state_of(engine)
        found = measure(engine)
        after = state_of(engine)
        seen.append(
            {
                "engine": listed(found),
                "copy": listed(copied),
                "chosen": [chosen(found, masks), chosen(copied, masks)],
                "changed": [key for key in before if before[key] != after[key]],
                "fetched": fetched(engine),
            }
        )
        return found

    masks._scorer = scorer
    training.trainer.run_until(steps)
    return {**training.facts(), "losses": training.recorder.losses, "seen": seen}


def main() -> None:
    output, model, spec = prepare()
    for name, here in contexts(output, model, spec):
        both = {key: trained(here, spec["steps"], key == "engine") for key in ("engine", "copy")}
        (output / f"{name}-rank{ranks.rank()}.json").write_text(json.dumps(both))


if __name__ == "__main__":
    main()
