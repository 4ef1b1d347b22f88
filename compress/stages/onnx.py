"""Stages onnx and onnx_int8: the student as one ONNX file, in float32 and in 8-bit integers.

`Int8Scores` keeps the log-probabilities of the latter on dev and every OOD set.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.configuration.config import Config
from compress.configuration.used_keys import OURS
from compress.inference import onnx_export, onnx_int8
from compress.runtime import versions
from compress.stages import scores
from compress.stages.context import Context, score_all
from compress.stages.stage import Fill, Stage
from compress.stages.student import Student
from compress.stages.workspace import Artefact

FILE = "model.onnx"


class Onnx(Stage[Context]):
    """`model.onnx`, checked against PyTorch, with configuration and tokenizer."""

    name = "onnx"

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The student."""
        return (Student(),)

    def facts(self, run: Context) -> dict[str, Any]:
        """The version of the format, and of what lies beside the file."""
        return {"opset": onnx_export.OPSET, "tokenizer": "of any length"}

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory."""
        return run.output_dir / self.name

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Trace the exported model."""
        return lambda folder: onnx_export.export(made["student"].path / "model", folder / FILE)


class OnnxInt8(Stage[Context]):
    """`model.onnx` in 8-bit integers, with configuration and tokenizer."""

    name = "onnx_int8"

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The file in float32."""
        return (Onnx(),)

    def facts(self, run: Context) -> dict[str, Any]:
        """How it is quantised, and by what."""
        package = versions.installed("onnxruntime") or versions.installed("onnxruntime-gpu")
        return {**onnx_int8.OPTIONS, "onnxruntime": package}

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory."""
        return run.output_dir / self.name

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Quantise the file."""
        return lambda folder: onnx_int8.quantise(made["onnx"].path / FILE, folder / FILE)


class Int8Scores(Stage[Context]):
    """`<split>.npy`: log-probabilities [N, C] of the file in 8-bit integers, on the CPU."""

    name = "scores_int8"

    @property
    def label(self) -> str:
        """With the model."""
        return "scores of the student in 8-bit integers"

    def reads(self, config: Config) -> tuple[str, ...]:
        """What the student started from, which decides its tokens."""
        return (f"{OURS}.student.init_from",)

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The file."""
        return (OnnxInt8(),)

    def facts(self, run: Context) -> dict[str, Any]:
        """Content of the splits."""
        return scores.facts(run)

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory."""
        return run.output_dir / self.name

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Score the file on all ranks."""
        file = made["onnx_int8"]
        forward = onnx_int8.Forward(file.path / FILE)
        own = replace(run.for_student(), device=onnx_int8.CPU)
        return scores.copied(score_all(own, file, scores.splits(run), forward))
