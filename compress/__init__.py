"""Robust compression of language-understanding encoders on DeepSpeed.

Method: Du et al. 2023 (EACL), "Robustness Challenges in Model Distillation and Pruning for Natural
Language Understanding". The parts are listed in README.md, "What is where".
"""

import logging

__version__ = "0.1.0"

_ON_CPU = "Setting accelerator to CPU"
"""DeepSpeed's warning, from each rank and command without a GPU; the run says its device itself."""
logging.getLogger("DeepSpeed").addFilter(lambda record: _ON_CPU not in str(record.msg))


def __getattr__(name: str) -> object:
    """`compress.load_compressed`, imported on first use: a configuration is checked without torch."""
    if name == "load_compressed":
        from compress.models.encoders import load_compressed

        return load_compressed
    raise AttributeError(f"module 'compress' has no attribute '{name}'")
