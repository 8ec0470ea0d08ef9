#!/usr/bin/env bash
# Measures steps of search and training at the paper's sizes on this machine's GPUs or TPUs, one benchmark after the other, what
# matters most first, and prints a table. Started again it leaves out what is measured and goes on with the rest.
# Usage: launch/measure.sh [--dry-run] DIR [--minutes=N] [--repeats=100 --config.KEY=VALUE ...]
# Results are DIR/NAME.json, and what a benchmark says meanwhile DIR/NAME.log. --minutes: after so many nothing more is begun, and
# what runs is stopped. Further options go to every benchmark.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# A name, and what is written behind `benchmark`.
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

dry_run='' minutes='' folder='' further=()
for word in "$@"; do
    case $word in
        --dry-run) dry_run=1 ;;
        --minutes=*) minutes=${word#*=} ;;
        -*) further+=("$word") ;;
        *)
            [[ -z $folder ]] || refuse "one DIR is enough, got $folder and $word; options are written --name=value"
            folder=$word
            ;;
    esac
done
[[ -z $minutes || $minutes =~ ^[0-9]+$ ]] || refuse "--minutes=$minutes is no whole number; write for instance --minutes=30"
[[ -n $folder ]] || refuse "write launch/measure.sh [--dry-run] DIR [--minutes=N] [--repeats=100 ...]; see the head of $0"
[[ $folder == /* ]] || folder=$PWD/$folder

if [[ -n $dry_run ]]; then
    python=${BNAS_PYTHON:-$python}
else
    choose_python
    mkdir -p "$folder"
fi
cd "$root"
# Seconds that are left; none means for ever, to `timeout`.
left() { [[ -z $minutes ]] && echo 0 || echo $((60 * minutes - SECONDS)); }

failed=()
for row in "${rows[@]}"; do
    read -r name options <<<"$row"
    read -ra options <<<"$options"
    words=("$python" -m bnas_jax benchmark "${options[@]}" --repeats=100 ${further[@]+"${further[@]}"})
    if [[ -n $dry_run ]]; then
        quoted "${words[@]}"
        continue
    elif [[ -f $folder/$name.json ]]; then
        say "$name is done"
        continue
    fi
    seconds=$(left)
    [[ -z $minutes ]] || ((seconds > 0)) || break
    say "$name"
    code=0
    timeout "$seconds" "${words[@]}" >"$folder/$name.part" 2>"$folder/$name.log" || code=$?
    case $code in
        0) tail -n 1 "$folder/$name.part" >"$folder/$name.json" ;;
        2) # A mistake in the options: all others would end so.
            cat "$folder/$name.log" >&2
            rm -f "$folder/$name.part"
            exit 2
            ;;
        124) say "$name was stopped after --minutes=$minutes" ;;
        130 | 143) exit "$code" ;;
        *) failed+=("$name ($code), see $folder/$name.log") ;;
    esac
    rm -f "$folder/$name.part"
done
[[ -n $dry_run ]] || "$python" -m bnas_jax.benchmarks.rows "$folder"
if ((${#failed[@]})); then
    printf 'Failed, with exit code: %s\n' "${failed[@]}" >&2
    exit 1
fi
