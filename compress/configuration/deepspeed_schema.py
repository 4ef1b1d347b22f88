"""The part of DeepSpeed's own configuration schema that has an effect in this program.

DeepSpeed ignores a misspelt top-level or compression key; these models do not. Blocks that this program
never uses (data loader, pipelines, inference, elasticity ...) are left out on purpose: setting them is
an error. A test compares the keys with the installed DeepSpeed.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from compress.compression.settings import CompressionTraining
from compress.configuration.blocks import Auto, Beta, Block, Count, Natural, NonNegative

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
"""Keys that the result of a training depends on; the others decide where and how it runs."""
BUCKET = 500_000_000
"""DeepSpeed's default of `reduce_bucket_size`; smaller models have a bucket of their own size."""


class OptimizerParams(Block):
    """Parameters of the optimiser."""

    lr: Annotated[float, Field(gt=0)]
    """Learning rate; the peak of every schedule that names no other."""
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] | None = None
    """Decay rates of the running means of the gradient and of its square. Default: the library's."""
    eps: NonNegative | None = None
    """Added to the denominator of the update. Default: the library's."""
    weight_decay: NonNegative = 0.0
    """Weight decay of matrices; biases and normalisation layers have none."""
    torch_adam: bool = False
    """true: torch's optimiser, which needs no compiler. false: DeepSpeed's own, which is compiled at
    the first start, which may take minutes."""
    fused: bool | None = None
    """With torch_adam: torch's fused kernel, which updates all weights at once. Default: not."""


class Optimizer(Block):
    """The optimiser."""

    type: Literal["Adam", "AdamW"]
    """DeepSpeed runs both as AdamW, as its documentation says."""
    params: OptimizerParams


class WarmupParams(Block):
    """The learning rate rises to a constant."""

    warmup_min_lr: NonNegative | None = None
    """Learning rate of the first step."""
    warmup_max_lr: Annotated[float, Field(gt=0)] | Auto | None = None
    """Highest learning rate. Absent or "auto": optimizer.params.lr."""
    warmup_num_steps: Count | Auto | None = None
    """Steps until the highest rate. Absent or "auto": 6 % of the training."""
    warmup_type: Literal["linear", "log"] | None = None
    """How the rate rises. Absent: log."""


class WarmupDecayParams(WarmupParams):
    """The learning rate rises, then falls linearly to 0."""

    total_num_steps: Count | Auto
    """Steps of the whole schedule. "auto": those of the training."""


class WarmupCosineParams(Block):
    """The learning rate rises, then falls along a cosine."""

    total_num_steps: Count | Auto
    """Steps of the whole schedule. "auto": those of the training."""
    warmup_min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Rate of the first step, divided by optimizer.params.lr."""
    warmup_num_steps: Count | Auto | None = None
    """Steps until the highest rate. Absent or "auto": 6 % of the training."""
    cos_min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Rate of the last step, divided by optimizer.params.lr. Absent: 0.0001."""
    warmup_type: Literal["linear", "log"] | None = None
    """How the rate rises. Absent: log."""


class Warmup(Block):
    """DeepSpeed's `scheduler` block, type WarmupLR."""

    type: Literal["WarmupLR"]
    """Name of the schedule."""
    params: WarmupParams


class WarmupDecay(Block):
    """DeepSpeed's `scheduler` block, type WarmupDecayLR."""

    type: Literal["WarmupDecayLR"]
    """Name of the schedule."""
    params: WarmupDecayParams


class WarmupCosine(Block):
    """DeepSpeed's `scheduler` block, type WarmupCosineLR."""

    type: Literal["WarmupCosineLR"]
    """Name of the schedule."""
    params: WarmupCosineParams


Scheduler = Annotated[Warmup | WarmupDecay | WarmupCosine, Field(discriminator="type")]


class Offload(Block):
    """Keeps a part of the training outside the GPU."""

    device: Literal["none", "cpu", "nvme"]
    """Where it is kept."""
    nvme_path: str | None = None
    """With device nvme: a folder on that device that exists and can be written to."""
    pin_memory: bool | None = None
    """Keep them in page-locked memory, which is copied faster. On a machine without a GPU, either
    value does the same."""
    buffer_count: Count | None = None
    """With device nvme: buffers in memory."""


class OffloadOptimizer(Offload):
    """Keeps the optimiser's states outside the GPU."""

    device: Literal["none", "cpu", "nvme"]
    """Where the states are kept: cpu under ZeRO 1 to 3, nvme under ZeRO 3."""
    ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the states that is offloaded; only 1 is accepted."""


class OffloadParam(Offload):
    """Keeps the parameters outside the GPU (ZeRO 3)."""

    device: Literal["none", "cpu", "nvme"]
    """Where the parameters are kept."""
    buffer_size: Count | None = None
    """With device nvme: numbers in each buffer."""
    max_in_cpu: Count | None = None
    """With device nvme: numbers that stay in the memory of the host."""


class Zero(Block):
    """DeepSpeed's ZeRO: what is divided among the ranks, and how."""

    stage: Annotated[int, Field(ge=0, le=3)]
    """What is divided among the ranks. 0: nothing; 1: the optimiser's states; 2: gradients too; 3:
    parameters too."""
    contiguous_gradients: bool | None = None
    """ZeRO 1 to 3: copy gradients into one buffer."""
    reduce_scatter: bool | None = None
    """ZeRO 1 to 3: sum each gradient only on the rank that owns it, instead of on all."""
    reduce_bucket_size: Annotated[int, Field(ge=2, le=10**11)] | None = None
    """ZeRO 1 to 3: numbers that are summed over the ranks at a time; without it those of the
    model, at most 500 million.
    """
    use_multi_rank_bucket_allreduce: bool | None = None
    """ZeRO 1 and 2 with reduce_scatter: one all-reduce for the parts of several ranks."""
    allgather_partitions: bool | None = None
    """No effect in this release, which always gathers; only true is accepted, so that DeepSpeed's
    examples can be read."""
    allgather_bucket_size: Count | None = None
    """No effect with this version of torch; only 500000000 is accepted, so that DeepSpeed's examples
    can be read."""
    overlap_comm: bool | None = None
    """ZeRO 1 to 3: sum gradients during the backward pass. On a CPU nothing overlaps; results are
    the same."""
    round_robin_gradients: bool | None = None
    """ZeRO 1 and 2: deal the parameters to the ranks in turn."""
    offload_param: OffloadParam | None = None
    offload_optimizer: OffloadOptimizer | None = None
    sub_group_size: Count | None = None
    """ZeRO 3: parameters that are updated at a time."""
    stage3_prefetch_bucket_size: Natural | None = None
    """ZeRO 3: numbers that are gathered ahead of their use; 0: none."""
    stage3_param_persistence_threshold: Natural | None = None
    """ZeRO 3: parameters with fewer numbers stay on every rank. On a CPU it is 0."""
    stage3_max_live_parameters: Natural | None = None
    """ZeRO 3: numbers that are kept gathered at most."""
    stage3_max_reuse_distance: Natural | None = None
    """ZeRO 3: a parameter stays gathered if it is used again within this many numbers."""


class BF16(Block):
    """bfloat16 parameters with float32 master weights."""

    enabled: bool
    """Whether the block takes effect; at every ZeRO stage, on a CPU too."""
    immediate_grad_update: bool | None = None
    """No effect here; only false is accepted."""
    check_grad_overflow: bool | None = None
    """ZeRO 0 to 2: leave a step out whose gradients are not finite, instead of ending the run there."""


class FP16(Block):
    """float16 parameters with loss scaling."""

    enabled: bool
    """Whether the block takes effect; under ZeRO 1 to 3, on a device that computes in float16."""
    loss_scale: NonNegative | None = None
    """A fixed scale of the loss; 0: the scale follows the gradients."""
    initial_scale_power: Annotated[int, Field(ge=0, le=127)] | None = None
    """With loss_scale 0: the first scale is 2 to this power."""
    loss_scale_window: Count | None = None
    """With loss_scale 0: steps without overflow before the scale rises."""
    hysteresis: Count | None = None
    """With loss_scale 0: overflows before the scale falls."""
    min_loss_scale: Count | None = None
    """With loss_scale 0: the smallest scale."""


class Autocast(Block):
    """torch.autocast through DeepSpeed: float32 parameters, matrix products in `dtype`."""

    enabled: bool
    """Whether the block takes effect; at every ZeRO stage, on a CPU too."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Number type of matrix products; float16 under ZeRO 0 only. Absent: bfloat16, on every device."""


class FileMonitor(Block):
    """Files of events, for TensorBoard or as CSV."""

    enabled: bool
    """Whether events are written."""
    output_path: str | None = None
    """Directory of the event files. Default: the output directory."""
    job_name: str | None = None
    """Sub-directory for this run. Default: the name of the output directory; without output_path
    `csv_monitor`, or `tensorboard` and that name in it."""


class Wandb(Block):
    """Events to Weights & Biases, if the package wandb is installed."""

    enabled: bool
    """Whether events are sent."""
    group: str | None = None
    """Group of the run."""
    team: str | None = None
    """Team (entity) of the run."""
    project: str | None = None
    """Project of the run."""


class DeepSpeedBlock(Block):
    """DeepSpeed's top-level keys that take effect here."""

    train_batch_size: Count
    """Samples of one optimiser step, of all ranks together. It may be left out, or null, where
    train_micro_batch_size_per_gpu is given: then it is micro-batch x accumulation steps x ranks, and
    other ranks give other results."""
    train_micro_batch_size_per_gpu: Count | None = None
    """Samples of one forward pass on one rank (a micro-batch). Default: what the other two batch
    keys leave."""
    gradient_accumulation_steps: Count | None = None
    """Forward passes of one optimiser step. Default: what the other two batch keys leave."""
    gradient_clipping: NonNegative | None = None
    """Largest norm of the gradient, at every ZeRO stage and precision. Default: no clipping."""
    prescale_gradients: bool | None = None
    """Divide gradients by the number of ranks before they are summed, not after. ZeRO 1 and 3 always
    do."""
    steps_per_print: Count | None = None
    """Optimiser steps between two reports on the terminal and in the monitors. Default: 10."""
    wall_clock_breakdown: bool | None = None
    """Print DeepSpeed's timers after each micro-batch."""
    communication_data_type: Literal["fp32", "fp16", "bf16"] | None = None
    """Number type in which gradients are summed over the ranks."""
    optimizer: Optimizer
    scheduler: Scheduler | None = None
    """Learning-rate schedule. Absent: a constant rate."""
    zero_optimization: Zero
    bf16: BF16 | None = None
    fp16: FP16 | None = None
    torch_autocast: Autocast | None = None
    tensorboard: FileMonitor | None = None
    """Events for TensorBoard."""
    csv_monitor: FileMonitor | None = None
    wandb: Wandb | None = None
    compression_training: CompressionTraining | None = None
    """What is removed from the student, and how."""

    @property
    def low_precision(self) -> bool:
        """Whether the engine computes in less than float32."""
        return any(block and block.enabled for block in (self.bf16, self.fp16, self.torch_autocast))


def engine_keys(merged: dict[str, Any]) -> dict[str, Any]:
    """What `deepspeed.initialize` is given: the merged keys less those that this program handles."""
    handled = {"robust_compression", "compression_training", "tensorboard", "csv_monitor", "wandb"}
    return {key: value for key, value in merged.items() if key not in handled}
