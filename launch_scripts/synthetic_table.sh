#!/usr/bin/env bash
# The table of docs/results.md: 5 seeds x IMP 60 and 80 % x four losses on the embedded benchmark.
# Runs are single processes, RANKS at a time; finished ones are reused. Prints the table.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

run() { # seed compression mitigation
  local folder=runs/synthetic/$2-$3-$1
  mkdir -p runs/synthetic
  python train.py --deepspeed_config ds_configs/zero2.json ds_configs/tasks/synthetic.json \
    "ds_configs/compression/$2.json" "ds_configs/mitigation/$3.json" \
    --set "robust_compression.seed=$1" tensorboard.enabled=false --output_dir "$folder" \
    > "$folder.log" 2>&1 || echo "failed: $folder.log"
}
export -f run

seq 1 5 | xargs -P "$RANKS" -I{} bash -c 'run {} imp60 vanilla'  # makes the shared teachers and difficulties
for seed in 1 2 3 4 5; do
  for compression in imp60 imp80; do
    for mitigation in vanilla distil rmc rmc_weighted; do echo "run $seed $compression $mitigation"; done
  done
done | xargs -P "$RANKS" -I{} bash -c '{}'
python -m compress.table runs/synthetic/imp*-?
