#!/usr/bin/env bash
# Install what the tests need and run them all; arguments go to pytest (for example: -k losses).
# Without arguments the tests that concern DeepSpeed's releases run with requirements-current.txt too, in a
# second environment that has only the other DeepSpeed of its own.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-test.txt requirements-onnx.txt
export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}
ruff check .
ruff format --check .
mypy
if [ $# -gt 0 ]; then exec python -m pytest "$@"; fi

export PARITY_RECORD=$VENV/parity.json
rm -f "$PARITY_RECORD"
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m "not launcher"
python -m pytest -m launcher

beside "$VENV-current" requirements-current.txt
python -m pytest -m "parity or release" tests
