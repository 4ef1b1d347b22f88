#!/usr/bin/env bash
# Seconds and bytes of a step on two hosts whose link is limited, in megabits a second; 0: not limited. SLOTS ranks a host (1).
#   communication.sh RESULTS RATE... [-- WORDS of tests/communication.py]     on hosta of two_hosts.sh
set -euo pipefail
results=$1
shift
rates=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do rates+=("$1"); shift; done
[ $# -eq 0 ] || shift
slots=${SLOTS:-1}
printf "hosta slots=$slots\nhostb slots=$slots\n" > "$results/hosts"
printf 'DS_ACCELERATOR=cpu\nGLOO_SOCKET_IFNAME=eth0\nOMP_NUM_THREADS=1\n' > "$results/env"
export DS_ENV_FILE=$results/env OMP_NUM_THREADS=1
limit() { # limit RATE: of what each host sends
  for host in hosta hostb; do
    ssh $host tc qdisc del dev eth0 root 2> /dev/null || true
    [ "$1" = 0 ] || ssh $host tc qdisc add dev eth0 root tbf rate "$1mbit" burst 1mbit latency 100ms
  done
}
for rate in "${rates[@]}"; do
  limit "$rate"
  mkdir -p "$results/$rate"
  deepspeed --hostfile "$results/hosts" --no_ssh_check --master_addr 10.77.0.1 --master_port 29661 \
    tests/communication.py "$results/$rate" "$@" > "$results/$rate.log" 2>&1
done
