#!/usr/bin/env bash
# The whole job on the embedded benchmark, on a bare machine: teacher, a student of three of its four layers
# trained with the plain loss and with a product of experts, evaluation, report. 3 to 4 minutes on 2
# free CPU cores after installing. Run it again: finished stages are reused.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
launch train.py \
  --deepspeed_config ds_configs/zero2.json ds_configs/tasks/synthetic.json \
    ds_configs/compression/layers_0_1_2.json ds_configs/mitigation/poe.json ds_configs/baseline.json \
  --output_dir runs/quickstart "$@"
echo "TensorBoard: $VENV/bin/tensorboard --logdir runs/quickstart/tensorboard"
