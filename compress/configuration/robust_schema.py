"""The block `robust_compression` of the configuration: its keys, types, ranges and defaults."""

from typing import Annotated, Any, Literal

from pydantic import Field

from compress import mitigations
from compress.configuration.blocks import Block, Count, Epochs, Fraction, Natural
from compress.configuration.deepspeed_schema import DeepSpeedBlock
from compress.configuration.task_schema import Name, TaskBlock
from compress.layerwise.block import LayerwiseBlock

Sparsity = Annotated[float, Field(ge=0, lt=1)]
MetricName = Literal["accuracy", "macro_f1", "balanced_accuracy", "matthews"]


class TeacherBlock(Block):
    """The uncompressed classifier that the student is compared with."""

    model: str | None = None
    """A fine-tuned classifier (directory or hub id) that is used as the teacher without further
    training. Its labels are found by their names in its id2label. It may be of another architecture
    than the student; each model reads the tokens of its own tokenizer."""
    probabilities: Name | None = None
    """A folder with the class probabilities of a teacher that is not at hand as a model, such as an
    API or an ensemble: a file for each split, called `train`, `dev` and `ood_<name>`, with a column
    `row` (or that of task.id) and one for each class. train is needed if the loss uses the teacher, dev
    and the OOD sets for the report. Where only train is needed, that file itself. See docs/data.md."""
    epochs: Epochs | None = None
    """Epochs of fine-tuning the teacher. Default: robust_compression.epochs."""
    loss: mitigations.TeacherLoss = mitigations.PLAIN
    """The loss that the teacher is trained with, with its settings, such as {"hook": "poe"} for a
    debiased teacher; a shipped one that needs no teacher, no difficulty and no first model. Default:
    cross-entropy."""


class StudentBlock(Block):
    """The compressed classifier."""

    model: str | None = None
    """A smaller pre-trained encoder (hub id or directory, with its own tokenizer) from which the
    student starts, instead of robust_compression.model."""
    init_from: Literal["pretrained", "teacher"] = "pretrained"
    """Weights from which the student starts: the pre-trained encoder's or the fine-tuned teacher's."""
    epochs: Epochs | None = None
    """Epochs of the student's training. Default: robust_compression.epochs."""
    keep: Literal["last", "best_dev"] = "last"
    """Which weights are exported: the last, or those of the epoch with the best dev accuracy among the
    epochs that end with pruning complete. Dev accuracy is then the highest of several."""
    uncompressed: bool = False
    """Confirms that nothing is to be compressed, for a control of the teacher's size. Without it, a
    configuration that removes nothing is refused."""


class PruningBlock(Block):
    """Pruning schedule of single weights.

    The sparsity rises from 0 at `begin` to its target at `end`; the rest of the training is recovery at
    the full sparsity. DeepSpeed's schedule_offset, schedule_offset_end and schedule_offset_stride say
    begin, end and updates in steps; giving both of a pair is an error.
    """

    curve: Literal["cubic", "linear"] = "cubic"
    """Shape of the schedule between begin and end."""
    begin: Fraction = 0.0
    """Start of pruning, as a fraction of the student's training."""
    end: Fraction = 0.6
    """When the full sparsity is reached, as a fraction of the student's training."""
    updates: Count = 20
    """How many times, at least, the masks are computed again between begin and end."""


class StructuredBlock(Block):
    """Pruning schedule of attention heads and ffn neurons (DeepSpeed calls the latter rows)."""

    begin: Fraction = 0.0
    """Start of pruning, as a fraction of the student's training."""
    end: Fraction = 0.3
    """When all of them are removed, as a fraction of the student's training."""
    rounds: Count = 1
    """With method importance: heads and neurons are removed in about this many equal parts, the last
    one at end. Learned scores (topk) remove them step by step instead."""
    samples: Count = 2048
    """Training samples, of all ranks together, over which the importance is averaged. Each rank takes
    train_micro_batch_size_per_gpu of them at a time, but not more than evaluation.batch_size or 32."""
    multiple_of: Count = 1
    """The number of ffn neurons that stay is rounded to a multiple of this (8 or 64 suit GPUs)."""
    even: bool = False
    """Heads chosen by importance: the same number stays in each layer of a group, the most important
    ones of the layer. Otherwise those stay that are the most important over all layers. Ffn neurons
    are chosen layer by layer in any case."""


class UncertaintyBlock(Block):
    """Difficulty of each training sample (Du et al. 2023, Sec. 5.1)."""

    protocol: Literal["trajectory", "independent"] = "trajectory"
    """trajectory: one training that is stopped at each sparsity. independent: one training for each
    sparsity, as in the paper."""
    sparsities: Annotated[list[Sparsity], Field(min_length=2)] = Field(
        default=[0.2, 0.4, 0.6, 0.7, 0.85]
    )
    """Sparsities of the sub-networks whose losses are compared; a sample whose loss varies much
    among them is difficult."""
    normalisation: Literal["minmax", "quantile"] = "minmax"
    """How the variance becomes a difficulty. minmax: Eq. 1 as printed. quantile: the variance is
    clipped at its quantile first."""
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    """The quantile at which normalisation quantile clips the variance."""
    alpha: Fraction | Literal["auto"] = 0.5
    """Difficulty of the easiest sample (Eq. 1). "auto" trains the student with each of
    alpha_candidates and keeps the one with the smallest gap between the easy and the hard half of
    dev."""
    alpha_candidates: Annotated[list[Fraction], Field(min_length=2)] = Field(
        default=[0.2, 0.3, 0.5, 0.7]
    )
    """Values that alpha "auto" tries."""
    init_from: Literal["pretrained", "teacher"] = "pretrained"
    """Weights from which the sub-networks start: the pre-trained encoder's or the fine-tuned
    teacher's."""
    epochs: Epochs | None = None
    """Epochs of the trajectory, or of each of the independent trainings. Default:
    robust_compression.epochs."""


class EvaluationBlock(Block):
    """How teacher and student are evaluated. Changes no model."""

    ood: list[str] | None = None
    """Names of the out-of-distribution (OOD) sets to evaluate; an empty list: none. Default: all that
    the task has."""
    baseline: bool = False
    """Train the same student with the plain loss too, and show it beside the other: what the chosen
    loss changes, with intervals. Runs that differ only in the loss share it in the cache. Where
    `teacher.loss` is another than the plain one and the student starts from the teacher, it starts
    from a teacher with the plain loss, which is trained for it."""
    batch_size: Count = 128
    """Samples of one forward pass of each rank."""
    sentences: Count = 12
    """How many samples the report shows."""
    metric: MetricName = "accuracy"
    """What Delta and F_bias are taken of, intervals included: accuracy, as in Du et al. (2023),
    macro_f1, balanced_accuracy or matthews (the correlation of predicted and gold classes). The means
    are over the classes among a set's gold labels; over several OOD sets each is the mean weighted by
    their sizes. Accuracies are shown in any case."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number type of the matrix products when the finished teacher and student are scored. bf16 is
    faster where the device computes in it, and may change the answer where two classes are nearly
    equal: compare only results of the same."""


class CheckpointBlock(Block):
    """How often the state of an unfinished training is saved, so that the same command continues it.
    Changes no result."""

    every_minutes: Annotated[float, Field(gt=0)] | None = 10
    """Minutes between two checkpoints; longer if the training would stand still for more than 2 % of
    the time. null: none but those of every_steps and of a signal."""
    every_steps: Count | None = None
    """Optimiser steps between two checkpoints, beside every_minutes."""
    keep: Count = 2
    """How many complete checkpoints of a training stay on the disk."""
    enabled: bool = True
    """Whether anything is saved before a stage is finished, at a signal too."""


class RobustCompression(Block):
    """The block `robust_compression`: everything that is not DeepSpeed's."""

    task: TaskBlock
    model: str
    """The pre-trained encoder: hub id (`id@revision` pins a branch, tag or commit of this and any other
    model), directory, or synthetic-encoder (the small one that comes with the program)."""
    seed: Natural = 42
    """Seed of the order of the samples, of new weights and of dropout."""
    epochs: Epochs = 3
    """Epochs of each training. teacher.epochs, student.epochs and uncertainty.epochs override it."""
    teacher: TeacherBlock = TeacherBlock()
    student: StudentBlock = StudentBlock()
    pruning: PruningBlock = PruningBlock()
    structured: StructuredBlock = StructuredBlock()
    masks: Literal["native", "deepspeed"] = "native"
    """What masks the weights and copies layers. native: this program, with every supported release of
    DeepSpeed. deepspeed: DeepSpeed's compression library, which 0.19.6 is the last release to have; the
    students are the same."""
    score_lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of learned pruning scores (method topk). Sanh et al. (2020) use 0.01."""
    uncertainty: UncertaintyBlock = UncertaintyBlock()
    loss: mitigations.Loss = mitigations.NoLoss()
    """The loss that the student is trained with: its name, `hook`, and the settings of that loss."""
    layerwise: LayerwiseBlock = LayerwiseBlock()
    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None
    """Number type of every training, in place of the blocks bf16, fp16 and torch_autocast. auto: bf16
    where the device is fast in it (GPUs from compute capability 8.0, processors with AVX-512 BF16, AMX
    or ARM's BF16), else fp32. tf32: float32 whose matrix products a GPU rounds to TF32, in evaluation
    too. Default: what those blocks say."""
    padding_free: bool = False
    """Train without padding: the blocks compute the real tokens of a micro-batch only, so that batches
    are drawn at random instead of among samples of similar length. Not with layer-wise terms, and not
    for every architecture."""
    batch_by: Literal["samples", "tokens"] = "samples"
    """What every optimiser step has as many of. tokens: as many steps, each with about the tokens of
    train_batch_size samples of mean length, so that steps of long samples need no more memory than
    others; the sum of their losses is divided by train_batch_size, so that every sample counts as
    much."""
    activation_checkpointing: bool = False
    """Compute the activations of each Transformer block again in the backward pass: less memory, a
    third more computation, the same results."""
    evaluation: EvaluationBlock = EvaluationBlock()
    checkpoint: CheckpointBlock = CheckpointBlock()
    profile: bool = False
    """Write the seconds of the parts of a step, and what share the slowest rank takes, to the monitors;
    and a trace of ten steps of the first rank to profile/ in the output directory (chrome://tracing).
    Steps are slower meanwhile."""
    timeout: Annotated[float, Field(gt=0)] = 10
    """Minutes after which a rank that does not take part in the next step is given up: every rank ends,
    and a message names it and its host."""
    processes: Count | None = None
    """Processes that read, check and tokenise the data, on the host of the first rank. Default: one for
    each of its CPUs."""
    cache_dir: Name | None = None
    """Directory of what several runs share (teacher, difficulty, tokens). Default: `shared` beside
    the output directory."""

    @property
    def teacher_trained(self) -> bool:
        """Whether this program trains the teacher."""
        return self.teacher.model is None and self.teacher.probabilities is None

    @property
    def teacher_loss(self) -> str:
        """Label of the loss of a teacher trained with another than the plain one; empty for others."""
        loss = self.teacher.loss.label
        return loss if self.teacher_trained and loss != mitigations.PLAIN.label else ""

    @property
    def plain_teacher(self) -> bool:
        """Whether the student with the plain loss starts from another teacher than the run's own."""
        starts = self.evaluation.baseline and self.student.init_from == "teacher"
        return starts and bool(self.teacher_loss)

    @property
    def difficulty_used(self) -> bool:
        """Whether the loss gets a difficulty."""
        return self.loss.uses("difficulty")

    @property
    def first_is_teacher(self) -> bool:
        """Whether the first model of just train twice is the teacher, because it is trained alike."""
        plain = self.teacher_trained and not self.teacher_loss
        return plain and (self.teacher.epochs or self.epochs) == self.loss.first_model_epochs

    @property
    def losses(self) -> list[mitigations.Mitigation]:
        """Losses that this program trains with: the student's, and that of a teacher it trains."""
        return [self.loss, *([self.teacher.loss] if self.teacher_trained else [])]

    @property
    def difficulty_needed(self) -> bool:
        """Whether the run needs the loss matrix: for the loss itself, or to choose alpha for it."""
        return self.difficulty_used and (not self.loss.shallow or self.uncertainty.alpha == "auto")

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
    """The merged configuration."""

    robust_compression: RobustCompression
