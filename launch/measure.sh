#!/usr/bin/env bash
# Measures steps of search and training at the paper's sizes on this machine's GPUs or TPUs, one benchmark after the other, the
# most important ones first, and prints a table. Started again, it skips the benchmarks that are done.
# Usage: launch/measure.sh [--dry-run] DIR [--minutes=N] [--repeats=300 --config.KEY=VALUE ...]
# A result is DIR/NAME.json, with its command in DIR/NAME.txt and its log in DIR/NAME.log.
#   --minutes=N   after this time the running benchmark is stopped, and no other one is started
# Other options are passed to every benchmark; results with different options need different DIRs. BNAS_PYTHON=python3 before the
# command uses a Python that already has JAX for the device and the other requirements; then nothing is installed.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# A name, and the arguments of `benchmark`.
short='--config.precision=bfloat16'
shorter="$short --config.activations=bfloat16"
rows=(
    "train-a-256-bfloat16 train --config=configs/train.py:a --config.batch_size=256 $shorter"
    "search-64-bfloat16 search --config=configs/search.py:cifar10 --config.batch_size=64 $short"
    "train-a-256-float32 train --config=configs/train.py:a --config.batch_size=256"
    "search-64-float32 search --config=configs/search.py:cifar10 --config.batch_size=64"
    "search-256-bfloat16 search --config=configs/search.py:cifar10 --config.batch_size=256 $short"
    "train-a-64-bfloat16 train --config=configs/train.py:a --config.batch_size=64 $shorter"
    "search-256-float32 search --config=configs/search.py:cifar10 --config.batch_size=256"
    "train-a-64-float32 train --config=configs/train.py:a --config.batch_size=64"
)

usage="write launch/measure.sh [--dry-run] DIR [--minutes=N] [--repeats=300 ...]; see the head of $0"
dry_run='' minutes='' folder='' further=()
for word in "$@"; do
    case $word in
        --dry-run) dry_run=1 ;;
        --minutes=*) minutes=${word#*=} ;;
        --config.batch_size=* | --config.precision=* | --config.activations=*)
            refuse "the benchmarks differ in ${word%%=*}; write python -m bnas_jax benchmark to measure another one"
            ;;
        -*) further+=("$word") ;;
        *)
            [[ -z $folder ]] || refuse "one DIR is enough, got $folder and $word; options are written --name=value"
            folder=$word
            ;;
    esac
done
[[ -z $minutes || $minutes =~ ^(0|[1-9][0-9]*)$ ]] || refuse "--minutes=$minutes is not a whole number; write for instance --minutes=30"
[[ -n $folder ]] || refuse "$usage"
[[ $folder == /* ]] || folder=$PWD/$folder

cd "$root"
if [[ -n $dry_run ]]; then
    python=${BNAS_PYTHON:-$python}
else
    choose_python
    platform=$("$python" -c 'import jax; print(jax.default_backend())') || exit
    [[ $platform != cpu || ${JAX_PLATFORMS-} == cpu ]] ||
        refuse "JAX finds no GPU or TPU here; see docs/devices.md, or write JAX_PLATFORMS=cpu in front to measure the CPU"
    mkdir -p "$folder"
fi

# A signal also ends the running benchmark: with `set -m`, it and its `timeout` are a process group, which is killed as one.
set -m
stop() {
    local group
    group=$(jobs -p)
    [[ -z $group ]] || kill -- "-$group" 2>/dev/null || true
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM

failed=() missing=0
for row in "${rows[@]}"; do
    read -r name options <<<"$row"
    read -ra options <<<"$options"
    words=(benchmark "${options[@]}" --repeats=300 ${further[@]+"${further[@]}"})
    told=$(quoted "${words[@]}")
    words=("$python" -m bnas_jax "${words[@]}")
    if [[ -s $folder/$name.json ]]; then
        noted "$folder/$name.txt" "$told" ||
            refuse "$folder/$name.json is of $(<"$folder/$name.txt"); write the same options, or another DIR"
        say "$name is done"
        continue
    elif [[ -n $dry_run ]]; then
        quoted "${words[@]}"
        continue
    fi
    # For `timeout`, 0 seconds mean no limit.
    seconds=0
    if [[ -n $minutes ]]; then
        seconds=$((60 * minutes - SECONDS))
        if ((seconds <= 0)); then
            ((missing += 1))
            continue
        fi
    fi
    say "$name"
    code=0 begun=$SECONDS
    timeout --foreground --kill-after=30 "$seconds" "${words[@]}" >"$folder/$name.part" 2>"$folder/$name.log" &
    wait $! || code=$?
    result=$(tail -n 1 "$folder/$name.part")
    rm -f "$folder/$name.part"
    if [[ $code == 0 && $result == '{'* ]]; then
        # Each file is written completely or not at all. The result comes last, as it marks the benchmark as done.
        note "$folder/$name.txt" "$told"
        note "$folder/$name.json" "$result"
    # Decided by the time: the exit code 137 of `timeout` is also that of a process killed for lack of memory.
    elif [[ -n $minutes ]] && ((SECONDS - begun >= seconds)); then
        ((missing += 1))
    else
        failed+=("$name ($code): $(tail -n 1 "$folder/$name.log")")
    fi
done
[[ -z $dry_run ]] || exit 0
"$python" -m bnas_jax.benchmarks.rows "$folder"
((missing == 0)) || say "$missing of ${#rows[@]} are not measured for lack of time; the same command continues with them"
if ((${#failed[@]})); then
    printf 'Failed, with exit code: %s\n' "${failed[@]}" >&2
    exit 1
fi
