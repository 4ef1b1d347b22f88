"""What of DeepSpeed's settings decides about memory and communication."""

from dataclasses import dataclass

from compress.configuration.config import Config
from compress.configuration.deepspeed_schema import BUCKET

FLOAT = 4
"""Bytes of a float32 number."""


@dataclass(frozen=True)
class Engine:
    """What of DeepSpeed's settings decides about memory and communication; counts of numbers.

    width: bytes of a weight that the model computes with; bucket: of gradients, 0 if they are not
    copied into one; prefetch, reuse, live, persistence, sub_group: of ZeRO 3; temporaries: copies of
    the weights of a group that the optimiser makes in a step; gloo: connects the ranks, as on CPUs.
    """

    zero: int
    ranks: int
    width: int
    bucket: int
    prefetch: int
    reuse: int
    live: int
    persistence: int
    sub_group: int
    temporaries: int
    states_on_host: bool
    weights_on_host: bool
    gloo: bool = False

    @property
    def shares(self) -> int:
        """Ranks that divide the optimiser's states."""
        return self.ranks if self.zero else 1

    @staticmethod
    def of(config: Config, ranks: int, parameters: int, gloo: bool = False) -> "Engine":
        """The engine of a model of so many parameters; absent keys have DeepSpeed's defaults."""
        block, adam = config.deepspeed.zero_optimization, config.deepspeed.optimizer.params
        half = any(b and b.enabled for b in (config.deepspeed.bf16, config.deepspeed.fp16))
        buckets = (2 if block.overlap_comm and block.stage < 3 else 1) * _or(
            block.reduce_bucket_size, min(BUCKET, parameters)
        )
        states, weights = block.offload_optimizer, block.offload_param
        return Engine(
            zero=block.stage,
            ranks=ranks,
            width=2 if half or config.robust.precision == "bf16" else FLOAT,
            bucket=buckets if block.stage and block.contiguous_gradients is not False else 0,
            prefetch=_or(block.stage3_prefetch_bucket_size, 50_000_000),
            reuse=_or(block.stage3_max_reuse_distance, 1_000_000_000),
            live=_or(block.stage3_max_live_parameters, 1_000_000_000),
            persistence=_or(block.stage3_param_persistence_threshold, 0 if gloo else 100_000),
            sub_group=_or(block.sub_group_size, 1_000_000_000),
            temporaries=2 if adam.torch_adam and not adam.fused else 0,
            states_on_host=bool(states and states.device != "none"),
            weights_on_host=bool(weights and weights.device != "none"),
            gloo=gloo,
        )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
