#!/usr/bin/env bash
# Runs a command of bnas_jax once for each line of a file, one run after the other. Started again, it skips the runs that
# are done.
# Usage: launch/sweep.sh [--dry-run] FILE DIR COMMAND [--config=... --config.KEY=VALUE ...]
# A line of FILE is a name and settings, separated by spaces: the work directory of `seed1 --config.seed=1` is DIR/seed1.
# Quotes and backslashes work as in a shell (--config.dataset.path='/data/my images'), but variables and commands are plain
# text. Empty lines, and lines that begin with #, are skipped.
# DIR/NAME/sweep.txt has the command of a run that is done. If it differs from the command and the line now, the line fails,
# unless one of these has --change: then the run is done again.
# Runs that fail are listed at the end; they do not stop the others.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

dry_run=''
if [[ ${1-} == --dry-run ]]; then
    dry_run=1
    shift
fi
(($# >= 3)) || refuse "write launch/sweep.sh [--dry-run] FILE DIR COMMAND [--config=...]; see the head of $0"
file=$1 folder=$2
shift 2
[[ -r $file ]] || refuse "cannot read the file of runs $file"
[[ $folder == /* ]] || folder=$PWD/$folder

# Splits a line into words, and prints one word per line. Any Python can do this: without an environment, take the one that
# would make it.
parser=${BNAS_PYTHON:-$python}
runs "$parser" || parser=$(find_python) || exit
words_of() {
    "$parser" - "$1" <<'PYTHON'
import os
import shlex
import sys

try:
    words = shlex.split(sys.argv[1])
except ValueError:
    sys.exit(1)
sys.stdout.buffer.write(os.fsencode("\n".join(words)))
PYTHON
}

names=() settings=()
while read -r name rest || [[ -n $name ]]; do
    [[ -z $name || $name == \#* ]] && continue
    [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || refuse "a line of $file must begin with a name of letters and digits, got $name"
    [[ " ${names[*]-} " != *" $name "* ]] || refuse "$file names $name twice"
    words=$(words_of "$rest") || refuse "$file: a quote in the line of $name is not closed; quote values as in a shell"
    names+=("$name")
    settings+=("$words")
done <"$file"

if [[ -n $dry_run ]]; then
    python=${BNAS_PYTHON:-$python}
else
    choose_python
    mkdir -p "$folder"
fi
cd "$root"
failed=()
for ((i = 0; i < ${#names[@]}; i++)); do
    name=${names[i]}
    own=()
    while IFS= read -r word; do
        [[ -z $word ]] || own+=("$word")
    done <<<"${settings[i]}"
    words=("$python" -m bnas_jax "$@" ${own[@]+"${own[@]}"} "--workdir=$folder/$name")
    # --change is not part of the command that is compared.
    told="$(quoted "$@" ${own[@]+"${own[@]}"}) "
    told=${told/ --change / }
    result=$folder/$name/summary.json beside=$folder/$name/sweep.txt
    if [[ -f $result && " ${words[*]} " != *' --change '* ]]; then
        if noted "$beside" "${told% }"; then
            say "$name is done"
        else
            fail "$name is done, but by $(<"$beside"); write another name for its line in $file, or add --change to it" ||
                failed+=("$name ($?)")
        fi
    elif [[ -n $dry_run ]]; then
        quoted "${words[@]}"
    else
        say "$name ($((i + 1)) of ${#names[@]})"
        code=0
        "${words[@]}" || code=$?
        case $code in
            0) [[ ! -f $result ]] || note "$beside" "${told% }" ;;
            130 | 143) exit "$code" ;;
            *) failed+=("$name ($code)") ;;
        esac
    fi
done
if ((${#failed[@]})); then
    say "Failed, with exit code: ${failed[*]}"
    exit 1
fi
