# shellcheck shell=bash
# Sourced by the scripts beside it; sets
#   root    the repository
#   python  the interpreter of a virtual environment in BNAS_VENV (default: .venv in the repository)
#   dry_run empty; a script's --dry-run sets it
# and install_requirements, which makes that environment when it is missing and brings it in line with the requirements
# files it is given. An environment of ours that was cut short is made anew; one that was there before is only added to.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${BNAS_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
python=$venv/bin/python
dry_run=''
# Locked while a script, or what is left of it, installs; the next one waits. Holds "unfinished" or "ready" when the
# environment was made here.
lock=$venv.lock

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "bnas_jax: error: $*"
    return 2
}
# Ends a script over a mistake in how it was called.
refuse() {
    fail "$@"
    exit 2
}

# Refuses what is no whole number from 0 on: the value $2 of the option $1.
check_whole() { [[ $2 =~ ^(0|[1-9][0-9]*)$ ]] || refuse "$1 takes a whole number, got $2"; }

# Writes into the file $1, whole or not at all, the command $2 that a result beside it is of.
note() { printf '%s\n' "$2" >"$1.part" && mv "$1.part" "$1"; }
# Whether the file $1 notes that command. A result without a note is an older version's, and taken as it is.
noted() { [[ ! -e $1 || $(<"$1") == "$2" ]]; }

# Ask the interpreter: a name on the PATH, or a link in an environment, may lead nowhere.
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
        # Only what was made here is made anew: anything else is the user's, such as an environment of another host's Python.
        if [[ ! -s $lock && -n $(ls -A "$venv" 2>/dev/null) ]]; then
            fail "$venv is no virtual environment whose Python runs here;" \
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
        # Where there is no flock, two first runs at the same time are the user's care.
        if command -v flock >/dev/null; then flock 9; fi
        bring_in_line "$@"
    } 9>>"$lock"
}

# The interpreter for the scripts that start runs: BNAS_PYTHON where it is set, as it is, or else the environment above.
choose_python() {
    if [[ -n ${BNAS_PYTHON-} ]]; then
        python=$BNAS_PYTHON
        runs "$python" || fail "BNAS_PYTHON=$python does not run"
    else
        install_requirements requirements.txt
    fi
}

# Compiles the step of a run for a machine before anything is created; a run that does not fit is not started.
# The machine as `plan --on` takes it, then the run's command and options.
plan_first() {
    local word kept='' code=0 words
    if [[ -n $dry_run ]]; then python=${BNAS_PYTHON:-$python}; else choose_python || return; fi
    words=("$python" -m bnas_jax plan "--on=$1")
    # Only what the run's settings come from; a word behind an option may be its value.
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
        0 | 2 | 130) ;; # it fits; the plan has said what to mend; stopped by hand
        1) say "bnas_jax: error: the run does not fit on $1, so nothing was created; write what the plan proposes" ;;
        *) say "bnas_jax: error: the plan for $1 ended with $code, so nothing was created; leave out --plan to go on" ;;
    esac
    return "$code"
}

# Whether a run that ended with this code is to be started again. Not after success, a user's mistake, or a wish to stop.
worth_a_restart() {
    case $1 in
        0 | 2 | 130 | 143) return 1 ;;
        *) return 0 ;;
    esac
}

# One command as it could be typed.
quoted() {
    local words
    printf -v words '%q ' "$@"
    printf '%s\n' "${words% }"
}
