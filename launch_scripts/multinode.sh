#!/usr/bin/env bash
# `deepspeed train.py` on the hosts of a hostfile, started from one of them through pdsh and ssh.
#
#   HOSTFILE=hosts bash launch_scripts/multinode.sh --deepspeed_config ... --output_dir /shared/runs/x
#
# HOSTFILE  hosts and ranks, as launch_scripts/hostfile.example (default: hosts)
# LAUNCHER  more words for `deepspeed`, such as "--master_port 29501", "--include node1:0,1@node2", "--ssh_port 2222"
#           or, where ssh answers only with options that pdsh is given (PDSH_SSH_ARGS_APPEND), "--no_ssh_check"
#
# Needed on every host: pdsh on this one (apt-get install pdsh), ssh without a password from this host to all, itself
# included; this directory, the virtual environment and --output_dir under the same path; the same packages. Variables of
# this shell do not reach the other hosts, except PYTHON..., NCCL... and UCX...: write the others, one NAME=VALUE a line
# and nothing else, to the file .deepspeed_env here or in your home directory (DS_ENV_FILE=NAME: another name):
#   GLOO_SOCKET_IFNAME=eth0      the network interface between the hosts, if there is more than one
#   NCCL_SOCKET_IFNAME=eth0      the same between GPUs
#   DS_ACCELERATOR=cpu           on hosts without GPUs, and then
#   OMP_NUM_THREADS=4            cores of a host / its slots
# `python -m compress.doctor --hostfile hosts` looks at all of this before you start.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
HOSTFILE=${HOSTFILE:-hosts}
[ -f "$HOSTFILE" ] || stop "there is no hostfile '$HOSTFILE'; copy launch_scripts/hostfile.example, or set HOSTFILE"
command -v pdsh >/dev/null || stop "'pdsh' is not installed; run: apt-get install pdsh"
read -ra words <<< "${LAUNCHER:-}"
exec deepspeed --log_level warning --hostfile "$HOSTFILE" "${words[@]}" train.py "$@"
