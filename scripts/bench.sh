#!/usr/bin/env bash
# Runs every benchmark of build/release/bench: median and spread over repetitions, beside the machine and the flags.
source "$(dirname "$0")/common.sh"
BUILD=build/release
repetitions=${REPETITIONS:-5}

mapfile -t programs < <(find "$BUILD/bench" -maxdepth 1 -type f -executable -name '*_bench' 2>/dev/null | LC_ALL=C sort)
((${#programs[@]} > 0)) || die "no benchmark in $BUILD/bench: make bench builds them"

cache_value() { sed -nE "s/^$1:[A-Z]+=//p" "$BUILD/CMakeCache.txt" | tail -n 1; }
echo "cpu:      $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $JOBS core(s) in use"
echo "compiler: $($(cache_value CMAKE_CXX_COMPILER) --version | head -n 1)"
echo "flags:    $(cache_value CMAKE_CXX_FLAGS_RELEASE) -ffp-contract=off ($(cache_value CMAKE_BUILD_TYPE))"
for program in "${programs[@]}"; do
  arguments=(--benchmark_repetitions="$repetitions" --benchmark_report_aggregates_only=true)
  echo
  echo "\$ $program ${arguments[*]}"
  output=$LOGS/$(basename "$program").txt
  "$program" "${arguments[@]}" 2>&1 | tee "$output"
  # A benchmark that disagrees with its reference reports an error and still exits 0.
  ! grep -q 'ERROR OCCURRED' "$output" || die "$program: a benchmark stopped with an error, see above"
done
