#!/usr/bin/env bash
# Builds the project after scripts/setup.sh.
#   scripts/build.sh package     the program, the extension module and the Python package, installed: .venv/bin/paritrace
#   scripts/build.sh all         that, and the C++ tests and benchmarks
#   scripts/build.sh wheel [DIR] the package as a wheel, in dist/ or DIR
# pip and CMake share one build folder, that of the preset `release`: the library is compiled once for both.
source "$(dirname "$0")/common.sh"
what=${1:-package}
case $what in package | all | wheel) ;; *) die "usage: scripts/build.sh [package|all|wheel [DIR]]" ;; esac
[[ -x $VENV_PYTHON ]] || die "there is no .venv yet: run scripts/setup.sh, or make build"
# The page of --html. The C++ build takes it where it is there, and needs no Node.js itself.
if [[ ! -e .git && -f report/dist/report.html ]]; then
  : # a source archive brings it
elif command -v npm >/dev/null; then
  scripts/report.sh || echo "build: going on without the HTML report: --html writes plain pages" >&2
else
  echo "build: there is no npm: --html writes plain pages"
fi
lock

BUILD=${PARITRACE_BUILD:-build/release}
! command -v ccache >/dev/null || export CMAKE_CXX_COMPILER_LAUNCHER=ccache
export CMAKE_BUILD_PARALLEL_LEVEL=$JOBS

# run_pip install|wheel OPTIONS...; no dependencies: set-up has installed the pinned ones.
run_pip() {
  "$VENV_PYTHON" -m pip "$@" --disable-pip-version-check --no-input --no-index --no-deps --no-build-isolation --verbose \
    --config-settings=build-dir="$BUILD" \
    --config-settings=build.targets="paritrace;_core;paritrace_capture" \
    --config-settings=cmake.build-type=Release \
    --config-settings=cmake.define.PARITRACE_PYTHON=ON \
    --config-settings=cmake.define.PARITRACE_TESTS=ON \
    --config-settings=cmake.define.PARITRACE_BENCH=ON \
    .
}

if [[ $what == wheel ]]; then
  folder=${2:-dist}
  stage wheel "build: packing the wheel" run_pip wheel --wheel-dir "$folder"
  ls "$folder"/paritrace-*.whl
  exit
fi

# Tests and benchmarks are configured in the same folder but are not in the package.
package_files() {
  find CMakeLists.txt pyproject.toml README.md LICENSE cmake src include python rules share report/dist -type f -not -path '*/__pycache__/*' 2>/dev/null | LC_ALL=C sort
}
mapfile -t files < <(package_files)
inputs=$(hash_of "$(printf '%s\n' "${files[@]}")" "${files[@]}" requirements/python.txt)
if ! is_stamped package "$inputs" || [[ ! -x $VENV/bin/paritrace || ! -f $BUILD/CMakeCache.txt || ! -f $BUILD/libparitrace.so ]]; then
  stage package "build: compiling and installing paritrace" run_pip install
  stamp package "$inputs"
fi
if [[ $what == all ]]; then
  stage tests "build: compiling the C++ tests and benchmarks" cmake --build "$BUILD"
fi
