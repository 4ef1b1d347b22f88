#!/usr/bin/env bash
# Install what the tests need and run them all; arguments go to pytest (for example: -k losses).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-test.txt requirements-onnx.txt
export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
