#!/usr/bin/env bash
# A table of docs/results.md on real data with a small encoder, through the launcher (two CPU processes, or
# the GPUs): each compression x each mitigation, teacher and difficulty shared, finished runs reused.
#
#   bash launch_scripts/real_table.sh TASK DATA_DIR MODEL "imp40 imp60" "vanilla distil" [a.b.c=value ...]
task=$1 data=$(realpath "$2") model=$(realpath "$3") compressions=$4 mitigations=$5
shift 5
overrides=("$@")
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
for compression in $compressions; do
  for mitigation in $mitigations; do
    launch train.py --deepspeed_config ds_configs/zero2.json "ds_configs/tasks/$task.json" \
      ds_configs/minilm_cpu.json "ds_configs/compression/$compression.json" \
      "ds_configs/mitigation/$mitigation.json" \
      --set "robust_compression.model=$model" "robust_compression.task.data_dir=$data" \
        "${overrides[@]}" \
      --output_dir "runs/$task/$compression-$mitigation" || echo "failed: $compression-$mitigation"
  done
done
python -m compress.table "runs/$task"/imp*-*
