#!/usr/bin/env bash
# From a fresh clone to a trained model. Installs what is missing (Debian), builds, and trains an experiment on ranks that
# are processes under mpirun (threads of one process where there is no MPI).
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TXT'
usage: scripts/train.sh [-n RANKS] [--no-install] [EXPERIMENT] [section.key=value ...]

  EXPERIMENT      an experiment file (docs/experiment.md); default configs/quickstart.yaml, a model of about a million
                  parameters that learns the King James Bible byte by byte in a few minutes on two cores
  key=value       override keys of the experiment, for example training.steps=50
  -n RANKS        how many ranks (default 2)
  --no-install    install nothing: use the libraries that are there

Running it again resumes from the newest checkpoint, or says that the run is finished.
TXT
}

ranks=2
install=yes
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    -n)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "-n needs a number of ranks"
      ranks=$2
      shift 2
      ;;
    --no-install) install=no; shift ;;
    *) break ;;
  esac
done
quickstart=$root/configs/quickstart.yaml
experiment=$quickstart
if (($#)) && [[ $1 != *=* ]]; then
  experiment=$1
  shift
fi
for argument in "$@"; do
  [[ $argument == *=* ]] || die "'$argument' is neither the experiment (which comes first) nor key=value; see --help"
done
[[ -f $experiment ]] || die "no such experiment file: $experiment"

# Writes the quickstart's two data files from what bible-kjv prints: the first nine tenths and the last tenth.
make_quickstart_data() {
  local train=$root/data/kjv-train.txt validation=$root/data/kjv-validation.txt text size cut
  if [[ -s $train && -s $validation ]]; then
    say "Data: $train and $validation are there"
    return
  fi
  command -v bible >/dev/null || die "the program 'bible' (Debian package bible-kjv) is missing"
  mkdir -p "$root/data"
  text=$root/data/.kjv.$$
  bible gen1:1-rev22:21 >"$text" || die "bible gen1:1-rev22:21 failed"
  size=$(stat -c %s "$text")
  ((size >= 2000000)) || die "bible printed only $size bytes; at least 2000000 were expected"
  cut=$((size * 9 / 10))
  head -c "$cut" "$text" >"$text.train"
  tail -c "+$((cut + 1))" "$text" >"$text.validation"
  mv "$text.train" "$train"
  mv "$text.validation" "$validation"
  rm -f "$text"
  say "Data: $size bytes of the King James Bible, the first nine tenths to train on, the last tenth to validate"
}

# The run must end below what nothing that sees one byte can reach.
check_quickstart() {
  local metrics=$root/runs/quickstart/metrics.jsonl loss
  loss=$(tail -n 1 "$metrics" | sed -n 's/.*"validation_loss": *\([-+0-9.eE]*\).*/\1/p')
  [[ -n $loss ]] || die "the last line of $metrics holds no validation_loss"
  if awk -v loss="$loss" -v entropy="$1" 'BEGIN { exit !(loss < entropy) }'; then
    say "OK: final validation loss $loss nats a byte, below the byte pairs' $1"
  else
    die "final validation loss $loss is not below $1, the entropy of byte pairs: the model learned nothing from context"
  fi
}

if [[ $install == yes ]]; then install_packages; else say "Installing nothing (--no-install)"; fi
build release longhaul

entropy=
if [[ $(realpath "$experiment") == "$(realpath "$quickstart")" ]]; then
  make_quickstart_data
  entropy=$("$root/scripts/byte_pair_entropy.sh" "$root/data/kjv-validation.txt")
  say "H(next byte | byte) of the validation text: $entropy nats, counted on that text; the model must end below it"
fi

program=$root/build/longhaul
if command -v mpirun >/dev/null && [[ $("$program" --version) == *" mpi"* ]]; then
  # --bind-to none: Open MPI would pin all threads of each of two ranks to one core.
  launch=(mpirun --oversubscribe --bind-to none -n "$ranks")
  ((EUID != 0)) || launch+=(--allow-run-as-root)
  launch+=("$program" train "$experiment" "$@")
else
  say "No MPI: ranks are threads of one process"
  launch=("$program" train "$experiment" --ranks "$ranks" "$@")
fi
say "Running: ${launch[*]}"
SECONDS=0
"${launch[@]}"
say "Trained in $SECONDS s"
if [[ -n $entropy ]]; then
  if (($#)); then
    say "Keys were overridden: the final loss is not compared with the entropy"
  else
    check_quickstart "$entropy"
  fi
fi
