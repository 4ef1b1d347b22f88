"""The part of DeepSpeed's own configuration schema that takes effect here.

DeepSpeed accepts a misspelt top-level key or compression key in silence; these models do not.
Blocks that this program never uses (its data loader, pipelines, inference, elasticity ...) are left
out on purpose: setting them is an error, not a wish. Only types live here; `config` merges files
and turns a violation into a sentence. A test holds the keys against the installed DeepSpeed.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from compress.configuration.blocks import Auto, Beta, Block, Count, Natural, NonNegative
from compress.configuration.compression_schema import CompressionTraining

TRAINING_KEYS = (
    "train_batch_size",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
    "torch_autocast",
    "communication_data_type",
)
"""Keys that a training's outcome hangs on; the others say where and how it runs."""


class OptimizerParams(Block):
    """Parameters of the Adam family. torch_adam: torch's own, which needs no compiling."""

    lr: Annotated[float, Field(gt=0)]
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] | None = None
    eps: NonNegative | None = None
    weight_decay: NonNegative = 0.0
    torch_adam: bool = False


class Optimizer(Block):
    """DeepSpeed's `optimizer` block."""

    type: Literal["Adam", "AdamW"]
    params: OptimizerParams


class WarmupParams(Block):
    """`WarmupLR`: up to a constant. "auto" is filled in from the task's number of steps."""

    warmup_min_lr: NonNegative | None = None
    warmup_max_lr: Annotated[float, Field(gt=0)] | Auto | None = None
    warmup_num_steps: Count | Auto | None = None
    warmup_type: Literal["linear", "log"] | None = None


class WarmupDecayParams(WarmupParams):
    """`WarmupDecayLR`: up, then linearly down to 0."""

    total_num_steps: Count | Auto


class WarmupCosineParams(Block):
    """`WarmupCosineLR`: up, then down along a cosine, as ratios of the optimiser's rate."""

    total_num_steps: Count | Auto
    warmup_min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    warmup_num_steps: Count | Auto | None = None
    cos_min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    warmup_type: Literal["linear", "log"] | None = None


class Warmup(Block):
    """DeepSpeed's `scheduler` block, type WarmupLR."""

    type: Literal["WarmupLR"]
    params: WarmupParams


class WarmupDecay(Block):
    """DeepSpeed's `scheduler` block, type WarmupDecayLR."""

    type: Literal["WarmupDecayLR"]
    params: WarmupDecayParams


class WarmupCosine(Block):
    """DeepSpeed's `scheduler` block, type WarmupCosineLR."""

    type: Literal["WarmupCosineLR"]
    params: WarmupCosineParams


Scheduler = Annotated[Warmup | WarmupDecay | WarmupCosine, Field(discriminator="type")]


class OffloadOptimizer(Block):
    """Offloading of optimiser states to the host."""

    device: Literal["none", "cpu", "nvme"]
    nvme_path: str | None = None
    pin_memory: bool | None = None
    buffer_count: Count | None = None
    ratio: Annotated[float, Field(ge=0, le=1)] | None = None


class OffloadParam(Block):
    """Offloading of parameters to the host (ZeRO 3)."""

    device: Literal["none", "cpu", "nvme"]
    nvme_path: str | None = None
    pin_memory: bool | None = None
    buffer_count: Count | None = None
    buffer_size: Count | None = None
    max_in_cpu: Count | None = None


class Zero(Block):
    """DeepSpeed's `zero_optimization` block."""

    stage: Annotated[int, Field(ge=0, le=3)]
    contiguous_gradients: bool | None = None
    reduce_scatter: bool | None = None
    reduce_bucket_size: Annotated[int, Field(ge=2, le=10**11)] | None = None
    use_multi_rank_bucket_allreduce: bool | None = None
    allgather_partitions: bool | None = None
    allgather_bucket_size: Count | None = None
    overlap_comm: bool | None = None
    round_robin_gradients: bool | None = None
    offload_param: OffloadParam | None = None
    offload_optimizer: OffloadOptimizer | None = None
    sub_group_size: Count | None = None
    stage3_prefetch_bucket_size: Natural | None = None
    stage3_param_persistence_threshold: Natural | None = None
    stage3_max_live_parameters: Natural | None = None
    stage3_max_reuse_distance: Natural | None = None


class BF16(Block):
    """bfloat16 parameters with float32 master weights."""

    enabled: bool
    immediate_grad_update: bool | None = None
    check_grad_overflow: bool | None = None


class FP16(Block):
    """float16 parameters with loss scaling."""

    enabled: bool
    loss_scale: NonNegative | None = None
    initial_scale_power: Annotated[int, Field(ge=0, le=127)] | None = None
    loss_scale_window: Count | None = None
    hysteresis: Count | None = None
    min_loss_scale: Count | None = None


class Autocast(Block):
    """torch.autocast through DeepSpeed: float32 parameters, matrix products in `dtype`."""

    enabled: bool
    dtype: Literal["bfloat16", "float16"] | None = None


class FileMonitor(Block):
    """`tensorboard` and `csv_monitor`: where the events go (default: the run directory)."""

    enabled: bool
    output_path: str | None = None
    job_name: str | None = None


class Wandb(Block):
    """`wandb`: an event stream to Weights & Biases, if that package is installed."""

    enabled: bool
    group: str | None = None
    team: str | None = None
    project: str | None = None


class DeepSpeedBlock(Block):
    """DeepSpeed's top-level keys that take effect here."""

    train_batch_size: Count
    train_micro_batch_size_per_gpu: Count | None = None
    gradient_accumulation_steps: Count | None = None
    gradient_clipping: NonNegative | None = None
    prescale_gradients: bool | None = None
    steps_per_print: Count | None = None
    wall_clock_breakdown: bool | None = None
    communication_data_type: Literal["fp32", "fp16", "bf16"] | None = None
    optimizer: Optimizer
    scheduler: Scheduler | None = None
    zero_optimization: Zero
    bf16: BF16 | None = None
    fp16: FP16 | None = None
    torch_autocast: Autocast | None = None
    tensorboard: FileMonitor | None = None
    csv_monitor: FileMonitor | None = None
    wandb: Wandb | None = None
    compression_training: CompressionTraining | None = None

    @property
    def low_precision(self) -> bool:
        """Whether the engine computes in less than float32."""
        return any(block and block.enabled for block in (self.bf16, self.fp16, self.torch_autocast))


def engine_keys(merged: dict[str, Any]) -> dict[str, Any]:
    """What `deepspeed.initialize` is given: the merged keys less the blocks that are handled here."""
    ours = {"robust_compression", "compression_training", "tensorboard", "csv_monitor", "wandb"}
    return {key: value for key, value in merged.items() if key not in ours}
