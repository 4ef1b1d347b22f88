#!/usr/bin/env bash
# What test_cluster.py looks at, on hosta of two hosts; leaves a log and the exit code of each case.
#   two_hosts_cases.sh RESULTS CASE...   (RESULTS/words: arguments of train.py, one a line, without --output_dir)
#   doctor   pdsh: launch_scripts/multinode.sh   mpirun: launch_scripts/mpirun.sh   no_mpi4py: mpirun without that package
#   unshared: the doctor with a directory that hostb does not share, and a port that is taken
#   killed: a long training, all of whose processes on hostb are killed; link: the same command again, and then its link goes down
#   late: a run on files that hostb sees late, which a signal ends while it scores; continued: the same command again
#   bytes    what a step of two micro-batches sends at each ZeRO stage (tests/communication.py)
set -uo pipefail
results=$1
shift
mapfile -t words < "$results/words"
printf 'hosta slots=1\nhostb slots=1\n' > "$results/hosts"
printf 'DS_ACCELERATOR=cpu\nGLOO_SOCKET_IFNAME=eth0\nOMP_NUM_THREADS=1\n' > "$results/env"
export DS_ENV_FILE=$results/env HOSTFILE=$results/hosts
tcp="--allow-run-as-root --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0"
newest() { find "$results/long/shared" -path '*.unfinished/*/step-*/complete.json' 2> /dev/null | sort | tail -n 1; }
on_hostb() { for pid in $(ip netns pids hostb); do tr '\0' ' ' < "/proc/$pid/cmdline" | grep -q "$1" && echo "$pid"; done; }
long() {  # a training of minutes, until a new checkpoint is there; then the command in the arguments
  local before until=$((SECONDS + 120)) training
  before=$(newest)
  timeout 170 bash launch_scripts/multinode.sh "${words[@]}" robust_compression.epochs=3000 robust_compression.timeout=0.2 \
    robust_compression.checkpoint.every_steps=20 --output_dir "$results/long/run" &
  training=$!
  while [ "$(newest)" = "$before" ]; do [ $SECONDS -lt $until ] || break; sleep 0.2; done
  "$@"
  wait $training
}
until_said() { for _ in $(seq 50); do grep -q "$1" "$log" && break; sleep 0.5; done; }
for case in "$@"; do
  log=$results/$case.log
  case $case in
    doctor) timeout 180 python -m compress.doctor --hostfile "$HOSTFILE" --output_dir "$results/doctor" --deepspeed_config \
      "$results/stand_in.json";;
    unshared) python -m http.server 29500 & server=$!
      timeout 180 python -c 'import sys
from compress.doctor import __main__, facts
facts.PATIENCE = 1.0
sys.exit(__main__.main())' --hostfile "$HOSTFILE" --output_dir "$results/scratch/private"
      code=$?
      kill "$server"
      (exit "$code");;
    pdsh) timeout 180 bash launch_scripts/multinode.sh "${words[@]}" --output_dir "$results/pdsh/run";;
    mpirun) GLOO_SOCKET_IFNAME=eth0 OMP_NUM_THREADS=1 RANKS=2 MPIRUN="$tcp -x GLOO_SOCKET_IFNAME" timeout 180 \
      bash launch_scripts/mpirun.sh "${words[@]}" --output_dir "$results/mpirun/run";;
    bytes) OMP_NUM_THREADS=1 timeout 180 deepspeed --hostfile "$HOSTFILE" --no_ssh_check --master_addr 10.77.0.1 \
      --master_port 29661 tests/communication.py "$results/bytes" --layers 4 --hidden 256 --steps 4 --accumulation 2;;
    killed) long eval 'kill -9 $(on_hostb train.py)';;
    link) long eval 'ip link set eth0 down; until_said "did not answer"; ip link set eth0 up';;
    late) printf 'KILL_AT=score teacher train 2\nKILL_RANK=1\nKILL_WITH=15\n' | cat "$results/env" - > "$results/late.env"
      DS_ENV_FILE=$results/late.env timeout 180 deepspeed --hostfile "$HOSTFILE" --no_ssh_check --master_addr 10.77.0.1 \
        --master_port 29661 tests/drivers/killed_run.py "${words[@]}" robust_compression.evaluation.batch_size=4 \
        --output_dir "$results/scratch/late/run";;
    continued) timeout 180 bash launch_scripts/multinode.sh "${words[@]}" robust_compression.evaluation.batch_size=4 \
      --output_dir "$results/scratch/late/run";;
    no_mpi4py) HOSTFILE='' RANKS=2 OMP_NUM_THREADS=1 PYTHONPATH=$results/without MPIRUN=--allow-run-as-root timeout 180 \
      bash launch_scripts/mpirun.sh "${words[@]}" --output_dir "$results/no_mpi4py/run";;
  esac > "$log" 2>&1
  echo $? > "$results/$case.code"
done
