#!/usr/bin/env bash
# Holds liblonghaul_cuda.so to what it must contain: code for sm_80 and sm_90a, for sm_100 where this nvcc knows it, and PTX
# for later GPUs, of every source file that has kernels. Arguments: nvcc, the library, the folder of its objects. cuobjdump
# says what is in the library; where the toolkit has none, ptxas' reports beside the objects (check_ptxas.sh) say what they
# were compiled for, but not the PTX. Without arguments it prints why nothing is checked, and exits with status 77.
set -euo pipefail
if (($# < 3)); then
  echo "not run: this build has no device kernels, because it found no nvcc"
  exit 77
fi
nvcc=$1 library=$2 objects=$3
die() {
  echo "$*"
  exit 1
}
cuobjdump=$(dirname "$nvcc")/cuobjdump
[[ -x $cuobjdump ]] || cuobjdump=$(command -v cuobjdump || true)

tally() { sort | uniq -c | awk '{ print $2 "=" $1 }'; }
of() { sed -n "s/^$1=//p" <<<"$2"; }
if [[ -n $cuobjdump ]]; then
  # Lines like `ELF file    1: liblonghaul_cuda.1.sm_80.cubin`, one for each source file and architecture.
  list() { "$cuobjdump" "--list-$1" "$library" | sed -n 's/^.* file .*\.\(sm_[0-9a-z]*\)\.[a-z]*$/\1/p' | tally; }
  code=$(list elf) ptx=$(list ptx)
  echo "in the library, by $cuobjdump: code ${code//$'\n'/ }; PTX ${ptx//$'\n'/ }"
else
  code=$(find "$objects" -name '*.cu.o.ptxas' -print0 |
    xargs -0 -n 1 sh -c "sed -n \"s/.*Compiling entry function.*for '\\(sm_[0-9a-z]*\\)'.*/\\1/p\" \"\$0\" | sort -u" | tally)
  echo "no cuobjdump here; in the objects, by ptxas' reports: code ${code//$'\n'/ }"
fi
portable=$(of sm_80 "$code")
[[ -n $portable ]] || die "no code for sm_80"
# The Hopper kernels are one more file for sm_90a, and nowhere else.
[[ $(of sm_90a "$code") == $((portable + 1)) ]] || die "sm_90a: not $((portable + 1)) files"
[[ -z $cuobjdump || $(of sm_80 "$ptx") == "$portable" ]] || die "PTX of sm_80: not of $portable files"
if "$nvcc" --list-gpu-code | grep -qx sm_100; then
  [[ $(of sm_100 "$code") == "$portable" ]] || die "sm_100: not $portable files"
else
  echo "$nvcc does not know sm_100: no code for it"
fi
