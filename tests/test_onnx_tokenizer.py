"""What the tokenizer beside an ONNX file returns for a batch of pairs is what the file takes."""

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizer_models import CONFIGS, made
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compress import predict
from compress.data.tasks import TASKS
from compress.inference import onnx_export
from compress.models import encoders
from compress.stages import export

pytestmark = pytest.mark.slow

NAMES = {"model_input_names": ["input_ids", "attention_mask"]}
PAIRS = predict.Samples((["wa wb wc", "wd"], ["we wf", "wg"]), [1, 2])


@pytest.mark.parametrize(
    ("kind", "settings", "inputs"),
    [
        ("bert", {}, {"input_ids", "attention_mask", "token_type_ids"}),
        ("bert", NAMES, {"input_ids", "attention_mask"}),
        ("bert", {"model_input_names": ["input_ids"]}, {"input_ids", "attention_mask"}),
        ("distilbert", {}, {"input_ids", "attention_mask"}),
        ("roberta pad 1", NAMES, {"input_ids", "attention_mask"}),
    ],
    ids=["bert", "no types", "no mask", "distilbert", "roberta"],
)
def test_the_tokenizers_output_is_the_files_input(tmp_path, kind, settings, inputs):
    """In a folder of its own, with the scores of `compress.predict`."""
    folder, out = made(tmp_path / "encoder", kind, **settings), tmp_path / "out"
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[kind]).eval()
    export.save(model, encoders.load_tokenizer(folder), 32, TASKS["mnli"], tmp_path / "model")
    onnx_export.export(tmp_path / "model", out / "model.onnx")
    (tmp_path / "model").rename(tmp_path / "moved")
    tokenizer = AutoTokenizer.from_pretrained(out)
    given = dict(tokenizer(*PAIRS.texts, padding=True, return_tensors="np"))
    alone = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert alone.truncation is None and alone.padding is None
    assert len(alone.encode("wa " * 60, "wd " * 50).ids) > 110
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    assert {node.name for node in session.get_inputs()} == set(given) == inputs
    (logits,) = session.run(None, given)
    assert encoders.load_config(out).model_type == model.config.model_type
    wanted = predict.probabilities(model, tokenizer, PAIRS, 32, 2)
    np.testing.assert_allclose(
        np.log(wanted)[:, 0] - np.log(wanted)[:, 1], logits[:, 0] - logits[:, 1], atol=1e-5
    )
