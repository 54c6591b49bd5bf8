#!/usr/bin/env bash
# Installs what is missing (Debian), builds preset release and runs all tests. Arguments go to ctest:
#   scripts/test.sh                 everything
#   scripts/test.sh -L unit         one label: unit, threads, mpi, golden
#   scripts/test.sh -R test_ops     programs by name
# --no-install, first, installs nothing.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit 0
fi
if [[ ${1:-} == --no-install ]]; then
  shift
  say "Installing nothing (--no-install)"
else
  install_test_packages
fi
build release
say "Testing"
log=$root/build/ctest.log
status=0
ctest --test-dir "$root/build" --output-on-failure --no-tests=error -j "$(nproc)" "$@" 2>&1 | tee "$log" || status=$?
say "ctest's closing lines (all of it: $log)"
sed -n '/tests passed/,$p' "$log"
exit "$status"
