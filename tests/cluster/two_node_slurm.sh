#!/usr/bin/env bash
# Run a command on node1, one of two nodes of a Slurm cluster on this machine: network namespaces node1 and node2 with an address
# (10.77.1.1 and 10.77.1.2 on eth0), a host name, two CPUs and a slurmd each, and one file system. As root.
#   two_node_slurm.sh SCRATCH COMMAND...
# All of it lives in private namespaces of processes, mounts and networks, and ends with the command.
set -euo pipefail
source "$(dirname "$0")/namespaces.sh"
private "$@"
scratch=$1
shift
connect "$scratch" 10.77.1 node1 node2
on() { local node=$1; shift; nsenter --net="/run/netns/$node" unshare --uts bash -c 'hostname "$1"; shift; exec "$@"' - "$node" "$@"; }
mkdir -p /run/munge "$scratch/ctld" "$scratch/node1" "$scratch/node2"
head -c 1024 /dev/urandom > /run/munge/munge.key
chmod 400 /run/munge/munge.key
munged --key-file=/run/munge/munge.key --socket=/run/munge/munge.socket.2 --pid-file=/run/munge/munged.pid \
  --log-file=/run/munge/munged.log --seed-file=/run/munge/munged.seed --num-threads=2
cat > "$scratch/slurm.conf" <<C
ClusterName=two
SlurmctldHost=node1(10.77.1.1)
AuthType=auth/munge
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
SlurmUser=root
SlurmdUser=root
SlurmdParameters=config_overrides
StateSaveLocation=$scratch/ctld
SlurmdSpoolDir=$scratch/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.%n.pid
SlurmctldLogFile=$scratch/ctld.log
SlurmdLogFile=$scratch/slurmd.%n.log
KillWait=5
NodeName=node1 NodeAddr=10.77.1.1 CPUs=2 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.1.2 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
C
export SLURM_CONF=$scratch/slurm.conf
on node1 slurmctld -f "$SLURM_CONF"
for node in node1 node2; do on $node slurmd -f "$SLURM_CONF"; done
for _ in $(seq 60); do
  ready=$(on node1 timeout 5 sinfo -h -N -t idle -o %N 2>/dev/null | wc -l || true)
  [ "$ready" = 2 ] && break
  kill -0 "$(cat /run/slurmctld.pid)" 2>/dev/null || { cat "$scratch/ctld.log" >&2; exit 1; }
  sleep 0.3
done
[ "$ready" = 2 ] || { echo "$ready of 2 nodes are idle" >&2; cat "$scratch"/slurmd.*.log >&2; exit 1; }
code=0
on node1 "$@" || code=$?
exit "$code"
