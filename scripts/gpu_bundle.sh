#!/usr/bin/env bash
# Packs what a GPU machine needs to check and measure device kernels and programs into one folder, under 64 MB, that runs on
# Linux x86-64 (glibc 2.34 or later) with an NVIDIA driver, without network:
#   scripts/gpu_bundle.sh [--check] [--kernels] [BUILD_FOLDER] [BUNDLE_FOLDER]      (default: build, build/gpu_bundle)
# The trainer comes from build-lean, where `cmake --preset lean && ninja -C build-lean longhaul` has made one without the
# libraries of CPUs, which alone are larger than that; without it the bundle has kernels only, and says so.
# --kernels leaves it out. --check also runs the bundle's CPU parts from the bundle. Without nvcc the bundle has only those, and says so.
# cuBLASLt and NCCL are the machine's own: they are opened when used, and their rows are left out where they are missing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
check=
kernels=
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit 0
fi
while [[ ${1:-} == --* ]]; do
  case $1 in
    --check) check=yes ;;
    --kernels) kernels=yes ;;
    *) echo "gpu_bundle: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
build=${1:-$root/build}
bundle=${2:-$build/gpu_bundle}

programs=(longhaul_bench_kernels tests/gpu_emulator/test_gpu_emulator tests/gpu_emulator/gpu_conformance
  tests/gpu_emulator/test_cuda_kernels tests/gpu_emulator/liblonghaul_cuda_emulator.so)
device=(kernels/cuda/cuda_conformance kernels/cuda/liblonghaul_cuda.so)

rm -rf "$bundle"
mkdir -p "$bundle/lib"
bundle=$(cd "$bundle" && pwd)
for file in "${programs[@]}"; do
  [[ -e $build/$file ]] || { echo "gpu_bundle: $build/$file is missing: build it first" >&2; exit 1; }
  install -s "$build/$file" "$bundle/"
done
if [[ -e $build/${device[0]} && -e $build/${device[1]} ]]; then
  for file in "${device[@]}"; do install -s "$build/$file" "$bundle/"; done
else
  echo "gpu_bundle: built without nvcc, so this bundle has no device kernels: only its CPU parts will run"
fi
if [[ -z $kernels && -x $root/build-lean/longhaul ]]; then
  install -s "$root/build-lean/longhaul" "$bundle/"
  mkdir -p "$bundle/programs"
  install -m 644 "$root"/benchmarks/gpu/programs/* "$bundle/programs/"
  cat "$root"/docs/*.md >"$bundle/programs/text.txt"
else
  echo "gpu_bundle: no build-lean/longhaul, or not asked for: this bundle has no trainer"
fi
install "$root/scripts/gpu_check.sh" "$root/benchmarks/gpu/sdpa.py" "$root/benchmarks/pytorch_step.py" \
  "$root/tests/golden/token_files.py" "$bundle/"
git -C "$root" rev-parse HEAD >"$bundle/commit" 2>/dev/null || echo unknown >"$bundle/commit"

# Shared libraries that such a machine may lack: all but glibc's own and the driver's.
for file in "$bundle"/*; do
  { ldd "$file" 2>/dev/null || true; } | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libcuda.so.* | ld-linux*) ;;
    *) cp -L "$library" "$bundle/lib/" ;;
  esac
done

kilobytes=$(du -sk "$bundle" | cut -f1)
echo "gpu_bundle: $bundle, $((kilobytes / 1024)) MB of at most 64"
if ((kilobytes > 64 * 1024)); then
  echo "gpu_bundle: more than 64 MB" >&2
  du -ak "$bundle" | sort -n | tail -5 >&2
  exit 1
fi
if [[ -n $check ]]; then
  # As on another machine: no variable of this one, another working folder.
  (cd / && env -i PATH=/usr/bin:/bin HOME=/nonexistent bash "$bundle/gpu_check.sh" --cpu)
fi
