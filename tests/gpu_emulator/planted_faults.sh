#!/usr/bin/env bash
# Plants every defect of faults.h in turn; prints how it was found, and how many of four schedules show it without the race
# detector. Fails when one is not found. Argument: the build folder (default: build).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
exec "${1:-$root/build}/tests/gpu_emulator/test_gpu_emulator" "how planted faults are found*"
