# Functions of two_hosts.sh and two_node_slurm.sh.

# Go on in private namespaces of processes, mounts and networks, which end with this script: with its own arguments.
private() {
  if [ -z "${INSIDE:-}" ]; then
    INSIDE=1 exec unshare --pid --fork --kill-child --mount-proc --mount --net --uts "$0" "$@"
  fi
  unset INSIDE
  export PATH=$PATH:/usr/sbin:/sbin
  mount -t tmpfs tmpfs /run
  mkdir -p /run/netns
}

# Two network namespaces with the addresses NET.1 and NET.2 on eth0, by name in /etc/hosts.   connect SCRATCH NET FIRST SECOND
connect() {
  local scratch=$1 net=$2 first=$3 second=$4 name
  printf '127.0.0.1 localhost\n%s.1 %s\n%s.2 %s\n' "$net" "$first" "$net" "$second" > "$scratch/etc_hosts"
  mount --bind "$scratch/etc_hosts" /etc/hosts
  ip link set lo up
  for name in "$first" "$second"; do ip netns add "$name"; ip -n "$name" link set lo up; done
  ip link add eth0 netns "$first" type veth peer name eth0 netns "$second"
  ip -n "$first" addr add "$net.1/24" dev eth0
  ip -n "$second" addr add "$net.2/24" dev eth0
  for name in "$first" "$second"; do ip -n "$name" link set eth0 up; done
}
