#!/usr/bin/env bash
# Brings a fresh Debian 12 with Python 3.11 to where the project builds: Debian packages, .venv, pinned Python packages.
#   scripts/setup.sh [lint|test|bench|docs]   lint: also the Debian packages that only `make lint`, `tidy` and `format` need
#                                        test: also those that only `make test` and `test-report` need
#                                        bench: also the programs that `make bench` measures us against
#                                        docs: also what `make docs` builds the site with
# Free when nothing changed: each stage is skipped while the hash of its inputs equals its stamp under .venv/.stamps.
source "$(dirname "$0")/common.sh"
group=${1:-build}
case $group in build | lint | test | bench | docs) ;; *) die "usage: scripts/setup.sh [lint|test|bench|docs]" ;; esac
lock

# --- Debian packages -----------------------------------------------------------------------------------------------
packages=$(awk -v also="$group" '!/^#/ && NF && ($2 == "build" || $2 == also) {print $1}' scripts/debian-packages.txt)
# A package may come in another's: Node.js from elsewhere brings its own npm, and conflicts with Debian's.
missing_packages() {
  local name provided
  provided=$(dpkg-query -W -f='${db:Status-Status} ${Provides}\n' | sed -n 's/^installed //p' | tr ',' '\n' | sed -E 's/^ *//; s/ .*//')
  for name in $packages; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || grep -qx -- "$name" <<<"$provided" || echo "$name"
  done
}
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null; }
install_debian() { apt update && apt install --no-install-recommends "$@"; }

if command -v dpkg-query >/dev/null; then
  missing=$(missing_packages)
  if [[ -n $missing ]]; then
    as_root=()
    if ((EUID != 0)); then
      command -v sudo >/dev/null || die "these Debian packages are missing, and there is neither root nor sudo to install them:" $missing
      sudo -n true 2>/dev/null || sudo -v || die "sudo was refused; as root: apt-get install" $missing
      as_root=(sudo)
    fi
    stage debian "set-up: installing $(wc -w <<<"$missing") Debian packages" install_debian $missing
  fi
else
  echo "set-up: this is not Debian; the packages of scripts/debian-packages.txt are taken to be there under other names"
fi

# --- .venv ---------------------------------------------------------------------------------------------------------
# A shim or an interpreter without headers would only fail later, far from the reason.
is_usable() {
  "$1" -c '
import ensurepip, os, sys, sysconfig, venv
ok = sys.version_info[:2] == (3, 11) and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
sys.exit(not ok)' >/dev/null 2>&1
}
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3 /usr/bin/python3.11; do
    if is_usable "$candidate"; then
      command -v "$candidate"
      return 0
    fi
  done
  die "no Python 3.11 with venv and headers among python3.11, python3, /usr/bin/python3.11; name one: make PYTHON=/path/to/python3.11"
}
if ! "$VENV_PYTHON" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
  python=$(find_python)
  stage venv "set-up: making .venv with $("$python" --version)" "$python" -m venv --clear "$VENV"
fi

# --- Python packages -----------------------------------------------------------------------------------------------
pip_install() {
  "$VENV_PYTHON" -m pip install --disable-pip-version-check --no-input --progress-bar off --constraint requirements/constraints.txt "$@"
}
python_version=$("$VENV_PYTHON" -c 'import sys; print(sys.version, sys.prefix)')

inputs=$(hash_of requirements/torch.txt "$python_version")
if ! is_stamped torch "$inputs"; then
  stage torch "set-up: installing torch" pip_install -r requirements/torch.txt
  stamp torch "$inputs"
fi

inputs=$(hash_of requirements/torch.txt requirements/python.txt requirements/constraints.txt "$python_version")
if ! is_stamped python "$inputs"; then
  stage python "set-up: installing the other Python packages" pip_install -r requirements/torch.txt -r requirements/python.txt
  stamp python "$inputs"
fi

# Only the library is wanted: llama.cpp's tools, examples, tests and server are off by default when it is built as a part
# of another project, and LLAVA_BUILD=OFF leaves out the image models. No build isolation: the pinned build tools are used.
llama_options="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF"
build_llama() {
  CMAKE_ARGS=$llama_options CMAKE_BUILD_PARALLEL_LEVEL=$JOBS \
    pip_install --verbose --no-build-isolation --no-binary llama-cpp-python "$@" -r requirements/llama.txt
}
inputs=$(hash_of requirements/llama.txt "$llama_options" "$python_version")
if ! is_stamped llama "$inputs"; then
  again=()  # pip takes an installed version as it is; options that changed since our own last build ask for another
  [[ ! -f $STAMPS/llama ]] || again=(--force-reinstall --no-deps --no-cache-dir)
  stage llama "set-up: installing llama-cpp-python (compiling llama.cpp takes some minutes the first time)" build_llama "${again[@]}"
  stamp llama "$inputs"
fi

# Beside the package's own, so that none of them can change a pinned version. The benchmark says which are not there.
inputs=$(hash_of requirements/peers.txt "$python_version")
if [[ $group == bench ]] && ! is_stamped peers "$inputs"; then
  rm -rf "$VENV/peers"
  stage peers "set-up: installing the programs to measure against" pip_install --no-deps --target "$VENV/peers" -r requirements/peers.txt ||
    echo "set-up: they could not be installed; the benchmark goes on without them" >&2
  [[ ! -d $VENV/peers ]] || stamp peers "$inputs"
fi

# Beside them for the same reason.
inputs=$(hash_of requirements/docs.txt "$python_version")
if [[ $group == docs ]] && ! is_stamped docs "$inputs"; then
  rm -rf "$VENV/docs"
  stage docs-packages "set-up: installing what the site is built with" pip_install --no-deps --target "$VENV/docs" -r requirements/docs.txt
  stamp docs "$inputs"
fi
