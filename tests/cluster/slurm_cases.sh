#!/usr/bin/env bash
# What test_cluster.py looks at, on two nodes of Slurm; leaves a log and the exit code of each case.
#   slurm_cases.sh RESULTS PROJECT CASE...   (RESULTS/words: arguments of train.py, one a line, without --output_dir)
#   srun: two tasks on each of two nodes   one: one process in a batch job of two tasks
#   parts, fails: launch_scripts/slurm.sbatch, two ranks on each of two nodes   quits: the same on one node
set -uo pipefail
results=$1 project=$2
shift 2
mapfile -t words < "$results/words"
export OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu RANKS=2
ended() { echo "$2" > "$results/$1.code"; }
state_of() { scontrol show job "$1" | grep -o 'JobState=[A-Z]*' | cut -d= -f2; }
exit_code() { scontrol show job "$1" | grep -o ' ExitCode=[0-9]*' | cut -d= -f2; }
until_ended() {
  for _ in $(seq 600); do
    case $(state_of "$1") in COMPLETED|FAILED|CANCELLED|TIMEOUT) return;; esac
    sleep 0.3
  done
}
submitted=()  # CASE JOB: the queue runs one after another, and another while one waits for its second part
for case in "$@"; do
  case $case in
    srun)
      timeout 180 srun -K -N 2 -n 4 python train.py "${words[@]}" --output_dir "$results/srun/run" > "$results/srun.log" 2>&1
      ended srun $?;;
    one)
      printf '#!/bin/bash\n%s\n' 'exec python train.py "$@"' > "$results/one.sh"
      job=$(sbatch --parsable -n 2 -o "$results/one.log" "$results/one.sh" "${words[@]}" --output_dir "$results/one/run")
      submitted+=("one $job");;
    parts|fails|quits)
      nodes=2
      [ "$case" != quits ] || nodes=1
      job=$(cd "$project" && MODE=$case sbatch -N $nodes -t 9 --parsable -o "$results/$case.log" launch_scripts/slurm.sbatch \
        --deepspeed_config "$results/stand_in.json" --output_dir "$results/$case/run")
      submitted+=("$case $job")
      if [ "$case" = parts ]; then
        for _ in $(seq 1200); do [ -e "$results/parts/run/training" ] && break; sleep 0.1; done
        scancel --batch --signal=USR1 "$job"  # as Slurm does before the time limit
      fi;;
  esac
done
for pair in "${submitted[@]}"; do
  read -r case job <<< "$pair"
  until_ended "$job"
  scontrol show job "$job" > "$results/$case.job"
  ended "$case" "$(exit_code "$job")"
done
