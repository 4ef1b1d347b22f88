#!/usr/bin/env bash
# Run a command on the only node of a Slurm cluster that is made for it: node1, with two CPUs. As root.
#   one_node_slurm.sh SCRATCH COMMAND...
# All of it lives in private namespaces of processes, mounts and networks, and ends with the command.
set -euo pipefail
if [ -z "${INSIDE:-}" ]; then
  INSIDE=1 exec unshare --pid --fork --kill-child --mount-proc --mount --net --uts "$0" "$@"
fi
unset INSIDE
export PATH=$PATH:/usr/sbin:/sbin
scratch=$1
shift
hostname node1
ip link set lo up
ip link add eth0 type veth peer name eth1  # Slurm listens nowhere where there is only 127.0.0.1
ip addr add 10.77.1.1/24 dev eth0
ip link set eth0 up
ip link set eth1 up
printf '127.0.0.1 localhost\n10.77.1.1 node1\n' > "$scratch/etc_hosts"
mount --bind "$scratch/etc_hosts" /etc/hosts
mount -t tmpfs tmpfs /run
mkdir -p /run/munge "$scratch/ctld" "$scratch/slurmd"
head -c 1024 /dev/urandom > /run/munge/munge.key
chmod 400 /run/munge/munge.key
munged --key-file=/run/munge/munge.key --socket=/run/munge/munge.socket.2 --pid-file=/run/munge/munged.pid \
  --log-file=/run/munge/munged.log --seed-file=/run/munge/munged.seed --num-threads=2
cat > "$scratch/slurm.conf" <<C
ClusterName=one
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
SlurmdSpoolDir=$scratch/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=$scratch/ctld.log
SlurmdLogFile=$scratch/slurmd.log
KillWait=5
NodeName=node1 NodeAddr=10.77.1.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
C
export SLURM_CONF=$scratch/slurm.conf
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 60); do
  state=$(timeout 5 sinfo -h -o %t 2>/dev/null || true)
  [ "$state" = idle ] && break
  kill -0 "$(cat /run/slurmctld.pid)" 2>/dev/null || { cat "$scratch/ctld.log" >&2; exit 1; }
  sleep 0.3
done
[ "$state" = idle ] || { echo "the node is '$state'" >&2; cat "$scratch/slurmd.log" >&2; exit 1; }
code=0
"$@" || code=$?
exit "$code"
