"""The block `robust_compression.task`: which data, and how a task of the user's own is described.

Beside `robust_schema`; the tasks that come with the program are the table in `compress.data.tasks`.
"""

from typing import Annotated, Literal

from pydantic import Field

from compress.configuration.blocks import Block, Count, Natural

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[str], Field(min_length=2)]
Texts = Annotated[list[Name], Field(min_length=2, max_length=2)]


class SyntheticBlock(Block):
    """Size and seed of the embedded benchmark."""

    seed: Natural = 0
    train: Count = 4000
    dev: Count = 1000
    ood: Count = 2000
    conflicting: Annotated[float, Field(gt=0, lt=1)] = 0.05


class HubBlock(Block):
    """One split of a data set on the model hub."""

    path: str
    split: str
    config: str | None = None
    revision: str | None = None


class OodBlock(Block):
    """An OOD set: by default the file `ood_<name>` with the task's own columns and labels.

    file: another name in task.data_dir or ood_dir; hub: a split on the hub; with both, the file is read
    with data_dir or where ood_dir holds it, else the split; texts, label: names of its columns; labels:
    the set's own in id order; label_map: every label of the task -> the label of the set that it counts
    as; spellings: other words for a label in this set; subsets: columns by which the report splits.
    """

    file: Name | None = None
    hub: HubBlock | None = None
    texts: Texts | None = None
    label: Name | None = None
    labels: Names | None = None
    label_map: dict[str, str] | None = None
    spellings: dict[str, list[str]] = Field(default={})
    subsets: list[str] = Field(default=[])


class DefinitionBlock(Block):
    """A task of the user's own, in JSON only.

    texts, label: names of the columns; labels: in id order; spellings: other words for a label; train,
    dev: names of files in task.data_dir (default `train` and `dev`) or splits on the hub; partial:
    which of the texts a partial-input classifier sees; symmetric: exchanging the texts makes the same
    pair (paraphrases), so that an OOD pair counts as one of train in either order; ood: sets that are
    more than a file ood_<name> with the task's own columns and labels.
    """

    texts: Texts
    labels: Names
    label: Name = "label"
    spellings: dict[str, list[str]] = Field(default={})
    train: Name | HubBlock = "train"
    dev: Name | HubBlock = "dev"
    ood: dict[str, OodBlock] = Field(default={})
    partial: Literal[0, 1] = 1
    symmetric: bool = False


class TaskBlock(Block):
    """Which data: a task of `compress.data.tasks` or `definition`, from the hub or from `data_dir`.

    ood_dir: a folder of more OOD sets, such as those that are not on the hub.
    train_samples: use n rows of train, drawn evenly over it, the same for all seeds; eval_samples: so
    of dev and each OOD set that is larger; drop_overlap: leave pairs out of train that an evaluated OOD
    set holds too, instead of refusing them; the OOD sets stay whole, so that their accuracies remain
    comparable with published ones; max_length: tokens of the pair, longest cut first;
    synthetic: seed and sizes of the embedded benchmark (`name` = "synthetic" only).
    """

    name: str
    definition: DefinitionBlock | None = None
    data_dir: Name | None = None
    ood_dir: Name | None = None
    max_length: Annotated[int, Field(ge=8)] = 128
    train_samples: Count | None = None
    eval_samples: Count | None = None
    drop_overlap: bool = False
    synthetic: SyntheticBlock | None = None
