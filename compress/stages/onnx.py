"""Stage onnx: the student as one ONNX file, made from its finished directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.inference import onnx_export
from compress.stages.context import Context
from compress.stages.stage import Fill, Stage
from compress.stages.student import Student
from compress.stages.workspace import Artefact


class Onnx(Stage[Context]):
    """`model.onnx`, checked against PyTorch, with configuration and tokenizer."""

    name = "onnx"

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The student."""
        return (Student(),)

    def facts(self, run: Context) -> dict[str, Any]:
        """The version of the format."""
        return {"opset": onnx_export.OPSET}

    def place(self, run: Context, key: str) -> Path:
        """In the run's directory."""
        return run.output_dir / self.name

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Trace the exported model."""
        return lambda folder: onnx_export.export(made["student"].path / "model", folder / "model.onnx")
