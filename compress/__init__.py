"""Robust compression of language-understanding encoders on DeepSpeed.

The way through: configuration -> data -> models -> compression -> uncertainty -> mitigations
-> trainer -> evaluation -> report. Method: Du et al. 2023 (EACL), "Robustness Challenges in Model
Distillation and Pruning for Natural Language Understanding".
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`compress.load_compressed`, imported when asked for: a mistyped key needs no PyTorch."""
    if name == "load_compressed":
        from compress.models.encoders import load_compressed

        return load_compressed
    raise AttributeError(f"module 'compress' has no attribute '{name}'")
