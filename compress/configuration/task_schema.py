"""The block `robust_compression.task`: which data are used, and the definition of a task.

The tasks that come with the program are the table in `compress.data.tasks`.
"""

from typing import Annotated, Literal

from pydantic import Field

from compress.configuration.blocks import Block, Count, Natural

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[str], Field(min_length=2)]
Texts = Annotated[list[Name], Field(min_length=1, max_length=2)]


class SyntheticBlock(Block):
    """Size and seed of the embedded benchmark."""

    seed: Natural = 0
    """Seed of the generator."""
    train: Count = 4000
    """Training pairs."""
    dev: Count = 1000
    """Dev pairs."""
    ood: Count = 2000
    """Pairs of the OOD set; on half of them the shortcut gives the wrong label."""
    conflicting: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the train and dev pairs on which the shortcut gives the wrong label."""


class HubBlock(Block):
    """One split of a data set on the model hub."""

    path: str
    """Id of the data set, such as nyu-mll/glue."""
    split: str
    """Name of the split, such as validation_matched."""
    config: str | None = None
    """Name of the data set's configuration, such as mnli."""
    revision: str | None = None
    """Branch, tag or commit."""


class OodBlock(Block):
    """An OOD set; by default the file `ood_<name>` with the task's own columns and labels.

    With both `file` and `hub`, the file is read if there is a data_dir or an ood_dir that holds it;
    else the split on the hub, but with a data_dir the missing file is an error.
    """

    file: Name | None = None
    """Name of the file in task.data_dir or task.ood_dir. Default: `ood_<name>`."""
    hub: HubBlock | None = None
    """A split on the model hub."""
    texts: Texts | None = None
    """The set's text columns, as many as the task has. Default: the task's."""
    label: Name | None = None
    """The set's label column. Default: the task's."""
    labels: Names | None = None
    """The set's own labels, in the order of their ids. Default: the task's."""
    label_map: dict[str, str] | None = None
    """Needed with labels: every label of the task, and the label of the set that it counts as."""
    spellings: dict[str, list[str]] = Field(default={})
    """For each label, other words for it in this set."""
    subsets: list[str] = Field(default=[])
    """Columns by whose values, and by gold label, the report splits the accuracy."""


class DefinitionBlock(Block):
    """A task of the user's own."""

    texts: Texts
    """Names of the text columns: one, or two for pairs of texts."""
    labels: Names
    """The labels, in the order of their ids."""
    label: Name = "label"
    """Name of the label column. It holds labels or their ids."""
    spellings: dict[str, list[str]] = Field(default={})
    """For each label, other words for it in the files."""
    train: Name | HubBlock = "train"
    """Training data: name of the file in task.data_dir, or a split on the model hub."""
    dev: Name | HubBlock = "dev"
    """Dev data: name of the file in task.data_dir, or a split on the model hub."""
    ood: dict[str, OodBlock] = Field(default={})
    """OOD sets that are more than a file `ood_<name>` with the task's own columns and labels. A task
    may have none; then Delta and F_bias are not given."""
    subsets: list[str] = Field(default=[])
    """Columns of dev by whose values, and by gold label, the report splits its accuracy."""
    partial: Literal[0, 1] = 1
    """Which text of a pair, counted from 0, the classifier sees that divides dev into easy and hard
    samples. Of a single text it sees the words and the length."""
    symmetric: bool = False
    """Whether exchanging the texts of a pair makes the same one, as with paraphrases; then an OOD
    sample counts as one of train in either order."""


class TaskBlock(Block):
    """Which data are used."""

    name: str
    """A task that comes with the program (synthetic, mnli, fever, qqp, sst2, civil_comments), or the
    name of the one in definition."""
    definition: DefinitionBlock | None = None
    """A task of the user's own."""
    data_dir: Name | None = None
    """Folder of local files train, dev and, if any, ood_<name> (.jsonl, .csv, .tsv or .parquet; each
    also .gz), instead of the model hub."""
    ood_dir: Name | None = None
    """Folder of further OOD sets, such as those that are not on the hub."""
    id: Name | None = None
    """Column of the data files that holds an id of each row, a text or a whole number, for
    teacher.probabilities, whose files then have the column of this name instead of `row`. A file of
    data without it keeps `row`."""
    subgroups: list[Name] = Field(default=[])
    """Columns of dev with a value from 0 to 1, such as the share of raters who found an identity
    mentioned. The samples of 0.5 and more of each column are a subset by gold label, whatever the other
    columns hold; an empty cell counts as 0. Of OOD sets those columns that they have."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens of a sample at most; of a pair the longer text is cut first, of the task fever the
    evidence."""
    train_samples: Count | None = None
    """Use this many rows of train, drawn evenly over the file, the same for every seed. Default:
    all."""
    eval_samples: Count | None = None
    """Use at most this many rows of dev and of each OOD set, drawn in the same way. OOD sets are
    still pooled by their whole sizes. Default: all."""
    drop_overlap: bool = False
    """Leave out of train the samples that an evaluated OOD set holds too. Without it, such samples
    are an error. The OOD sets stay whole, so that their accuracies can be compared with published
    ones."""
    synthetic: SyntheticBlock | None = None
    """Size and seed of the embedded benchmark (task synthetic only)."""
