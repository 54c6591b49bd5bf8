# shellcheck shell=bash
# What train.sh, test.sh and .ci/run share: installing what is missing, and building. Sourced, after `set -euo pipefail`,
# from anywhere; sets `root`, the source folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '== %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The packages of a list, without its comments.
packages_of() { sed -E 's/#.*//; s/[[:space:]]+//g; /^$/d' "$1"; }

is_rhel() { grep -qE '^(ID|ID_LIKE)=.*(rhel|fedora|centos)' /etc/os-release 2>/dev/null; }
is_debian() { grep -qE '^(ID|ID_LIKE)=.*(debian|ubuntu)' /etc/os-release 2>/dev/null && command -v apt-get >/dev/null; }

# install_missing PACKAGE...: installs with apt those that dpkg does not have. Asks nothing.
install_missing() {
  local package missing=() as_root=()
  if ! is_debian; then
    if is_rhel; then
      say "This is not Debian, so nothing is installed. Needed (scripts/packages-rhel.txt; with EPEL and CRB):"
      say "dnf install $(packages_of "$root/scripts/packages-rhel.txt" | tr '\n' ' ')"
    else
      say "This is not Debian, so nothing is installed. Needed, by their Debian names:"
      printf '   %s\n' "$@" >&2
    fi
    die "install your system's packages for these, then run this script again with --no-install"
  fi
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "All $# packages needed are installed"
    return
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "not root and no sudo; as root run: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "Installing ${#missing[@]} packages with apt-get: ${missing[*]}"
  local environment=(env DEBIAN_FRONTEND=noninteractive)
  "${as_root[@]}" "${environment[@]}" apt-get update -q >&2
  "${as_root[@]}" "${environment[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# install_packages [PACKAGE...]: what training needs, and those named. install_test_packages: what tests need as well.
install_packages() {
  local packages
  mapfile -t packages < <(packages_of "$root/scripts/packages.txt")
  install_missing "${packages[@]}" "$@"
}
install_test_packages() {
  local packages
  mapfile -t packages < <(packages_of "$root/scripts/packages-test.txt")
  install_packages "${packages[@]}" "$@"
}

# build PRESET [TARGET...]: configures and builds; the whole output only when something fails.
build() {
  local preset=$1 log target=()
  shift
  (($# == 0)) || target=(--target "$@")
  say "Building preset $preset${*:+: $*} (the first build takes minutes)"
  log=$(mktemp)
  if ! (cd "$root" && cmake --preset "$preset" >"$log" 2>&1); then
    cat "$log" >&2
    rm -f "$log"
    die "cmake --preset $preset failed"
  fi
  rm -f "$log"
  (cd "$root" && cmake --build --preset "$preset" -j "$(nproc)" "${target[@]}") >&2
}
