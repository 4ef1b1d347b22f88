#!/usr/bin/env bash
# train.py through mpirun, on this machine or on the hosts of a hostfile. The ranks find each other through mpi4py.
#
#   RANKS=2 bash launch_scripts/mpirun.sh --deepspeed_config ... --output_dir runs/x
#   RANKS=16 HOSTFILE=hosts bash launch_scripts/mpirun.sh --deepspeed_config ... --output_dir /shared/runs/x
#
# RANKS     ranks of all hosts together (default: the GPUs of this machine, else 2)
# HOSTFILE  hosts, as launch_scripts/hostfile.example (Open MPI reads the same format)
# MPIRUN    more words for mpirun, such as "--mca btl_tcp_if_include eth0" or "--allow-run-as-root"
#
# Written for Open MPI (apt-get install openmpi-bin). Several hosts need what launch_scripts/multinode.sh says.
given=${RANKS:-}
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
command -v mpirun >/dev/null || stop "'mpirun' is not installed; run: apt-get install openmpi-bin"
find_gpus
RANKS=${given:-$(( ${#gpus[@]} > 0 ? ${#gpus[@]} : 2 ))}
hosts=1
if [ -n "${HOSTFILE:-}" ]; then
  [ -f "$HOSTFILE" ] || stop "there is no hostfile '$HOSTFILE'; copy launch_scripts/hostfile.example"
  hosts=$(grep -cE '^[[:space:]]*[^#[:space:]]' "$HOSTFILE") || stop "the hostfile '$HOSTFILE' names no host"
fi
here=$(( (RANKS + hosts - 1) / hosts ))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( $(nproc) > here ? $(nproc) / here : 1 ))}
words=(-np "$RANKS" --bind-to none -x OMP_NUM_THREADS -x PATH)
[ ${#gpus[@]} -gt 0 ] || { export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}; words+=(-x DS_ACCELERATOR); }
[ -z "${HOSTFILE:-}" ] || words+=(--hostfile "$HOSTFILE")
read -ra more <<< "${MPIRUN:-}"
exec mpirun "${words[@]}" "${more[@]}" python train.py "$@"
