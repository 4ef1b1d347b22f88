"""Encoders: directory, tokenizer, configuration, a classifier on top, its size.

What a name means is in `directories`. Weights are held in float32 whatever the file holds; DeepSpeed
decides about lower precision.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from compress.data import hub
from compress.data.tasks import Task
from compress.errors import UserError, first_line
from compress.files import integrity
from compress.models import compressed, deferred, directories, label_order, loading, padding
from compress.models.weight_files import WeightFiles

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")
LEFT = ("*_results.json", "trainer_state.json", "training_args.bin", "optimizer.bin", "scheduler.bin")
"""Files that trainers leave beside a model and nothing reads that loads it."""
TRAINED_LENGTH = "trained_max_length"
TRAINED_KEEP = "trained_keep_text"
TRAINED_TEXTS = "trained_texts"
TRAINED_COLUMNS = "trained_columns"
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    KeyError,
    OSError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
DAMAGED = (OSError, EOFError, RuntimeError, UnpicklingError, SafetensorError)


def directory(name: str, key: str = "robust_compression.model") -> Path:
    """Local directory of a model, given as `key`; downloads it from the hub if it is no directory.

    Raises UserError if it is no directory and cannot be had from the hub.
    """
    path = directories.local(name, key) or Path(hub.model_directory(name, key))
    directories.check(path, key)
    return path


def check_weights(path: Path) -> None:
    """Raise UserError now if the directory's file of weights is damaged; reads headers only."""
    WeightFiles(path)


def fingerprint(path: Path) -> str:
    """SHA-256 of a model directory's configuration, tokenizer and weights; about 2 s a GB, once."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if any(file.match(pattern) for pattern in LEFT):
            continue
        if file.suffix in {".json", ".safetensors", ".txt", ".model", ".bin"} and file.is_file():
            digest.update(file.name.encode())
            digest.update(bytes.fromhex(integrity.digest(file)))
    return digest.hexdigest()


def has_tokenizer(path: Path) -> bool:
    """Whether the directory has a vocabulary file."""
    return any((path / name).is_file() for name in VOCABULARIES) or any(path.glob("*.model"))


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with a padding token; UserError if there is none that can be read."""
    tokenizer = _own_tokenizer(path)
    if tokenizer.pad_token_id is None and (path / "config.json").is_file():
        padding.settle(tokenizer, _own_config(path))
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer; the lengths that it was last used with are no part of it."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def load_config(path: Path) -> PreTrainedConfig:
    """The model's configuration, with a padding token, to classify; UserError if it cannot be read.

    Nothing is cached from one token to the next: every text is read once, as a whole.
    """
    config = _own_config(path)
    lacks = getattr(config, "pad_token_id", None) is None and has_tokenizer(path)
    if lacks and (chosen := _chosen_padding(path, _stamps(path))) is not None:
        config.pad_token_id = chosen
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return config


@lru_cache(maxsize=16)
def _chosen_padding(path: Path, _: tuple[tuple[str, int, int], ...]) -> int | None:
    """Id of the padding token that `padding` chooses for a directory with these `_stamps`.

    Kept, because a tokenizer of a large vocabulary takes about a second to read.
    """
    config = _own_config(path)
    padding.settle(_own_tokenizer(path), config)
    found: int | None = getattr(config, "pad_token_id", None)
    return found


def _stamps(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of each file of a directory."""
    files = ((file.name, file.stat()) for file in sorted(path.iterdir()) if file.is_file())
    return tuple((name, known.st_size, known.st_mtime_ns) for name, known in files)


def padding_note(path: Path) -> str | None:
    """Which padding token was chosen for a model that came without one; None if it has its own."""
    return padding.settle(_own_tokenizer(path), _own_config(path))


def _own_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """As the directory has it.

    The vocabulary is looked for first: without one transformers 5 returns one of special tokens only.
    """
    if not has_tokenizer(path):
        raise UserError(f"{path}: has no tokenizer ({', '.join(VOCABULARIES)} or *.model).")
    loading.check_tokenizer_code(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  what its classes raise has no common base
        raise loading.tokenizer_error(path, error) from None
    if set(tokenizer.get_vocab()) <= {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}:
        raise UserError(
            f"{path}: its tokenizer has special tokens only; the vocabulary file of "
            f"{type(tokenizer).__name__} is not there under the name that it expects."
        )
    return tokenizer


def _own_config(path: Path) -> PreTrainedConfig:
    """As the directory has it."""
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except UNREADABLE as error:
        why = loading.reason(path, error)
        raise UserError(f"{path}: its config.json cannot be read ({why}).") from None


def texts_of(config: PreTrainedConfig) -> int | None:
    """How many texts a sample of a model's training had: 1 or 2; None if this program did not train it.

    Before single texts were known, models were written without that: their samples are pairs.
    """
    found = getattr(config, TRAINED_TEXTS, None)
    if found in (1, 2) and not isinstance(found, bool):
        return int(found)
    return None if getattr(config, TRAINED_LENGTH, None) is None else 2


def load_classifier(
    path: Path,
    labels: tuple[str, ...],
    trained: bool = False,
    task: Task | None = None,
    whole: bool = True,
) -> PreTrainedModel:
    """Classifier with C = len(labels) classes, in float32, head as in the file or random.

    trained: the directory must hold a classification head of these labels (a teacher); task: whose
    labels they are, for a directory that names them otherwise. Outputs are put in the order of `labels`
    (`label_order`). A random head depends on torch's random state: seed it before. whole: else the
    weights stay in the file until a training asks for them (`deferred`), where that is possible.
    Raises UserError for an unreadable directory, missing tensors, other labels.
    """
    config = load_config(path)
    order = label_order.find(path, config, labels, task, trained)
    _name_labels(config, labels if order.plain else label_order.names(path, config))
    model = None if whole else _load_deferred(path, config, trained, order)
    if model is None:
        model = _load_whole(path, config, trained)
    label_order.arrange(model, order, path)
    _name_labels(model.config, labels)
    return model


def _name_labels(config: PreTrainedConfig, labels: Sequence[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    config.problem_type = "single_label_classification"


def _load_whole(path: Path, config: PreTrainedConfig, trained: bool) -> PreTrainedModel:
    """The classifier with its weights, of listed sizes or as transformers loads it."""
    if compressed.sizes(config) is None:
        return _load_plain(path, config, trained)
    config.dtype = torch.float32
    model = fresh_from(path, config)
    compressed.load_weights(model, path)
    return model


def _load_plain(path: Path, config: PreTrainedConfig, trained: bool) -> PreTrainedModel:
    """The classifier as transformers loads it; UserError if tensors are missing."""
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (*UNREADABLE, *DAMAGED) as error:
        raise UserError(f"{path}: is no readable model directory ({first_line(error)}).") from None
    _check_missing(path, model, sorted(info["missing_keys"]), trained)
    return model


def _load_deferred(
    path: Path, config: PreTrainedConfig, trained: bool, order: label_order.Order
) -> PreTrainedModel | None:
    """The classifier with its weights still in the file, but for its head if labels change their order.

    None where that is not possible: tensors that transformers converts, a head that is not the only
    layer of its size.
    """
    try:
        found = deferred.load(path, config)
    except (*UNREADABLE, *DAMAGED) as error:
        raise UserError(f"{path}: is no readable model directory ({first_line(error)}).") from None
    if found is None:
        return None
    model, missing = found
    _check_missing(path, model, missing, trained)
    if order.plain:
        return model
    heads = label_order.of_size(model, order.size)
    if len(heads) != 1:
        return None
    deferred.fill(heads[0])
    return model


def _check_missing(path: Path, model: PreTrainedModel, missing: list[str], trained: bool) -> None:
    """UserError for tensors that a model's directory lacks, other than those of a new head."""
    inner = f"{model.base_model_prefix}."
    lacking = [n for n in missing if trained or (n.startswith(inner) and "pooler" not in n)]
    if lacking:
        raise UserError(f"{path}: its weights lack {len(lacking)} tensors such as '{lacking[0]}'.")


def load_compressed(path: str | Path) -> PreTrainedModel:
    """The classifier of a directory, ready to use: evaluation mode, float32, on the CPU.

    path: or an id on the hub, `id@revision` with a branch, tag or commit. Reads any plain model
    directory too. Raises UserError for a damaged or half-written one, or one that cannot be had.
    """
    name = str(path)
    path = directories.local(name, "load_compressed") or Path(
        hub.model_directory(name, "load_compressed")
    )
    directories.check(path)
    names = label_order.names(path, load_config(path))
    return load_classifier(path, tuple(names), trained=True).eval()


def find_labels(
    path: Path, labels: tuple[str, ...], task: Task | None = None, trained: bool = False
) -> label_order.Order:
    """Where these labels are among the directory's outputs; see `label_order.find`."""
    return label_order.find(path, load_config(path), labels, task, trained)


def find_device(name: str | None) -> torch.device:
    """The device of this name; without one the first GPU, or the CPU if there is none.

    Raises UserError for a name that PyTorch does not know or a GPU that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: is no device; choose cpu, cuda or cuda:<number>.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: choose cpu, cuda or cuda:<number>.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"--device {name}: this machine has {count} GPUs that PyTorch can use.")
    return device


def shape(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same configuration without weights (meta device)."""
    return of_config(model.config)


def of_config(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of a configuration without weights (meta device)."""
    with torch.device("meta"):
        return compressed.build(config)


def fresh_from(path: Path, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """A classifier of the directory's shape, or of a configuration derived from it; random weights."""
    try:
        return compressed.build(config or load_config(path))
    except UNREADABLE as error:
        why = loading.reason(path, error)
        raise UserError(f"{path}: its config.json makes no model ({why}).") from None


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def nonzero_parameters(model: nn.Module) -> int:
    """Number of parameters that are not exactly 0."""
    return sum(int(torch.count_nonzero(deferred.values(p))) for p in model.parameters())
