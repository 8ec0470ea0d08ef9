#!/usr/bin/env bash
# Checks everything: ruff, mypy, then the tests. Arguments go to pytest: launch/test.sh -k genotype; --long adds the slow
# tests, which are run before a release.
# A failing check does not keep the later ones from running; the exit code tells whether all passed.
set -uo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
install_requirements requirements.txt tests/requirements.txt || exit
cd "$root" || exit

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Compiling is most of the time; what is compiled is kept for the next run, which does not need it to be there.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/bnas_jax/tests}

failed=()
check() {
    say "python -m $*"
    "$python" -m "$@" || failed+=("$*")
}
check ruff check .
check ruff format --check .
check mypy
# Far more workers than this only compile the same things at the same time.
check pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal "$@"

if ((${#failed[@]})); then
    printf 'Failed: python -m %s\n' "${failed[@]}" >&2
    exit 1
fi
