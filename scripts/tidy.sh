#!/usr/bin/env bash
# clang-tidy over the library, the program and the tests, one file a core; findings are errors.
source "$(dirname "$0")/common.sh"
BUILD=build/release
[[ -f $BUILD/compile_commands.json ]] || die "$BUILD/compile_commands.json is missing: make tidy builds first"
mapfile -t files < <(git ls-files 'src/*.cc' 'tests/cpp/*.cc' 'bench/*.cc')
echo "tidy: ${#files[@]} files, $JOBS at a time"
# The build database is g++'s: clang does not know all of its warnings.
printf '%s\n' "${files[@]}" | xargs -P "$JOBS" -n 1 clang-tidy -p "$BUILD" --quiet --extra-arg=-Wno-unknown-warning-option
