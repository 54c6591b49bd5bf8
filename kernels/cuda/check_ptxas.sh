#!/bin/sh
# A compiler launcher for nvcc (check_ptxas.sh [ccache] nvcc ...): keeps ptxas' report beside the object and fails the
# build when an attention kernel spills registers, when ptxas serialises wgmma (C7510 to C7519), or when it ignores
# setmaxnreg (C7508).
output=
previous=
for argument in "$@"; do
  [ "$previous" = -o ] && output=$argument
  previous=$argument
done
case "$output" in
*.o | *.so | *.obj) ;;
*) exec "$@" ;;
esac
report=$output.ptxas
"$@" >"$report.all" 2>&1
status=$?
grep -E 'ptxas|bytes stack frame|Compiling entry|Used [0-9]+ registers' "$report.all" >"$report"
grep -vE 'ptxas info|bytes stack frame|Used [0-9]+ registers|bytes gmem' "$report.all" >&2
rm -f "$report.all"
[ $status -eq 0 ] || exit $status
awk '
  /Compiling entry function/ { split($0, part, "\047"); name = part[2]; arch = part[4] }
  /bytes spill stores/ {
    for (i = 1; i < NF; i++) if ($(i + 1) == "bytes" && $(i + 2) == "spill") spilled += $i
    if (spilled && name ~ /attention/) { print "spilled registers (" arch "): " name ": " $0; bad = 1 }
    spilled = 0
  }
  /C7508/ { print "setmaxnreg is ignored (" arch "): " name ": " $0; bad = 1 }
  /C751[0-9]/ { print "wgmma is serialised (" arch "): " name ": " $0; bad = 1 }
  END { exit bad }
' "$report" >&2 || {
  echo "check_ptxas: see $report" >&2
  rm -f "$output"
  exit 1
}
