#!/usr/bin/env bash
# Run a command on hosta, one of two hosts on this machine: network namespaces hosta and hostb with an address (10.77.0.1 and
# 10.77.0.2 on eth0), a host name and an sshd each, and one file system, but for SCRATCH/private and SCRATCH/late: hostb has that
# through sshfs, where there is FUSE, and remembers for 2 minutes what was not there. As root.
#   two_hosts.sh SCRATCH COMMAND...
# All of it lives in private namespaces of processes, mounts and networks, and ends with the command.
set -euo pipefail
source "$(dirname "$0")/namespaces.sh"
private "$@"
scratch=$1
shift
home=$(getent passwd "$(id -u)" | cut -d: -f6)
mkdir -p "$scratch/ssh" "$scratch/private" "$scratch/late" "$home/.ssh"
mkdir -p /run/sshd
rm -f "$scratch/ssh/id_ed25519" "$scratch/host_key"  # of an earlier start
ssh-keygen -q -t ed25519 -N '' -f "$scratch/ssh/id_ed25519"
ssh-keygen -q -t ed25519 -N '' -f "$scratch/host_key"
cp "$scratch/ssh/id_ed25519.pub" "$scratch/ssh/authorized_keys"
printf 'StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n' > "$scratch/ssh/config"
chmod 700 "$scratch/ssh"
mount --bind "$scratch/ssh" "$home/.ssh"
connect "$scratch" 10.77.0 hosta hostb
on() { local host=$1; shift; ip netns exec "$host" unshare --uts bash -c 'hostname "$1"; shift; exec "$@"' - "$host" "$@"; }
mounts() {
  [ "$1" = hostb ] || return 0
  mount -t tmpfs tmpfs "$2/private"
  for _ in $(seq 50); do ssh hosta true 2>/dev/null && break; sleep 0.1; done
  sshfs "hosta:$2/late" "$2/late" -o sftp_server=/usr/lib/openssh/sftp-server \
    -o entry_timeout=120,negative_timeout=120,attr_timeout=120,dcache_timeout=120 && touch "$2/mounted" || true
}
export -f mounts
for host in hosta hostb; do
  on $host bash -c 'mounts "$0" "$1"; shift; exec "$@"' $host "$scratch" \
    /usr/sbin/sshd -D -e -f /dev/null -h "$scratch/host_key" -o PidFile=none -o StrictModes=no -o UsePAM=no \
    -o PermitRootLogin=yes -o PasswordAuthentication=no -o AuthorizedKeysFile="$scratch/ssh/authorized_keys" \
    2> "$scratch/sshd_$host.log" &
done
for _ in $(seq 50); do on hosta ssh hostb true 2>/dev/null && break; sleep 0.1; done
code=0
on hosta "$@" || code=$?
exit "$code"
