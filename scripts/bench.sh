#!/usr/bin/env bash
# Runs every benchmark and writes what they print, with the machine and each command, to bench/RESULTS.md.
#   ROUNDS=N   how often each figure is measured (default 9)
source "$(dirname "$0")/common.sh"
BUILD=build/release
rounds=${ROUNDS:-9}
[[ -x $BUILD/bench/diff_bench ]] || die "no benchmark in $BUILD/bench: make bench builds them"

cache_value() { sed -nE "s/^$1:[A-Z]+=//p" "$BUILD/CMakeCache.txt" | tail -n 1; }
results=$LOGS/RESULTS.md.new
{
  echo "# Results"
  echo
  echo "Written by \`make bench\`. CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $JOBS cores in use;" \
    "compiler: $($(cache_value CMAKE_CXX_COMPILER) --version | head -n 1);" \
    "flags: \`$(cache_value CMAKE_CXX_FLAGS_RELEASE) -ffp-contract=off\`; load before the start: $(cut -d' ' -f1 /proc/loadavg)."
} | tee "$results"

# part TITLE COMMAND...: a section with the command and what it prints. A figure that could not be taken stops the run.
part() {
  local title=$1
  shift
  { printf '\n## %s\n\n`%s`\n\n' "$title" "$*" && "$@"; } 2>&1 | redact | tee -a "$results"
}
part "Comparing, beside only reading the same bytes" "$BUILD/bench/diff_bench" --repetitions $((3 * rounds))
part "Comparing, beside what people use" "$VENV_PYTHON" bench/peers.py --rounds "$rounds"
part "Recording, from C" "$BUILD/bench/capture_bench" --repetitions "$rounds"
part "Recording a forward pass, beside what people use" "$VENV_PYTHON" bench/overhead.py --rounds "$rounds"
part "Diagnosing a model of 1.1 billion weights" "$VENV_PYTHON" bench/diagnose_bench.py --rounds $((rounds < 3 ? rounds : 3))

mv "$results" bench/RESULTS.md
echo
echo "written: bench/RESULTS.md"
