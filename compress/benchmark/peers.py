"""The same distillation as a user of Hugging Face's Trainer with DeepSpeed would write it.

The teacher computes its probabilities in every step; batches are padded to their longest sample, or to
the full length. Nothing is pruned.
"""

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from compress.configuration import schedule
from compress.configuration.config import Config, batch_split
from compress.data.columns import Columns
from compress.runtime import ranks

SHARE = 0.5
"""Of the teacher in the loss, where the configuration's loss has none."""


class Rows(Dataset[dict[str, Any]]):
    """Samples as lists of tokens."""

    def __init__(self, columns: Columns) -> None:
        """columns: the split."""
        self.columns = columns

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.columns)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Tokens and label of a sample."""
        start, end = (int(n) for n in self.columns.offsets[number : number + 2])
        row = {name: values[start:end].tolist() for name, values in self.columns.tokens.items()}
        return {**row, "labels": int(self.columns.labels[number])}


class Distillation(Trainer):
    """Trainer with a teacher."""

    def __init__(self, teacher: PreTrainedModel, share: float, **more: Any) -> None:  # noqa: ANN401  of the Trainer
        """teacher: in evaluation mode, on the device; share: of its loss; more: of the Trainer."""
        super().__init__(**more)
        self.teacher, self.share = teacher, share

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401  as the Trainer's
        """(1 - share) cross-entropy + share KL to the teacher."""
        outputs = model(**inputs)
        with torch.no_grad():
            target = self.teacher(**{k: v for k, v in inputs.items() if k != "labels"}).logits
        log_q, p = F.log_softmax(outputs.logits.float(), dim=1), target.float().softmax(dim=1)
        kl = F.kl_div(log_q, p, reduction="batchmean")
        loss = (1 - self.share) * outputs.loss + self.share * kl
        return (loss, outputs) if return_outputs else loss


class InTurns(TrainerCallback):
    """Lets a training go on for a number of steps at a time."""

    def __init__(self, train: Callable[[], object]) -> None:
        """train: runs the whole training; called in a thread."""
        self._left, self._train = 0, train
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._failure: Exception | None = None

    def begin(self) -> None:
        """Start the training and stop it before its first step."""
        threading.Thread(target=self._run, daemon=True, name="peer").start()
        self._wait()

    def steps(self, count: int) -> None:
        """Let it do so many steps; what it raises is raised here."""
        self._left = count
        self._go.release()
        self._wait()

    def on_step_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401  of the Trainer
        """Called by the Trainer."""
        if self._left == 0:
            self._done.release()
            self._go.acquire()
        self._left -= 1

    def _run(self) -> None:
        try:
            self._train()
        except Exception as error:  # noqa: BLE001  raised in the thread that waits
            self._failure = error
        self._done.release()

    def _wait(self) -> None:
        self._done.acquire()
        if self._failure is not None:
            raise self._failure


class Padded:
    """A collator that counts: tokens, and places of the padded batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int | None) -> None:
        """length: that all batches are padded to; None: the longest of each."""
        padding = "longest" if length is None else "max_length"
        self._collate = DataCollatorWithPadding(tokenizer, padding, length)
        self.tokens = self.places = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch."""
        batch: dict[str, Tensor] = dict(self._collate([dict(row) for row in rows]))
        self.tokens += int(batch["attention_mask"].sum())
        self.places += batch["attention_mask"].numel()
        return batch


def trainer(
    models: tuple[PreTrainedModel, PreTrainedModel],
    columns: Columns,
    collate: Padded,
    config: Config,
    steps: int,
    device: torch.device,
) -> InTurns:
    """A training of a student by a teacher (models) that `InTurns.steps` drives.

    steps: of its schedule, which warms up and falls linearly; it may be ended before.
    """
    student, teacher = models
    micro, accumulation = batch_split(config, ranks.world_size())
    deepspeed, given = config.deepspeed, config.deepspeed.optimizer.params
    kept = ("train_batch_size", "gradient_clipping", "zero_optimization", "bf16", "fp16")
    settings = {key: value for key, value in config.engine.items() if key in kept and value is not None}
    settings |= {"train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": accumulation}
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        optim="adamw_torch" if given.torch_adam and not given.fused else "adamw_torch_fused",
        learning_rate=given.lr,
        weight_decay=given.weight_decay or 0.0,
        warmup_steps=_warmup(config, steps),
        max_grad_norm=deepspeed.gradient_clipping or 0.0,
        bf16=bool(deepspeed.bf16 and deepspeed.bf16.enabled),
        fp16=bool(deepspeed.fp16 and deepspeed.fp16.enabled),
        use_cpu=device.type == "cpu",
        deepspeed=settings,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=device.type != "cpu",
        remove_unused_columns=False,
        seed=config.robust.seed,
    )
    kind = torch.bfloat16 if deepspeed.bf16 and deepspeed.bf16.enabled else torch.float32
    nn.Module.to(teacher.eval().requires_grad_(False), device, kind)
    made = Distillation(
        teacher,
        getattr(config.robust.loss, "lambda_", SHARE),
        model=student,
        args=arguments,
        train_dataset=Rows(columns),
        data_collator=collate,
    )
    turns = InTurns(made.train)
    made.add_callback(turns)
    return turns


def _warmup(config: Config, steps: int) -> int:
    """Steps in which the learning rate rises."""
    scheduler = schedule.resolve(config, steps)
    return int(scheduler["params"]["warmup_num_steps"]) if scheduler else 0
