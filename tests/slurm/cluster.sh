#!/bin/bash
# A real Slurm of two virtual nodes on this machine, for tests/slurm/test.sh: each node is a network namespace with a host
# name of its own, so that ranks on them are on two hosts and talk by TCP. Needs root and, on demand,
#   apt-get install --no-install-recommends slurm-wlm munge iproute2
# Nothing outside of FOLDER and the namespaces is changed.
#
#   cluster.sh missing          prints what it needs and is not there; fails when something is
#   cluster.sh start FOLDER     prints what to set: SLURM_CONF
#   cluster.sh node FOLDER N    (re)starts the daemon of node N
#   cluster.sh fail FOLDER N    kills everything of node N, as a machine that loses power
#   cluster.sh stop FOLDER
set -euo pipefail
command=$1
run=$(realpath -m "${2:-/nowhere}")
nodes=(longhaul1 longhaul2)
bridge=longhaulbr0
export SLURM_CONF=$run/slurm.conf

missing() {
  local program
  ((EUID == 0)) || { echo "it needs root"; return 1; }
  for program in slurmctld slurmd sbatch munged ip nsenter unshare mpirun; do
    command -v "$program" > /dev/null || { echo "$program is not installed (Debian: slurm-wlm munge iproute2 util-linux)"; return 1; }
  done
  # A namespace to try with: containers often forbid them.
  if ! { ip netns add longhaultry && ip link add lhtry type veth peer name eth0 netns longhaultry; } 2> /dev/null; then
    ip netns del longhaultry 2> /dev/null || true
    echo "network namespaces are not allowed here"
    return 1
  fi
  ip netns del longhaultry
  ip link del lhtry 2> /dev/null || true
}

configure() {
  mkdir -p "$run/state"
  for node in "${nodes[@]}"; do mkdir -p "$run/spool.$node" "$run/tmp.$node"; done
  cat > "$SLURM_CONF" <<CONF
ClusterName=longhaultest
SlurmctldHost=$(hostname -s)(10.99.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
MpiDefault=pmix
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=20
SlurmdTimeout=10
StateSaveLocation=$run/state
TmpFS=$run/tmp.%n
SlurmdSpoolDir=$run/spool.%n
SlurmctldPidFile=$run/slurmctld.pid
SlurmdPidFile=$run/slurmd.%n.pid
SlurmctldLogFile=$run/slurmctld.log
SlurmdLogFile=$run/slurmd.%n.log
SlurmctldPort=16817
SlurmdPort=16818
NodeName=longhaul1 NodeAddr=10.99.0.1 CPUs=4 State=UNKNOWN
NodeName=longhaul2 NodeAddr=10.99.0.2 CPUs=4 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

network() {
  ip link add "$bridge" type bridge
  ip addr add 10.99.0.254/24 dev "$bridge"
  ip link set "$bridge" up
  local i=0 node
  for node in "${nodes[@]}"; do
    i=$((i + 1))
    ip netns add "$node"
    ip link add "lhveth$i" type veth peer name eth0 netns "$node"
    ip link set "lhveth$i" master "$bridge" up
    ip -n "$node" addr add "10.99.0.$i/24" dev eth0
    ip -n "$node" link set eth0 up
    ip -n "$node" link set lo up
  done
}

# Not `ip netns exec`, which mounts another /sys: the daemon would find no control groups.
start_node() {
  nsenter --net="/var/run/netns/$1" unshare --uts bash -c "hostname $1; exec slurmd -f $SLURM_CONF -N $1"
}

# Everything that runs in a node's namespace: the daemon, its step managers, the ranks.
node_processes() {
  ip netns pids "$1" 2>/dev/null || true
}

stop() {
  local node process
  [[ -e $run/slurmctld.pid ]] && kill "$(< "$run/slurmctld.pid")" 2>/dev/null || true
  for node in "${nodes[@]}"; do
    for process in $(node_processes "$node"); do kill -9 "$process" 2>/dev/null || true; done
    ip netns del "$node" 2>/dev/null || true
  done
  ip link del "$bridge" 2>/dev/null || true
  [[ -e $run/munged.pid ]] && kill "$(< "$run/munged.pid")" 2>/dev/null || true
}

case $command in
  missing) missing ;;
  start)
    configure
    network
    install -d -o munge -g munge -m 0755 /run/munge
    pgrep -x munged > /dev/null || runuser -u munge -- munged --force
    slurmctld -f "$SLURM_CONF"
    for node in "${nodes[@]}"; do start_node "$node"; done
    for ((i = 0; i < 100; ++i)); do
      (($(sinfo -h -t idle -o %D | head -n 1 || true) == 2)) 2>/dev/null && break
      sleep 0.2
    done
    sinfo
    echo "export SLURM_CONF=$SLURM_CONF"
    ;;
  node) start_node "$3" ;;
  fail) for process in $(node_processes "$3"); do kill -9 "$process" 2>/dev/null || true; done ;;
  stop) stop ;;
  *) echo "unknown command $command" >&2; exit 2 ;;
esac
