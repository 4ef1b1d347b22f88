"""Robust compression of language-understanding encoders on DeepSpeed.

The way through: configuration -> data -> models -> compression -> uncertainty -> losses ->
trainer -> evaluation -> report. Method: Du et al. 2023 (EACL), "Robustness Challenges in Model
Distillation and Pruning for Natural Language Understanding".
"""

__version__ = "0.1.0"
