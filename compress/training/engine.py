"""What the engine is built from: DeepSpeed's configuration, filled in, and the parameters in groups."""

from typing import Any

import torch
from transformers import PreTrainedModel

from compress.configuration.config import Config
from compress.errors import UserError

NEVER = 1 << 40
WARMUP_SHARE = 0.06


def parameter_groups(model: PreTrainedModel, config: Config) -> list[dict[str, Any]]:
    """Parameters in groups: weight decay on matrices, none on biases and normalisation.

    Learned pruning scores, if there are any, are a third group with a learning rate of their own.
    """
    decay = config.deepspeed.optimizer.params.weight_decay
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    scores = [p for name, p in named if name.endswith("_scores")]
    others = [p for name, p in named if not name.endswith("_scores")]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    if scores:
        groups.append({"params": scores, "weight_decay": 0.0, "lr": config.robust.score_lr})
    return groups


def engine_settings(
    config: Config, total_steps: int, micro: int, accumulation: int, learned: bool = False
) -> dict[str, Any]:
    """DeepSpeed's configuration with every "auto" filled in and its own printing off.

    learned: there is a group of learned scores, whose rate the schedule must lead too. Under ZeRO 3 on
    the CPU no parameter persists, because the pinned release gathers persistent ones with several gloo
    operations and waits for the last only: weights were NaN now and then (upstream PR #8539). Raises
    UserError if the user wants them to persist there.
    """
    settings = dict(config.engine)
    settings.update(
        train_micro_batch_size_per_gpu=micro,
        gradient_accumulation_steps=accumulation,
        steps_per_print=NEVER,
    )
    if config.deepspeed.zero_optimization.stage == 3 and torch.distributed.get_backend() == "gloo":
        if config.deepspeed.zero_optimization.stage3_param_persistence_threshold:
            raise UserError(
                "zero_optimization.stage3_param_persistence_threshold must be 0 or absent on the CPU: "
                "this release of DeepSpeed races there (upstream PR #8539)."
            )
        zero = {**settings["zero_optimization"], "stage3_param_persistence_threshold": 0}
        settings["zero_optimization"] = zero
    if "scheduler" in settings:
        filled = {
            "total_num_steps": total_steps,
            "warmup_num_steps": max(1, round(WARMUP_SHARE * total_steps)),
            "warmup_max_lr": config.deepspeed.optimizer.params.lr,
        }
        scheduler = settings["scheduler"]
        params = {
            key: filled.get(key, value) if value == "auto" else value
            for key, value in scheduler["params"].items()
        }
        if learned and "warmup_max_lr" in params:
            highest = params["warmup_max_lr"]
            params["warmup_max_lr"] = [highest, highest, config.robust.score_lr]
        settings["scheduler"] = {**scheduler, "params": params}
    return settings
