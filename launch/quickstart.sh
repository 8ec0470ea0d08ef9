#!/usr/bin/env bash
# Runs the whole method on the handwritten digits that come with the package: searches a cell, trains a network of it,
# evaluates the network's checkpoint and counts its cost. It takes a few minutes on 2 cores.
# Usage: launch/quickstart.sh [FOLDER] (default: runs/quickstart in the repository). Run again, it continues where it stopped.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
[[ $# -le 1 && ${1-} != -* ]] || refuse "launch/quickstart.sh takes one folder and no options, got $*; write for instance" \
    "launch/quickstart.sh runs/quickstart"
out=${1:-$root/runs/quickstart}
[[ $out == /* ]] || out=$PWD/$out
started=$SECONDS
install_requirements requirements.txt
mkdir -p "$out"
cd "$root"
seconds=(install=$((SECONDS - started)))

# The last line that a command prints is one JSON object; the summary below reads it.
step() {
    local started=$SECONDS
    say "python -m bnas_jax $*"
    "$python" -m bnas_jax "$@" >"$out/$1.out"
    seconds+=("$1=$((SECONDS - started))")
}
network=(--config=configs/train.py:digits "--config.network.genotype=$out/search/genotype.json")
step search --config=configs/search.py:digits "--workdir=$out/search"
step train "${network[@]}" "--workdir=$out/train"
step evaluate "--workdir=$out/train"
step cost "${network[@]}"

"$python" - "$out" "${seconds[@]}" <<'EOF_PYTHON'
import json
import pathlib
import sys

out, seconds = pathlib.Path(sys.argv[1]), sys.argv[2:]
result = {name: json.loads((out / f"{name}.out").read_text().splitlines()[-1]) for name in ("search", "evaluate", "cost")}
genotype = json.loads((out / "search" / "genotype.json").read_text())
evaluation, cost = result["evaluate"], result["cost"]


def sum_of(pairs):
    return " + ".join(f"{layer}({source})" for layer, source in pairs)


print("\nThe cell that the search found. States 0 and 1 are its inputs; its output concatenates nodes 2 to 5.")
for name in ("normal", "reduce"):
    print(f"  {name}")
    for node in range(4):
        print(f"    {2 + node} = {sum_of(genotype[name][2 * node : 2 * node + 2])}")
if (out / "search" / "cell.svg").is_file():
    print(f"  drawn in {out / 'search' / 'cell.svg'}")
print(f"""
Test accuracy  {evaluation["top1"]:.2f} % of {evaluation["num_examples"]} images
FLOPs          {cost["flops"]:,.0f} ({cost["speedup"]:.1f} times fewer than the same network in float)
Parameters     {cost["params"]:,}
Memory         {cost["memory_bits"] / 8 / 1024:.1f} KiB ({cost["memory_saving"]:.1f} times less than in float)
Seconds        {", ".join(step.replace("=", " ") for step in seconds)}
Everything is in {out}""")
EOF_PYTHON
