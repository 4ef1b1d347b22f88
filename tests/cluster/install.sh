#!/usr/bin/env bash
# The programs that the cluster tests need, from the packages of Debian or Ubuntu. As root.
#   install.sh PROGRAM...      those that are missing of: ip sshd pdsh mpirun srun slurmctld munged sshfs
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive
declare -A package=([ip]=iproute2 [sshd]=openssh-server [ssh]=openssh-client [pdsh]=pdsh [mpirun]=openmpi-bin [srun]=slurm-client
  [slurmctld]=slurmctld [slurmd]=slurmd [munged]=munge [hostname]=hostname [sshfs]=sshfs)
missing=()
for program in "$@"; do command -v "$program" >/dev/null || missing+=("${package[$program]}"); done
[ ${#missing[@]} -gt 0 ] || exit 0
install() { timeout 200 apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
install >/dev/null 2>&1 || { timeout 100 apt-get update -qq; install; }
