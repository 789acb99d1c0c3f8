# shellcheck shell=bash
# What the scripts in ops/ share.  Sourced by each of them, first thing.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/.tools # what ops/setup puts there; ignored by git
# shellcheck disable=SC2034  # for those who source this
CODEX=$TOOLS/bin/codex

# The scripts start what cargo puts into target/, wherever the caller has it put the rest.
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR

# What cargo builds for the tests and for a run under fire, besides the tests: the programs that they start.
# shellcheck disable=SC2034
PROGRAMS=(--features faults --bins --example stand-in-codex --example codex-code-mode-host --example awkward-process --example chaos)

# Seconds after which something that is waited for hangs: far above what it takes on a busy machine.
# shellcheck disable=SC2034
HANGS_AFTER=600

# shellcheck disable=SC2034
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' RESET=$'\e[0m'
else
  BOLD='' DIM='' RED='' GREEN='' RESET=''
fi

heading() { printf '\n%s%s%s\n' "$BOLD" "$*" "$RESET"; }
say() { printf '%s\n' "$*"; }
done_() { printf '%s✓%s %s\n' "$GREEN" "$RESET" "$*"; }
fail() { printf '%s✗%s %s\n' "$RED" "$RESET" "$*" >&2; }
die() {
  fail "$*"
  exit 1
}

# not_checked WHAT: reports something that cannot be checked on this machine; ops/test repeats it beside its result.
not_checked() {
  fail "NOT CHECKED: $*"
  [[ -z ${NOT_CHECKED_LIST:-} ]] || say "$*" >>"$NOT_CHECKED_LIST"
}

# private_home: gives everything that this script starts a HOME in .tools/, so that the caller's is neither read nor written.
# What a machine has configured there for npm, pip and git stays in effect; cargo keeps its own folder, and rustup too.
private_home() {
  local own=${HOME:-} config
  [[ $own != "$TOOLS/home" ]] || return 0
  mkdir -p "$TOOLS/home"
  export HOME=$TOOLS/home
  config=${XDG_CONFIG_HOME:-$own/.config}
  unset XDG_CONFIG_HOME XDG_CACHE_HOME XDG_DATA_HOME XDG_STATE_HOME
  export PYTHONDONTWRITEBYTECODE=1 # a Python may be installed in HOME
  [[ $own ]] || return 0
  export CARGO_HOME=${CARGO_HOME:-$own/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$own/.rustup}
  keep_config npm_config_userconfig "${NPM_CONFIG_USERCONFIG:-$own/.npmrc}"
  keep_config PIP_CONFIG_FILE "$config/pip/pip.conf" "$own/.pip/pip.conf"
  keep_config GIT_CONFIG_GLOBAL "$own/.gitconfig" "$config/git/config"
}

# keep_config VARIABLE FILE…: sets it to the first of the files that exists, unless it is set.
keep_config() {
  local variable=$1 file
  [[ -z ${!variable:-} ]] || return 0
  shift
  for file; do
    if [[ -e $file ]]; then
      export "$variable=$file"
      return
    fi
  done
}

# pip ARGUMENTS…: of the interpreter itself, since pyenv's script in its place changes its own folder after an installation.
pip() {
  local python
  python=$(python3 -c 'import sys; print(sys.executable)') &&
    timeout "$HANGS_AFTER" "$python" -m pip --quiet --disable-pip-version-check "$@"
}

# native_codex FOLDER: the binary of the npm package that is installed there.  The package's own script would leave codex
# running when it is killed; workers run the binary.
native_codex() {
  local native
  native=$(find "$1/node_modules/@openai" -path '*/vendor/*/bin/codex' -type f -perm -u+x -print -quit)
  [[ -n $native ]] || die "the npm package in $1 has no native binary for $(uname -sm)"
  echo "$native"
}

has() { command -v "$1" >/dev/null; }

# The comment at the top of a script is its manual.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

# listening PORT: whether something accepts connections there.
listening() { (exec 9<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_ports N: the first of N free ports in a row, below the range that the kernel hands out itself.
# Each process starts to look somewhere else, so that two that look at the same time don't find the same.
free_ports() {
  local try base port
  for ((try = 0; try < 100; try++)); do
    base=$((10000 + ($$ * 8 + try * 1000) % 22000))
    for ((port = base; port < base + $1; port++)); do
      ! listening "$port" || continue 2
    done
    echo "$base"
    return
  done
  die "found no $1 free ports in a row"
}

# wait_until SECONDS COMMAND…: tries COMMAND until it succeeds; fails when the time is up.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

# end_process PID SECONDS: asks it to end, kills it when it has not after SECONDS.  Only for own children.
end_process() {
  kill -TERM "$1" 2>/dev/null || return 0
  wait_until "$2" process_gone "$1" || kill -KILL "$1" 2>/dev/null || true
}

# or_gone PID COMMAND…: for what is waited for from a process: it does not come any more once that has ended.
or_gone() {
  local pid=$1
  shift
  "$@" || process_gone "$pid"
}

# A child that ended but was not waited for counts as gone.  One with only its first thread ended is a zombie, too, but
# lives: the 20th field of its stat counts its threads.
process_gone() {
  local stat fields
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} == [Xx] || (${fields[0]} == Z && ${fields[17]} -le 1) ]]
}

# Becomes a command that is asked to end when its parent dies, however that happens.
with_parent() { exec setpriv --pdeathsig TERM "$@"; }
