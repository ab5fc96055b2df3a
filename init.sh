#!/usr/bin/env bash
# Set moodreel up and serve it, or test it.
#
#   ./init.sh             serve: in Docker if an engine runs, otherwise in a virtual environment
#   ./init.sh --local     serve from a virtual environment (.venv)
#   ./init.sh --docker    serve from a Docker image
#   ./init.sh setup       only install and make .env, for example for a systemd unit
#   ./init.sh test        set up, run scripts/check, then the whole test suite; further arguments go to pytest
#
# Settings come from the environment, then from .env. If there is no .env, it is made from .env.example.
# Steps that are already done are skipped.
set -euo pipefail
trap 'exit 130' INT  # pip ends by itself at Ctrl-C, and bash would go on with the next command
cd "$(dirname "$0")"

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'init.sh: %s\n' "$*" >&2; exit 1; }

# Debian packages that a slim system lacks: without libgl1 and libglib2.0-0 `import cv2` fails, without libegl1 and
# libgles2 the import of MediaPipe's tasks fails (tests/test_setup.py reads what the libraries link).
SYSTEM_PACKAGES="libgl1 libglib2.0-0 libegl1 libgles2"
CPU_TORCH_INDEX=https://download.pytorch.org/whl/cpu

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "needs root for: $*. Run that as root, then ./init.sh again."
  fi
}

# Install Debian packages. On macOS the wheels contain these libraries.
install_packages() {
  [ "$(uname)" = Darwin ] && return
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || die "install these with your system's package manager: ${missing[*]}"
  say "Installing system packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

find_python() {
  for PYTHON in python3.11 python3; do
    command -v "$PYTHON" >/dev/null && "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' && return
  done
  die "needs Python 3.11. Debian 12: apt-get install python3 python3-venv. macOS: brew install python@3.11."
}

# Install torch first: on Linux, a plain `pip install torch` downloads a CUDA build of several gigabytes. What torch needs
# is in the lock, except for what a CUDA build needs.
install_torch() {
  local torch index pip=(.venv/bin/python -m pip install -q --disable-pip-version-check)
  torch=$(grep '^torch==' requirements.txt)
  index=$(setting TORCH_INDEX_URL)
  if [ -n "$index" ]; then
    "${pip[@]}" --index-url "$index" "$torch"
  elif [ "$(uname)" = Darwin ]; then
    "${pip[@]}" --no-deps "$torch"  # the only build there
  else
    "${pip[@]}" --no-deps "$torch+cpu" 2>/dev/null || "${pip[@]}" --no-deps --index-url "$CPU_TORCH_INDEX" "$torch"
  fi
}

# make_venv REQUIREMENTS: install a requirements file into .venv, unless that was done already.
# Its programs are run by its Python: their own first lines name the folder that they were installed in.
make_venv() {
  local stamp=".venv/.$1.installed" wanted
  wanted=$(cat requirements*.txt | cksum; setting TORCH_INDEX_URL)
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  find_python
  if [ ! -x .venv/bin/pip ]; then
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    say "Making a virtual environment in .venv"
    "$PYTHON" -m venv --clear .venv
  fi
  say "Installing $1 (a few minutes the first time)"
  install_torch
  # Every package at the version and with the hashes of the lock; then what only tests need. They import a small part of
  # that: Python compiles it then.
  .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-lock.txt
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-compile -r "$1"
  printf '%s\n' "$wanted" >"$stamp"
  printf "%s\n" "$wanted" >.venv/.requirements.txt.installed  # every other file includes it
}

make_env_file() {
  [ -f .env ] && return
  say "Making .env with a new API key"
  local key
  key=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
  (umask 077 && sed "s|^API_KEY=.*|API_KEY=$key|" .env.example >.env)
}

# setting NAME [DEFAULT]: print a setting. The environment overrides .env.
setting() {
  local value
  value=${!1-}
  if [ -z "$value" ] && [ -f .env ]; then
    value=$(sed -nE "s/^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=//p" .env | tail -n 1 | tr -d '\r' |
      sed -E -e "s/^[[:space:]]*\"([^\"]*)\".*/\1/" -e t -e "s/^[[:space:]]*'([^']*)'.*/\1/" -e t \
        -e "s/[[:space:]]+(#.*)?$//" -e "s/^[[:space:]]+//")
  fi
  printf '%s' "${value:-${2-}}"
}

# Print a curl command that works in a fresh clone. Its clip is in examples/ (bench/smile.py made it).
print_example() {
  local port key
  port=$(setting PORT 5000) key=$(setting API_KEY)
  say "Try it from another shell, in a few seconds:"
  cat <<EOF

curl -s http://127.0.0.1:$port/predict \\
  -H 'x-api-key: ${key%%,*}' -H "date: \$(date -u +%Y-%m-%dT%H:%M:%SZ)" \\
  -F 'file=@"$PWD/examples/smile.mp4"'

EOF
}

setup() {
  install_packages $SYSTEM_PACKAGES
  make_venv requirements.txt
  make_env_file
}

serve_local() {
  setup
  # Report a wrong setting before the example is printed.
  .venv/bin/python -c 'from api.settings import Settings, SettingsError
try: Settings.from_environment()
except SettingsError as error: raise SystemExit(f"init.sh: {error}")'
  print_example
  say "Serving on $(setting HOST 0.0.0.0):$(setting PORT 5000); Ctrl-C stops"
  exec .venv/bin/python -m gunicorn --config api/gunicorn.conf.py api.wsgi:app
}

serve_docker() {
  make_env_file
  say "Building the image (a few minutes the first time)"
  docker build -q -t moodreel --build-arg TORCH_INDEX_URL="$(setting TORCH_INDEX_URL)" \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || true)" . >/dev/null
  print_example
  local port name value settings=()
  port=$(setting PORT 5000)
  # Not by --env-file: Docker takes quotes and comments for parts of a value.
  local names='s/^[[:space:]]*#? ?(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=.*/\2/p'
  for name in $(sed -nE "$names" .env.example .env | sort -u); do
    value=$(setting "$name")
    [ -n "$value" ] && export "$name=$value" && settings+=(--env "$name")
  done
  say "Serving on port $port; Ctrl-C stops"
  # HOST is an address of this machine. In the container, the service listens on all of its own.
  exec docker run --rm --init --name moodreel -p "$(setting HOST 0.0.0.0):$port:$port" \
    "${settings[@]}" --env HOST=0.0.0.0 \
    --read-only --tmpfs /tmp --shm-size 128m --cap-drop ALL --security-opt no-new-privileges \
    -v moodreel-data:/app/data -v moodreel-logs:/app/logs -v moodreel-models:/app/model_store/downloaded moodreel
}

run_tests() {
  install_packages $SYSTEM_PACKAGES redis-server
  (install_packages postgresql) || say "No PostgreSQL here: the tests of LOG_DATABASE_URL are skipped"
  (install_packages chromium) || say "No Chromium here: the tests of pages are skipped"
  make_venv requirements-dev.txt
  say "Checking format, style, types and imports"
  scripts/check
  say "Running the tests"
  # Two processes share the test files; `./init.sh test -n 0` runs all in one. Two arenas instead of sixteen: glibc keeps
  # a few hundred MB fewer freed pages.
  exec env MALLOC_ARENA_MAX=2 .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
}

case "${1-}" in
  test) shift; run_tests "$@" ;;
  setup) setup ;;
  --local) serve_local ;;
  --docker) docker info >/dev/null 2>&1 || die "no Docker engine answers. Start one, or use --local."; serve_docker ;;
  "") if docker info >/dev/null 2>&1; then serve_docker; else serve_local; fi ;;
  *) sed -n '3,9s/^# \{0,2\}//p' "$0"; exit 2 ;;
esac
