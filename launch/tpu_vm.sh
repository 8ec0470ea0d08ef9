#!/usr/bin/env bash
# Runs a command of bnas_jax on a Cloud TPU VM or a slice of several hosts, with gcloud: creates the TPU or uses the one of that
# name, copies the code, installs, starts on all hosts, and follows the log. When the TPU is preempted or a run is
# lost, it makes the TPU anew and starts again; the run goes on from its last checkpoint.
# Usage: launch/tpu_vm.sh [OPTIONS] COMMAND [--config=... --workdir=...]
#        launch/tpu_vm.sh [OPTIONS] stop | log | delete     ends the run, saved; shows its log; deletes the TPU
#   --name=NAME (default bnas)    --zone=ZONE (default: gcloud's)   --project=PROJECT (default: gcloud's)
#   --type=TYPE (default v4-8)    --version=SOFTWARE (default tpu-ubuntu2204-base)    --spot
#   --bucket=BUCKET  mounts gs://BUCKET as ~/bucket on all hosts; --workdir=bucket/NAME then outlives the TPU, and all hosts
#                    of a slice see it, as they must
#   --restarts=K     how often to start again (default 100)
#   --dry-run        print the commands
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

name=bnas type=v4-8 version=tpu-ubuntu2204-base bucket='' restarts=100 dry_run='' spot=() place=()
while (($#)); do
    case $1 in
        --name=*) name=${1#*=} ;;
        --zone=* | --project=*) place+=("$1") ;;
        --type=*) type=${1#*=} ;;
        --version=*) version=${1#*=} ;;
        --spot) spot=(--spot) ;;
        --bucket=*) bucket=${1#*=} ;;
        --restarts=*) restarts=${1#*=} ;;
        --dry-run) dry_run=1 ;;
        -*) fail "unknown option $1; see the head of $0" || exit ;;
        *) break ;;
    esac
    shift
done
(($#)) || { fail "no command; write for instance: launch/tpu_vm.sh --type=v4-8 train --config=configs/train.py:a --workdir=runs/a" || exit; }
[[ -n $dry_run ]] || command -v gcloud >/dev/null || { fail "there is no gcloud here; install the Google Cloud CLI" || exit; }

# gcloud compute tpus tpu-vm VERB NAME ..., or what it would be.
tpu() {
    local words=(gcloud compute tpus tpu-vm "$1" "${@:2}" ${place[@]+"${place[@]}"})
    if [[ -n $dry_run ]]; then quoted "${words[@]}"; else "${words[@]}"; fi
}
on_all() { tpu ssh "$name" --worker=all "--command=$1"; }

state() {
    if [[ -n $dry_run ]]; then
        echo NONE
    else
        tpu describe "$name" '--format=value(state)' 2>/dev/null || echo NONE
    fi
}

make_ready() {
    local now
    now=$(state)
    case $now in
        READY) return ;;
        NONE) ;;
        *)
            say "The TPU $name is $now; making it anew"
            tpu delete "$name" --quiet || true
            ;;
    esac
    tpu create "$name" "--accelerator-type=$type" "--version=$version" ${spot[@]+"${spot[@]}"}
}

# The software's Python may be older than 3.11.
# shellcheck disable=SC2016  # expanded there
install='source launch/environment.sh; find_python >/dev/null || sudo apt-get install -qy python3.11 python3.11-venv
install_requirements requirements.txt && "$python" -m pip install --quiet "jax[tpu]"'

copy_and_install() {
    local archive=bnas.tar.gz
    if [[ -z $dry_run ]]; then
        archive=$(mktemp --suffix=.tar.gz)
        tar -C "$root" -czf "$archive" bnas_jax configs launch requirements.txt pyproject.toml setup.py README.md LICENSE
    fi
    tpu scp "$archive" "$name:bnas.tar.gz" --worker=all
    [[ -n $dry_run ]] || rm "$archive"
    on_all "mkdir -p bnas && tar -xzf bnas.tar.gz -C bnas && cd bnas && bash -c $(quoted "$install")"
    if [[ -n $bucket ]]; then
        # A checkpoint is written beside its place and renamed; gcsfuse renames no folder of files unless it is allowed to.
        on_all "mkdir -p bucket && { mountpoint -q bucket || gcsfuse --implicit-dirs --rename-dir-limit=200000 $(quoted "$bucket") bucket; }"
        on_all "ln -sfn ~/bucket bnas/bucket"
    fi
}

# On every host at once, followed through the connection; each keeps its log in bnas/run.log.
start() {
    local run
    run="{ .venv/bin/python -m bnas_jax $(quoted "$@") & echo \$! >run.pid; wait \$!; } 2>&1 | tee -a run.log"
    on_all "cd bnas && bash -o pipefail -c $(quoted "$run")"
}

# Before a TPU is made for a run that could not write.
for argument; do
    if [[ $argument == --workdir=gs://*/?* ]]; then
        target=${argument#--workdir=gs://}
        fail "a run writes into a mounted bucket; write launch/tpu_vm.sh --bucket=${target%%/*} $1 ... --workdir=bucket/${target#*/}" || exit
    fi
done

case $1 in
    stop)
        # On all: a slice stops after one step, whichever of its hosts is told.
        # shellcheck disable=SC2016  # expanded there
        on_all 'kill -TERM "$(cat bnas/run.pid)"'
        exit
        ;;
    log)
        tpu ssh "$name" --worker=0 "--command=tail -n 100 -f bnas/run.log"
        exit
        ;;
    delete)
        tpu delete "$name" --quiet
        exit
        ;;
esac

for ((attempt = 0; ; attempt++)); do
    make_ready
    copy_and_install
    code=0
    start "$@" || code=$?
    [[ -z $dry_run ]] || exit 0
    # 143 without a wish of ours is the notice of preemption.
    if ((code == 143)) && [[ $(state) == READY ]]; then exit "$code"; fi
    if ((code != 143 && attempt >= restarts)) || { ((code != 143)) && ! worth_a_restart "$code"; }; then exit "$code"; fi
    say "bnas_jax: the run on $name ended with $code; starting again ($((attempt + 1)) of $restarts)"
done
