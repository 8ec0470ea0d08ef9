# shellcheck shell=bash
# The other scripts of this folder source this file. It sets
#   root     the repository
#   python   the interpreter of the virtual environment BNAS_VENV (default: .venv in the repository)
#   dry_run  empty; a script's --dry-run sets it
# and defines install_requirements, which makes that environment if it does not exist, and installs requirements files
# into it. If an installation that it began was interrupted, it makes the environment again; to an environment that the
# user made, it only adds packages.
# The scripts also run with the Bash of macOS, 3.2: it has no mapfile and no declare -A, and with `set -u` it refuses
# "${words[@]}" if the array is empty.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${BNAS_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
python=$venv/bin/python
dry_run=''
# This file is locked while a script installs; another script waits. If the environment was made here, the file contains
# "unfinished" or "ready".
lock=$venv.lock

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "bnas_jax: error: $*"
    return 2
}
# Ends a script because of a mistake in its arguments.
refuse() {
    fail "$@"
    exit 2
}

# Refuses the value $2 of the option $1 unless it is a whole number, at least 0.
check_whole() { [[ $2 =~ ^(0|[1-9][0-9]*)$ ]] || refuse "$1 takes a whole number, got $2"; }

# Writes the text $2 into the file $1, completely or not at all: the command of a result, or the result.
note() { printf '%s\n' "$2" >"$1.part" && mv "$1.part" "$1"; }
# Whether the file $1 contains the command $2. A result without such a file is of an older version, and is accepted.
noted() { [[ ! -e $1 || $(<"$1") == "$2" ]]; }

# These run the interpreter: a name on the PATH, or a link in an environment, may not lead to one.
runs() { "$1" -c '' 2>/dev/null; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        new_enough "$name" && echo "$name" && return
    done
    fail "found no Python 3.11 or newer as python3, python3.13, python3.12 or python3.11; install one or add it to PATH"
}

mark() { [[ ! -s $lock ]] || echo "$1" >"$lock"; }

make_environment() {
    local base
    if grep -qs unfinished "$lock" || ! runs "$python"; then
        # Never overwrite a folder that was not made here: it may be an environment with another host's Python.
        if [[ ! -s $lock && -n $(ls -A "$venv" 2>/dev/null) ]]; then
            fail "$venv is not a virtual environment whose Python runs here;" \
                "set BNAS_VENV to one, or to a folder that does not exist yet"
            return
        fi
        base=$(find_python) || return
        say "Making the virtual environment $venv"
        echo unfinished >"$lock"
        "$base" -m venv --clear "$venv" || return
    elif ! new_enough "$python"; then
        fail "the environment $venv has a Python older than 3.11; remove it, or set BNAS_VENV to another folder"
        return
    fi
    # Environments made by other tools may come without pip.
    runs_pip || "$python" -m ensurepip >/dev/null
}

runs_pip() { "$python" -m pip --version >/dev/null 2>&1; }

bring_in_line() {
    local file installed
    make_environment || return
    for file in "$@"; do
        installed=$venv/installed-${file//\//-}
        cmp -s "$root/$file" "$installed" && continue
        say "Installing $file"
        mark unfinished
        "$python" -m pip install --quiet --disable-pip-version-check -r "$root/$file" || return
        cp "$root/$file" "$installed"
    done
    mark ready
}

install_requirements() {
    mkdir -p "$(dirname -- "$venv")" || return
    {
        # Without flock, the user must not start two first runs at the same time.
        if command -v flock >/dev/null; then flock 9; fi
        bring_in_line "$@"
    } 9>>"$lock"
}

# Sets the interpreter for the scripts that start runs: BNAS_PYTHON if it is set, and nothing is installed; otherwise that
# of the environment above, with the requirements installed.
choose_python() {
    if [[ -n ${BNAS_PYTHON-} ]]; then
        python=$BNAS_PYTHON
        runs "$python" || fail "BNAS_PYTHON=$python does not run"
    else
        install_requirements requirements.txt
    fi
}

# Compiles the step of a run for a machine, before anything is created; fails for a run that does not fit.
# $1: the machine, as in `plan --on`; then the run's command and options.
plan_first() {
    local word kept='' code=0 words
    if [[ -n $dry_run ]]; then python=${BNAS_PYTHON:-$python}; else choose_python || return; fi
    words=("$python" -m bnas_jax plan "--on=$1")
    # Keep only the options that give the run's settings; the word after an option may be its value.
    for word in "${@:2}"; do
        if [[ $word =~ ^--?(config|noconfig|extensions)([.=]|$) ]]; then
            kept=1
        elif [[ $word =~ ^--?[A-Za-z] ]]; then
            kept=''
        fi
        if [[ -n $kept ]]; then words+=("$word"); fi
    done
    if [[ -n $dry_run ]]; then
        quoted "${words[@]}"
        return
    fi
    say "Planning for $1"
    (cd "$root" && "${words[@]}") || code=$?
    case $code in
        0 | 2 | 130) ;; # it fits; a mistake, which the plan has explained; Ctrl-C
        1) say "bnas_jax: error: the run does not fit on $1, so nothing was created; write what the plan proposes" ;;
        *) say "bnas_jax: error: the plan for $1 ended with $code, so nothing was created;" \
            "leave out --plan to start the run without it" ;;
    esac
    return "$code"
}

# Whether a run that ended with the exit code $1 should be started again: not after success, a user's mistake, Ctrl-C or
# SIGTERM.
worth_a_restart() {
    case $1 in
        0 | 2 | 130 | 143) return 1 ;;
        *) return 0 ;;
    esac
}

# Prints a command as one could type it.
quoted() {
    local words
    printf -v words '%q ' "$@"
    printf '%s\n' "${words% }"
}
