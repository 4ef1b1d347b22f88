#!/usr/bin/env bash
# Install what the tests need and run them all; arguments go to pytest (for example: -k losses).
# Without arguments, what concerns DeepSpeed's releases runs a second time with requirements-current.txt, in
# an environment beside the first that has that DeepSpeed and accelerate of its own (accelerate makes every start slower).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-test.txt requirements-onnx.txt
export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
ruff check .
ruff format --check .
mypy
if [ $# -gt 0 ]; then exec python -m pytest "$@"; fi

# The second environment is installed while the tests run in the first.
( beside "$VENV-current" requirements-current.txt requirements-benchmark.txt ) >/dev/null 2>&1 &
export PARITY_RECORD=$VIRTUAL_ENV/parity.json
rm -f "$PARITY_RECORD"
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
wait
beside "$VENV-current" requirements-current.txt requirements-benchmark.txt
export GOLDEN_JOBS="imp40 movement40 heads40 rows50_learned layers_first_half heads20_rows50_imp40"
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "parity or release"
