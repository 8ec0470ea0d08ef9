#!/usr/bin/env bash
# Runs ruff, mypy, then the tests. Arguments are passed to pytest, for instance launch/test.sh -k genotype; --long adds the
# slow tests, which are run before a release.
# All checks run, even if one fails; the exit code is 0 if all passed.
set -uo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
install_requirements requirements.txt tests/requirements.txt || exit
cd "$root" || exit

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Python's bytecode is kept, too: the tests start many processes.
unset PYTHONDONTWRITEBYTECODE
# Most of the time is spent on compiling: the compiled programs are kept for the next run.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/bnas_jax/tests}

failed=()
check() {
    say "python -m $*"
    "$python" -m "$@" || failed+=("$*")
}
check ruff check .
check ruff format --check .
check mypy
# More workers would only compile the same programs at the same time.
check pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal "$@"

if ((${#failed[@]})); then
    printf 'Failed: python -m %s\n' "${failed[@]}" >&2
    exit 1
fi
