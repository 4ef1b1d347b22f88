"""Our block of the configuration, `robust_compression`: its keys, types, ranges and defaults.

Beside `deepspeed_schema`; `config` turns a violation into a sentence.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from compress import mitigations
from compress.configuration.blocks import Block, Count, Epochs, Fraction, Natural
from compress.configuration.deepspeed_schema import DeepSpeedBlock
from compress.configuration.task_schema import TaskBlock
from compress.layerwise.settings import LayerwiseBlock

Sparsity = Annotated[float, Field(ge=0, lt=1)]


class TeacherBlock(Block):
    """model: a fine-tuned classifier to use as it is (no training); epochs: default the run's."""

    model: str | None = None
    epochs: Epochs | None = None


class StudentBlock(Block):
    """The compressed model.

    model: a smaller pre-trained model to start from instead of the run's (hub id or directory, with its
    own tokenizer); init_from: weights that the student starts from; epochs: default the run's;
    uncompressed: nothing is compressed and that is meant, for a control of the same size.
    """

    model: str | None = None
    init_from: Literal["pretrained", "teacher"] = "pretrained"
    epochs: Epochs | None = None
    uncompressed: bool = False


class PruningBlock(Block):
    """Schedule of pruning single weights, in fractions of the student's training.

    Pruning goes from 0 at `begin` to the target at `end` in at least `updates` refreshes; the rest is
    recovery at full sparsity. DeepSpeed's schedule_offset, _end and _stride say the same in steps.
    """

    curve: Literal["cubic", "linear"] = "cubic"
    begin: Fraction = 0.0
    end: Fraction = 0.6
    updates: Count = 20


class StructuredBlock(Block):
    """Schedule of head and row pruning, in fractions of the student's training.

    By importance, heads and rows go in about `rounds` equal parts, the last one at `end`; learned
    scores (topk) remove them step by step from `begin` to `end`. samples: training samples that the
    importance is the mean over; multiple_of: the width that is left is rounded to it (8 or 64 suit
    GPUs).
    """

    begin: Fraction = 0.0
    end: Fraction = 0.3
    rounds: Count = 1
    samples: Count = 2048
    multiple_of: Count = 1


class UncertaintyBlock(Block):
    """Sample difficulty (Du et al. 2023, Sec. 5.1); see `compress.uncertainty`.

    epochs: length of the trajectory, or of each of the independent runs; default the run's.
    alpha: difficulty of the easiest sample; "auto" trains the student with each of `alpha_candidates`
    and keeps the one with the smallest gap between the easy and the hard half of dev (Sec. 5.1).
    """

    protocol: Literal["trajectory", "independent"] = "trajectory"
    sparsities: Annotated[list[Sparsity], Field(min_length=2)] = Field(
        default=[0.2, 0.4, 0.6, 0.7, 0.85]
    )
    normalisation: Literal["minmax", "quantile"] = "minmax"
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    alpha: Fraction | Literal["auto"] = 0.5
    alpha_candidates: Annotated[list[Fraction], Field(min_length=2)] = Field(
        default=[0.2, 0.3, 0.5, 0.7]
    )
    init_from: Literal["pretrained", "teacher"] = "pretrained"
    epochs: Epochs | None = None


class EvaluationBlock(Block):
    """ood: names of the OOD sets (default: all of the task); sentences: shown in the report."""

    ood: Annotated[list[str], Field(min_length=1)] | None = None
    batch_size: Count = 128
    sentences: Count = 12


class RobustCompression(Block):
    """Our block: `robust_compression`.

    score_lr: learning rate of learned pruning scores (method topk; Sanh et al. 2020 use 0.01).
    """

    task: TaskBlock
    model: str
    seed: Natural = 42
    epochs: Epochs = 3
    teacher: TeacherBlock = TeacherBlock()
    student: StudentBlock = StudentBlock()
    pruning: PruningBlock = PruningBlock()
    structured: StructuredBlock = StructuredBlock()
    score_lr: Annotated[float, Field(gt=0)] = 0.01
    uncertainty: UncertaintyBlock = UncertaintyBlock()
    loss: mitigations.Loss = mitigations.NoLoss()
    layerwise: LayerwiseBlock = LayerwiseBlock()
    evaluation: EvaluationBlock = EvaluationBlock()
    cache_dir: str | None = None

    @property
    def models(self) -> dict[str, str]:
        """The models that the configuration names, by key: the run's encoder first."""
        given = {
            "model": self.model,
            "student.model": self.student.model,
            "teacher.model": self.teacher.model,
        }
        return {key: name for key, name in given.items() if name is not None}

    @property
    def sub_networks(self) -> dict[str, Any]:
        """Settings that the losses under the sub-networks depend on, by their keys."""
        keys = {"protocol", "sparsities", "init_from", "epochs"}
        found = self.uncertainty.model_dump(include=keys)
        return {**found, "epochs": found["epochs"] or self.epochs}


class Root(DeepSpeedBlock):
    """Everything a merged configuration may hold."""

    robust_compression: RobustCompression
