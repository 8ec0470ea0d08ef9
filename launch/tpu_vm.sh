#!/usr/bin/env bash
# Runs a command of bnas_jax on a Cloud TPU VM or a slice of several hosts, with gcloud: creates the TPU or uses the one of that
# name, copies the code, installs it, starts the run on all hosts, and follows the log. When the TPU is preempted or the run is
# lost, the script creates the TPU again if it is gone, and starts the run again: it continues from the last checkpoint if
# --workdir is in a bucket. Files on the TPU's own disk are lost with the TPU.
# Usage: launch/tpu_vm.sh [OPTIONS] COMMAND [--config=... --workdir=...]
#        launch/tpu_vm.sh [OPTIONS] stop | log | delete     saves and ends the run; shows its log; deletes the TPU
#   --name=NAME (default bnas)    --zone=ZONE (default: gcloud's)   --project=PROJECT (default: gcloud's)
#   --type=TYPE (default v4-8)    --version=SOFTWARE (default: that of the type)
#   --spot           a TPU that may be preempted; needs --bucket
#   --queued         requests the TPU through Google's queue, and waits; also needed with `delete`
#   --wait=SECONDS   how long to wait for a TPU, in the queue or for capacity (default 86400; then exit code 75)
#   --poll=SECONDS   time between two requests of the TPU's state (default 30)
#   --bucket=BUCKET  mounts gs://BUCKET as ~/bucket on all hosts; --workdir=bucket/NAME then outlives the TPU. A slice of
#                    several hosts needs it, as all hosts must see the work directory
#   --restarts=K     how often to start again (default 100)
#   --plan           first compile the run's step for that type; a run that does not fit is not started
#   --dry-run        print the commands
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=tpu.sh
source "$root/launch/tpu.sh"

name=bnas type=v4-8 version='' bucket='' restarts=100 queued='' wait=86400 poll=30 plan='' spot=() place=()
while (($#)); do
    case $1 in
        --name=*) name=${1#*=} ;;
        --zone=* | --project=*) place+=("$1") ;;
        --type=*) type=${1#*=} ;;
        --version=*) version=${1#*=} ;;
        --spot) spot=(--spot) ;;
        --queued) queued=1 ;;
        --wait=*) wait=${1#*=} ;;
        --poll=*) poll=${1#*=} ;;
        --bucket=*) bucket=${1#*=} ;;
        --restarts=*) restarts=${1#*=} ;;
        --plan) plan=1 ;;
        --dry-run) dry_run=1 ;;
        -*) refuse "unknown option $1; see the head of $0" ;;
        *) break ;;
    esac
    shift
done
(($#)) || refuse "no command; write for instance: launch/tpu_vm.sh --type=v4-8 train --config=configs/train.py:a --workdir=runs/a"
check_whole --wait "$wait"
check_whole --poll "$poll"
check_whole --restarts "$restarts"
# Google Cloud's name of the type, also if --version is given.
type=${type/#v5e-/v5litepod-}
if [[ -z $version ]]; then
    know_generation "$type"
    version=$software
    [[ $version != - ]] || refuse "there are no TPU VMs of type $type; write launch/gke.sh --type=$type --bucket=BUCKET $1 ..."
fi
[[ -n $dry_run ]] || command -v gcloud >/dev/null || refuse "there is no gcloud here; install the Google Cloud CLI"

# The options with which this script finds the same TPU again.
again="--name=$name${place[*]+ ${place[*]}}${queued:+ --queued}"

# Runs gcloud compute tpus KIND VERB NAME ..., where KIND is tpu-vm or queued-resources; with --dry-run, prints it.
cloud() {
    local words=(gcloud compute tpus "$@" ${place[@]+"${place[@]}"})
    if [[ -n $dry_run ]]; then quoted "${words[@]}"; else "${words[@]}"; fi
}
tpu() { cloud tpu-vm "$@"; }
on_all() { tpu ssh "$name" --worker=all "--command=$1"; }

# Prints a field of the TPU or of its request: NONE if that does not exist, UNKNOWN if gcloud fails otherwise.
field() {
    local problem
    cloud "$1" describe "$name" "--format=value($2)" 2>/dev/null && return
    problem=$(cloud "$1" describe "$name" 2>&1) || true
    case $problem in
        *NOT_FOUND* | *'not found'*) echo NONE ;;
        *)
            say "$problem"
            echo UNKNOWN
            ;;
    esac
}

# Prints the state of the request until it is granted, then that of the TPU.
state() {
    local now=ACTIVE
    if [[ -n $queued ]]; then now=$(field queued-resources state.state); fi
    if [[ $now == ACTIVE ]]; then
        now=$(field tpu-vm state)
        # The TPU was preempted and deleted, but the request still is ACTIVE.
        if [[ -n $queued && $now == NONE ]]; then now=LOST; fi
    fi
    echo "$now"
}

create() {
    if [[ -n $queued ]]; then
        cloud queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" \
            "--runtime-version=$version" ${spot[@]+"${spot[@]}"}
    else
        tpu create "$name" "--accelerator-type=$type" "--version=$version" ${spot[@]+"${spot[@]}"}
    fi
}

remove() {
    if [[ -n $queued ]]; then
        # --force deletes its TPU, too: a granted request cannot be deleted without it.
        cloud queued-resources delete "$name" --force --quiet
    else
        tpu delete "$name" --quiet
    fi
}

# Whether a request that failed with this message may succeed later; after a message about a quota, it will not.
lacks_capacity() { grep -qiE 'capacity|stockout' <<<"$1"; }

# Prints its input to both stdout and stderr.
show() {
    local line
    while IFS= read -r line; do
        say "$line"
        printf '%s\n' "$line"
    done
}

# Requests the TPU and waits until it is READY; requests it again if it was preempted or suspended, or if there was no
# capacity. Returns 75 if it was not ready in time, 1 if a new request cannot help, 2 if the user has to decide. It deletes
# only a TPU that is lost anyway: any other TPU of that name may have a run on its disk.
known='' # the last state that gcloud could tell
remove_what_is_lost() { remove && known=NONE; }
make_ready() {
    local now before='' problem began=$SECONDS
    while ((SECONDS - began <= wait)); do
        now=$(state)
        if [[ $now != "$before" ]]; then say "The TPU $name ($type) is $now after $((SECONDS - began)) s"; fi
        before=$now
        [[ $now == UNKNOWN ]] || known=$now
        case $now in
            READY) return ;;
            NONE)
                problem=$(create 2>&1 | show) && known=CREATING && continue
                lacks_capacity "$problem" || return 1
                ;;
            FAILED)
                problem=$(field queued-resources state.failedData.error.message)
                say "$problem"
                remove_what_is_lost || true
                lacks_capacity "$problem" || { fail "the request for $type failed and is deleted" || return 1; }
                ;;
            CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) ;;
            STARTING | RESTARTING | REPAIRING | REIMAGING | STOPPING | SUSPENDING | DELETING) ;;
            UNKNOWN) [[ -n $known ]] || return 1 ;; # gcloud never worked: no login, or no such zone
            PREEMPTED | TERMINATED | SUSPENDED | LOST) remove_what_is_lost && continue ;;
            STOPPED)
                fail "the TPU $name is stopped; write" \
                    "gcloud compute tpus tpu-vm start $name ${place[*]-} and then the same command" || return
                ;;
            *) fail "the TPU $name is $now; write another --name, or $0 $again delete, which deletes its disk" || return ;;
        esac
        sleep "$poll"
    done
    case $known in
        NONE) ;;
        # It was never ready, so there is nothing on its disk.
        CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) remove || true ;;
        *)
            fail "the TPU $name was not ready in $wait s, but $known, and is kept;" \
                "write a larger --wait, or $0 $again delete, which deletes its disk" || return 75
            ;;
    esac
    fail "there was no $type in $wait s, and it is no longer requested;" \
        "write a larger --wait or another --zone" || return 75
}

copy_and_install() {
    local mount
    [[ -n $dry_run ]] || pack_code "$archive" || return
    tpu scp "$archive" "$name:bnas.tar.gz" --worker=all || return
    on_all "mkdir -p bnas && tar -xzf bnas.tar.gz -C bnas && cd bnas && bash -c '$install_code'" || return
    if [[ -n $bucket ]]; then
        mount="gcsfuse --implicit-dirs --rename-dir-limit=$most_renamed $(quoted "$bucket") bucket"
        on_all "mkdir -p bucket && { mountpoint -q bucket || $mount; }" || return
        on_all "ln -sfn ~/bucket bnas/bucket" || return
    fi
}

# A command for a host: whether the run that was started last is still running. Its process number may have been reused.
# shellcheck disable=SC2016  # expanded there
it_runs='pid=$(cat run.pid 2>/dev/null) && grep -qs bnas_jax "/proc/$pid/cmdline"'
# A command for a host: ends a run that outlived its connection, as it holds the TPU; it may save its state for 60 s.
# shellcheck disable=SC2016  # expanded there
end_leftover="if $it_runs; then "'kill -TERM "$pid"; timeout 60 tail -f --pid="$pid" /dev/null || kill -KILL "$pid"; fi'

# Starts the run on every host at once, and shows its output; each host writes its log to bnas/run.log.
start() {
    local run
    run="{ .venv/bin/python -m bnas_jax $(quoted "$@") & echo \$! >run.pid; wait \$!; } 2>&1 | tee -a run.log"
    on_all "cd bnas && { $end_leftover; } && bash -o pipefail -c $(quoted "$run")"
}

refuse_address tpu_vm.sh "$@"

case $1 in
    stop)
        # A SIGTERM to all hosts: a slice stops after one step, whichever of its hosts gets it.
        # shellcheck disable=SC2016  # expanded there
        on_all "cd bnas && if $it_runs; then "'kill -TERM "$pid"; else echo "no run is in progress here" >&2; exit 1; fi'
        exit
        ;;
    log)
        tpu ssh "$name" --worker=0 "--command=tail -n 100 -f bnas/run.log"
        exit
        ;;
    delete)
        remove
        exit
        ;;
esac

if ((${#spot[@]})); then refuse_lost "a TPU of --spot" "$@"; fi
if [[ -n $plan ]]; then plan_first "$type" "$@" || exit; fi
archive=bnas.tar.gz
if [[ -n $dry_run ]]; then
    create
    copy_and_install
    start "$@"
    exit
fi
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
archive=$folder/bnas.tar.gz
for ((attempt = 0; ; attempt++)); do
    make_ready || exit
    code=0
    copy_and_install || code=$?
    if ((code == 0)); then
        start "$@" || code=$?
    elif ((code != 255)) && [[ $(state) == READY ]]; then
        # The TPU was not preempted, and the connection not lost: the installation would fail again.
        exit "$code"
    fi
    # 143 is a `stop`, or the notice of preemption: then the TPU is not READY.
    if ((code == 143)) && [[ $(state) == READY ]]; then exit "$code"; fi
    if ((code != 143 && attempt >= restarts)) || { ((code != 143)) && ! worth_a_restart "$code"; }; then exit "$code"; fi
    say "bnas_jax: the run on $name ended with $code; starting again ($((attempt + 1)) of $restarts)"
done
