"""A model that is read from its file and divided at once computes what the whole one does."""

import copy
import json
from pathlib import Path

import pytest
import torch
from launcher import ROOT, two_ranks
from small_models import CONFIGS, KEPT
from transformers import AutoModel, AutoModelForSequenceClassification

from compress.models import compressed
from compress.models.compressed import Layer

NAMES = ("bert", "albert", "deberta", "modernbert", "llama", "gemma3", "listed", "headless")
pytestmark = [pytest.mark.launcher, pytest.mark.timeout(300)]


def write(name: str, folder: Path) -> None:
    torch.manual_seed(1)
    config = copy.deepcopy(CONFIGS.get(name, CONFIGS["bert"]))
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    if name == "headless":
        AutoModel.from_config(config).save_pretrained(folder)
    elif name == "listed":
        compressed.describe(config, [Layer(len(k.heads), len(k.neurons)) for k in KEPT])
        compressed.build(config).save_pretrained(folder)
    else:
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    output = tmp_path_factory.mktemp("frozen")
    for name in NAMES:
        write(name, output / name)
    driver = str(ROOT / "tests/drivers/frozen_engine.py")
    done = two_ranks(driver, str(output), *(str(output / name) for name in NAMES))
    assert done.returncode == 0, done.stderr[-3000:]
    return {n: [json.loads((output / f"{n}-rank{r}.json").read_text()) for r in (0, 1)] for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_divided_model_gives_the_outputs_of_the_whole_one(found, name):
    for one in found[name]:
        assert max(one["errors"]) < 1e-6 and one["largest"] > 1e-3
        assert one["fetched"] == 0 and one["learning"] == [False, False]
        assert one["freed"]


@pytest.mark.parametrize("name", NAMES)
def test_each_rank_holds_half(found, name):
    for one in found[name]:
        assert one["all"] / 2 <= one["held"] <= one["all"] / 2 + one["count"]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_main_rank_gathers_is_the_whole_state(found, name):
    main, other = found[name]
    assert len(main["equal"]) == main["state"] and all(main["equal"])
    assert other["equal"] == []


def test_a_file_that_cannot_be_read_ends_all_ranks_with_its_sentence(tmp_path):
    write("bert", tmp_path / "model")
    driver = str(ROOT / "tests/drivers/failing_file.py")
    done = two_ranks(driver, str(tmp_path), str(tmp_path / "model"), limit=120)
    assert done.returncode == 0, done.stderr[-3000:]
    main, other = (json.loads((tmp_path / f"ended-{rank}.json").read_text()) for rank in (0, 1))
    assert main == other and main.keys() == {"divided", "exported"}
    assert all("model.safetensors: is damaged or incomplete" in one for one in main.values())
