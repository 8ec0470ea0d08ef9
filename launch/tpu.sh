# shellcheck shell=bash disable=SC2034,SC2154  # what is set here is used by the scripts, and the other way round
# tpu_vm.sh and gke.sh source this file, after environment.sh: the types of TPU, and how the code is copied and installed.

# A type is a generation and a number: v4-32 has 32 cores, v6e-8 has 8 chips. docs/devices.md names the sources. The columns:
# generation, how much a chip adds to the number, Cloud TPU's software, GKE's accelerator, dimensions of the torus of links
tpu_generations='
v2         2  tpu-ubuntu2204-base  -                     2d
v3         2  tpu-ubuntu2204-base  -                     2d
v4         2  tpu-ubuntu2204-base  tpu-v4-podslice       3d
v5litepod  1  v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  2d
v5p        2  v2-alpha-tpuv5       tpu-v5p-slice         3d
v6e        1  v2-alpha-tpuv6e      tpu-v6e-slice         2d
tpu7x      2  -                    tpu7x                 3d
'
# chips  topology in 2d  in 3d
tpu_topologies='
1     1x1    -
4     2x2    2x2x1
8     2x4    2x2x2
16    4x4    2x2x4
32    4x8    2x4x4
64    8x8    4x4x4
128   8x16   4x4x8
256   16x16  4x8x8
512   -      8x8x8
1024  -      8x8x16
2048  -      8x16x16
'

# Sets the entries of the table for the type $1 (cores, software, accelerator, links), and `type` as Google Cloud writes it.
know_generation() {
    local generation
    type=${1/#v5e-/v5litepod-}
    while read -r generation cores software accelerator links; do
        [[ ! $type =~ ^$generation-[1-9][0-9]*$ ]] || return 0
    done <<<"$tpu_generations"
    refuse "$type is not a type of TPU; write for instance --type=v4-8, v5litepod-16, v5p-8, v6e-8 or tpu7x-8"
}

# Sets the same, and the shape of a slice of the type $1: topology, hosts, and chips of each host.
know_slice() {
    local all flat deep sizes=''
    know_generation "$1"
    while read -r all flat deep; do
        topology=$flat
        if [[ $links == 3d ]]; then topology=$deep; fi
        [[ -n $all && $topology != - ]] || continue
        sizes+=" ${type%-*}-$((all * cores))"
        [[ $type == "${type%-*}-$((all * cores))" ]] || continue
        # A host has four chips, or all eight of v5litepod-8 and v6e-8.
        hosts=1 chips=$all
        if ((all > 8 || all * cores > 8)); then hosts=$((all / 4)) chips=4; fi
        return 0
    done <<<"$tpu_topologies"
    refuse "there is no slice $type; write --type= one of$sizes"
}

# Writes the code as an archive into the file $1.
pack_code() {
    tar -C "$root" --exclude=__pycache__ -czf "$1" \
        bnas_jax configs launch requirements.txt pyproject.toml setup.py README.md LICENSE
}

# The commands that make the environment in a folder of that code. The TPU software's Python may be older than 3.11.
install_code='source launch/environment.sh; find_python >/dev/null || sudo apt-get install -qy python3.11 python3.11-venv; '
# shellcheck disable=SC2016  # expanded there
install_code+='install_requirements requirements.txt && "$python" -m pip install --quiet "jax[tpu]"'

# A checkpoint is a folder that is renamed when it is complete; gcsfuse renames folders only up to this number of files.
most_renamed=200000

# Refuses a run that would write to the disk of $1 ("a pod"), which does not last. $1 is followed by the run's command.
refuse_lost() {
    local word lost="what $1 writes elsewhere than into a bucket is lost with it"
    [[ -n $bucket ]] || refuse "$lost; write --bucket=BUCKET $2 ... --workdir=bucket/NAME"
    for word in "${@:2}"; do
        [[ $word != --workdir=* || $word == --workdir=bucket/* ]] ||
            refuse "$lost; write --workdir=bucket/NAME, got ${word#*=}"
    done
}

# Refuses an address as the work directory, to which a run cannot write, before anything is created.
# $1: the name of the script; then the run's command.
refuse_address() {
    local word target
    for word in "${@:2}"; do
        [[ $word == --workdir=gs://*/?* ]] || continue
        target=${word#--workdir=gs://}
        refuse "a run writes into a mounted bucket;" \
            "write launch/$1 --bucket=${target%%/*} $2 ... --workdir=bucket/${target#*/}"
    done
}
