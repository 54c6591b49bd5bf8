#!/bin/bash
# What the shipped batch script and the trainer do under a real Slurm (cluster.sh: two nodes on this machine): at most one step
# is lost, nobody has to lift a finger, and exit codes are as README.md says.
#
#   tests/slurm/test.sh [path of longhaul] [scenario ...]      all scenarios by default; about five minutes
#
# Scenarios: signal scancel requeue killed stopped node second sockets. `cluster.sh missing` says what it needs and is not there.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(realpath "$here/../..")
longhaul=$(realpath "${1:-$source/build/longhaul}")
shift $(($# > 0))
scenarios=("${@:-signal}")
(($# > 0)) || scenarios=(signal scancel requeue killed stopped node second sockets)
work=$(mktemp -d)
failures=0
trap '"$here/cluster.sh" stop "$work/slurm" > /dev/null 2>&1; rm -rf "$work"' EXIT
"$here/cluster.sh" start "$work/slurm" > "$work/cluster.log" 2>&1 || { cat "$work/cluster.log"; exit 1; }
export SLURM_CONF=$work/slurm/slurm.conf
export OMPI_MCA_btl_tcp_if_include=10.99.0.0/24 OMPI_MCA_btl=self,vader,tcp

# A folder as the batch script expects it: the program in build/, an experiment whose steps take milliseconds.
mkdir -p "$work/job/build"
ln -s "$longhaul" "$work/job/build/longhaul"
cat > "$work/job/model.json" << 'MODEL'
{"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "vocab_size": 257, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "tie_word_embeddings": false, "hidden_act": "silu"}
MODEL
seq 1 2000 > "$work/job/text.txt"
cat > "$work/job/e.yaml" << 'EXPERIMENT'
model: {config: model.json}
data: {files: [text.txt]}
training: {seq_len: 16, micro_batch_size: 2, global_batch_size: 4, steps: 100000000}
lr_scheduler: {decay_type: constant}
optimizer: {lr: 1e-3}
checkpoint: {interval: 0}
metrics: {log_freq: 1000000}
EXPERIMENT
cd "$work/job" || exit 1

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}
lines() { if [[ -e runs/$1/metrics.jsonl ]]; then wc -l < "runs/$1/metrics.jsonl"; else echo 0; fi; }
newest() { ls "runs/$1/checkpoints" 2>/dev/null | grep '^step' | tail -n 1; }
last_step() { tail -n 1 "runs/$1/metrics.jsonl" | sed 's/.*"step":\([0-9]*\).*/\1/'; }
# Waits until a command succeeds, for so many seconds.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until eval "$*"; do
    ((SECONDS < end)) || { fail "waited in vain for: $*"; return 1; }
    sleep 0.3
  done
}
submit() {  # name, options of sbatch ... -- overrides ...
  local name=$1 options=()
  shift
  while (($#)) && [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  sbatch --parsable --job-name="$name" --output="$work/$name.log" --nodes=2 --ntasks-per-node=1 "${options[@]}" \
    "$source/configs/slurm/quickstart.sbatch" e.yaml job.folder="runs/$name" "$@"
}
state() { scontrol show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'; }
restarts() { scontrol show job "$1" 2>/dev/null | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p'; }
ranks() { for node in longhaul1 longhaul2; do ip netns pids "$node" | while read -r p; do
  [[ $(readlink -f "/proc/$p/exe") == "$longhaul" ]] && echo "$node $p"; done; done; }
saved() { [[ $(newest "$1") == "$(printf 'step-%08d' "$(last_step "$1")")" ]] || fail "$1: step $(last_step "$1"), but $(newest "$1")"; }

for scenario in "${scenarios[@]}"; do
  begin=$SECONDS
  case $scenario in
    signal) # USR1, as --signal sends it: saved, and queued again by the script
      job=$(submit signal --)
      wait_until 60 '(($(lines signal) > 20))' || continue
      scancel --signal=USR1 "$job"
      wait_until 30 'grep -q "stopped by SIGUSR1" "$work/signal.log"' && saved signal
      stopped=$(last_step signal)
      wait_until 90 '(($(lines signal) > stopped + 20))'
      grep -q "resuming from step $stopped " "$work/signal.log" || fail "signal: not resumed from step $stopped"
      [[ $(restarts "$job") == 1 ]] || fail "signal: $(restarts "$job") restarts"
      scancel "$job"
      ;;
    scancel) # TERM, KillWait, KILL: saved within
      job=$(submit scancel --)
      wait_until 60 '(($(lines scancel) > 20))' || continue
      scancel "$job"
      wait_until 30 '[[ -z $(ranks) ]]'
      # srun no longer passes on what the ranks say: the run folder's own log has it.
      grep -q "stopped by SIGTERM" runs/scancel/log.txt || fail "scancel: no word of it"
      saved scancel
      ;;
    requeue) # the time limit of the run itself, again and again until it is done
      job=$(submit requeue -- training.time_limit=0.03 training.steps=100000000)
      wait_until 200 '[[ $(grep -c "stopped by training.time_limit" "$work/requeue.log") -ge 3 ]]'
      (($(restarts "$job") >= 2)) || fail "requeue: $(restarts "$job") restarts"
      scancel "$job"
      ;;
    killed) # a rank dies: the script tries again in the same allocation
      job=$(submit killed -- checkpoint.interval=10)
      wait_until 60 '(($(lines killed) > 40))' || continue
      kill -9 "$(ranks | sed -n 's/longhaul2 //p' | head -n 1)"
      wait_until 60 'grep -q "try 1 of 3" "$work/killed.log"'
      wait_until 60 'grep -q "resuming from step" "$work/killed.log"'
      grep -q "took over the lock" "$work/killed.log" || echo "killed: the lock was given up in time"
      scancel "$job"
      ;;
    stopped) # a rank stops: named, ended, tried again
      job=$(submit stopped -- checkpoint.interval=10 distributed.timeout=10)
      wait_until 60 '(($(lines stopped) > 40))' || continue
      kill -STOP "$(ranks | sed -n 's/longhaul2 //p' | head -n 1)"
      wait_until 60 'grep -q "missing: rank 1 (host longhaul2" "$work/stopped.log"'
      wait_until 60 'grep -q "code 86" "$work/stopped.log"'
      wait_until 60 'grep -q "resuming from step" "$work/stopped.log"'
      scancel "$job"
      ;;
    sockets) # no MPI: told to stop, then a rank dies; the script goes on both times
      export TRANSPORT=sockets MASTER_ADDR=10.99.0.1  # these nodes have no names that resolve
      job=$(submit sockets -- checkpoint.interval=10)
      unset TRANSPORT MASTER_ADDR
      wait_until 60 '(($(lines sockets) > 40))' || continue
      scancel --signal=USR1 "$job"
      wait_until 30 'grep -q "stopped by SIGUSR1" "$work/sockets.log"' && saved sockets
      stopped=$(last_step sockets)
      wait_until 90 '(($(lines sockets) > stopped + 20))'
      grep -q "resuming from step $stopped " "$work/sockets.log" || fail "sockets: not resumed from step $stopped"
      kill -9 "$(ranks | sed -n 's/longhaul2 //p' | head -n 1)"
      wait_until 60 'grep -q "try 1 of 3" "$work/sockets.log"'
      wait_until 60 '[[ $(grep -c "resuming from step" "$work/sockets.log") -ge 2 ]]'
      grep -q "is gone, without a word" "$work/sockets.log" || fail "sockets: nobody named the rank that was killed"
      scancel "$job"
      ;;
    node) # a node loses power: Slurm takes the job back, and starts it when it can
      job=$(submit node -- checkpoint.interval=10)
      wait_until 60 '(($(lines node) > 40))' || continue
      "$here/cluster.sh" fail "$work/slurm" longhaul2
      wait_until 90 '[[ $(state "$job") == PENDING || $(restarts "$job") -ge 1 ]]'
      "$here/cluster.sh" node "$work/slurm" longhaul2
      wait_until 200 'grep -q "resuming from step" "$work/node.log"'
      scancel "$job"
      ;;
    second) # the same run twice: the second is refused with the first's job
      job=$(submit second --)
      wait_until 60 '(($(lines second) > 20))' || continue
      other=$(sbatch --parsable --output="$work/other.log" --nodes=1 --ntasks=1 --overcommit \
        "$source/configs/slurm/quickstart.sbatch" e.yaml job.folder=runs/second)
      wait_until 60 'grep -q "in use by .*job $job" "$work/other.log"'
      scancel "$job" "$other"
      ;;
    *) fail "no scenario $scenario" ;;
  esac
  # Again and again: a job that was just queuing itself anew is not reached by one.
  wait_until 60 '[[ -z $(squeue -h) ]] || { scancel "$job"; false; }'
  echo "$scenario: $((SECONDS - begin)) s"
done
((failures == 0)) || { tail -n 30 "$work"/*.log; exit 1; }
echo "all scenarios passed"
