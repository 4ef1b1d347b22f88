#!/usr/bin/env bash
# The whole job on the embedded benchmark, on a bare machine: teacher, difficulty, a student of 60 %
# sparsity trained with rmc, evaluation, report. about 4 minutes on 2 free CPU cores after installing.
# Run it again: finished stages are reused.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
launch train.py \
  --deepspeed_config ds_configs/zero2.json ds_configs/tasks/synthetic.json \
    ds_configs/compression/imp60.json ds_configs/mitigation/rmc.json \
  --output_dir runs/quickstart "$@"
echo "TensorBoard: $VENV/bin/tensorboard --logdir runs/quickstart/tensorboard"
