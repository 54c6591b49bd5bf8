#!/usr/bin/env bash
# Fuzzes every parser: scripts/fuzz.sh [SECONDS [TARGET...]]. SECONDS (default 60) for each target, as many at once as
# there are cores. Inputs that reach something new stay in build-asan/corpus; a finding ends the script with the input's
# name, and `build-asan/fuzz_TARGET FILE` repeats it. Preset asan: clang with libFuzzer (Debian: clang,
# libclang-rt-14-dev, libomp-dev).
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
seconds=${1:-60}
shift || true
command -v clang++ >/dev/null || die "clang++ is missing"
build=$root/build-asan
targets=("$@")
if ((${#targets[@]} == 0)); then
  for file in "$root"/tests/fuzz/*.cpp; do targets+=("$(basename "$file" .cpp)"); done
fi
build asan "${targets[@]/#/fuzz_}"

run() {
  local target=$1 corpus=$build/corpus/$1 log=$build/$1.log
  mkdir -p "$corpus" "$build/findings"
  # Leaks are looked for at the end only: at every input it halves the speed.
  if "$build/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 -max_len=65536 -verbosity=1 \
    -print_final_stats=1 -artifact_prefix="$build/findings/$target-" "$corpus" "$root/tests/fuzz/corpus/$target" \
    >"$log" 2>&1; then
    printf '%-12s %s executions\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  else
    tail -n 60 "$log"
    printf '%-12s FAILED, see %s\n' "$target" "$log"
    return 1
  fi
}
export -f run
export build root seconds
export UBSAN_OPTIONS=print_stacktrace=1
printf '%s\n' "${targets[@]}" | xargs -P "${JOBS:-$(nproc)}" -I{} bash -c 'run {}'
