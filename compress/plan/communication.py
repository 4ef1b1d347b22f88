"""Bytes that a rank sends to the others in a step, as a function of sizes and settings.

What DeepSpeed 0.19.6 sends, held against the bytes of a network interface (tests/test_cluster.py). The
collectives are rings, as those of NCCL and gloo for large messages: a sum over n ranks (all-reduce)
sends 2 (n - 1)/n of its bytes from each rank, a gathering or a scattered sum (n - 1)/n. Where the ranks
of a host are neighbours in the ring, a host sends to the others as much as one rank sends.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from compress.plan.engine import Engine
from compress.plan.memory import Items, staying
from compress.plan.sizes import Sizes

GB = 10**9
TFLOP = 10**12


@dataclass(frozen=True)
class Traffic:
    """What decides about the bytes of a step.

    size: bytes of all weights, as the model computes with them; zero: DeepSpeed's stage; gatherings: of
    the weights in a micro-batch at stage 3, as a share of them; gloo: it sums all to scatter a sum.
    """

    size: int
    zero: int
    ranks: int
    accumulation: int = 1
    gatherings: float = 2.0
    gloo: bool = False

    @staticmethod
    def of(sizes: Sizes, engine: Engine, accumulation: int, *, again: bool = False) -> "Traffic":
        """Of a training; again: blocks are computed twice (activation checkpointing)."""
        stays = staying(sizes, engine)
        passes = 3 if again and stays < sizes.block else 2
        gatherings = passes - stays / sizes.parameters
        size = engine.width * sizes.parameters
        return Traffic(size, engine.zero, engine.ranks, accumulation, gatherings, engine.gloo)


def sent(traffic: Traffic) -> Items:
    """Bytes that a rank sends in a step, by what they are.

    Stages 1 and 2 sum whole gradients, although each rank needs its part alone (DeepSpeed's
    `use_multi_rank_bucket_allreduce`), stage 2 in each micro-batch; stage 3 gathers the weights for the
    forward pass of each micro-batch, and for the backward pass what has not stayed. Not counted:
    losses, norms and masks.
    """
    once = traffic.size * (traffic.ranks - 1) // traffic.ranks
    if traffic.zero == 0:
        return {"gradients": 2 * once}
    if traffic.zero < 3:
        summed = traffic.accumulation if traffic.zero == 2 else 1
        return {"gradients": 2 * once * summed, "weights": once}
    scattered = 2 * once if traffic.gloo else once
    weights = int(once * traffic.gatherings)
    return {"gradients": scattered * traffic.accumulation, "weights": weights * traffic.accumulation}


def operations(sizes: Sizes, tokens: int, *, again: bool = False) -> int:
    """Multiplications and additions of a step for so many tokens: 6 for each weight of a block.

    again: the forward pass is computed twice (activation checkpointing), which makes it 8. Not counted:
    products of queries and keys, embeddings, the head.
    """
    return (8 if again else 6) * sizes.layers * sizes.block * tokens


@dataclass(frozen=True)
class Step:
    """A step. sent: bytes that a rank sends, by what they are; operations: that a rank computes."""

    sent: Mapping[str, int]
    operations: int

    @property
    def bytes(self) -> int:
        """That a rank sends."""
        return sum(self.sent.values())

    def sending(self, bandwidth: float) -> float:
        """Seconds at so many GB/s of the slowest link of the ring: a host's network, between hosts."""
        return self.bytes / (bandwidth * GB)

    def computing(self, speed: float) -> float:
        """Seconds at so many TFLOP/s of a rank."""
        return self.operations / (speed * TFLOP)

    def text(self, bandwidth: float | None = None, speed: float | None = None) -> str:
        """In a line: GB, and seconds and the share of communication where the speeds are given."""
        parts = ", ".join(f"{name} {size / GB:.3g}" for name, size in self.sent.items())
        line = f"a step sends {self.bytes / GB:.3g} GB a rank ({parts})"
        if bandwidth:
            line += f", {self.sending(bandwidth):.3g} s at {bandwidth:g} GB/s"
        if speed:
            line += f"; it computes {self.computing(speed):.3g} s at {speed:g} TFLOP/s"
        if bandwidth and speed:
            sending, computing = self.sending(bandwidth), self.computing(speed)
            line += (
                f"; {sending / (sending + computing):.0%} is communication if the two do not overlap"
            )
        return line
