#!/usr/bin/env bash
# Runs a command of bnas_jax in several processes on this machine: one for each GPU, or on the CPU, to try out a run on
# several hosts.
# Usage: launch/multi_process.sh [OPTIONS] COMMAND [--config=... --workdir=...]
#   --processes=N  number of processes (default 2)
#   --cpu=D        use only the CPU, with D devices in each process; without it, process I gets GPU I, or entry I of
#                  CUDA_VISIBLE_DEVICES
#   --restarts=K   start all processes again, up to K times, when one is lost (default 0)
#   --port=P       port of the coordinator (default: a free one)
#   --dry-run      print the commands of the processes
# The first process writes to stdout and stderr, the others to stderr, after their number. SIGTERM and Ctrl-C are passed on
# to all of them.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

processes=2 cpu='' restarts=0 port='' dry_run=''
while (($#)); do
    case $1 in
        --processes=*) processes=${1#*=} ;;
        --cpu=*) cpu=${1#*=} ;;
        --restarts=*) restarts=${1#*=} ;;
        --port=*) port=${1#*=} ;;
        --dry-run) dry_run=1 ;;
        -*) refuse "unknown option $1; see the head of $0" ;;
        *) break ;;
    esac
    shift
done
for number in "$processes" "${cpu:-1}" "${port:-1}"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || refuse "--processes, --cpu and --port take whole numbers from 1 on, got $number"
done
check_whole --restarts "$restarts"
gpus=()
if [[ -z $cpu && -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    ((processes <= ${#gpus[@]})) || refuse "$processes processes need as many GPUs, CUDA_VISIBLE_DEVICES has" \
        "${#gpus[@]} ($CUDA_VISIBLE_DEVICES); write a smaller --processes, or more GPUs there"
fi
(($#)) || refuse "no command; write for instance: launch/multi_process.sh train --config=configs/train.py:digits --workdir=runs/two"

# The environment and the command of process $1, in the array `words`.
command_of() {
    words=(env)
    if [[ -n $cpu ]]; then
        words+=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$cpu")
    else
        words+=("CUDA_VISIBLE_DEVICES=${gpus[$1]-$1}")
    fi
    words+=("$python" -m bnas_jax "${arguments[@]}" "--config.distributed.coordinator=localhost:${port:-PORT}")
    words+=("--config.distributed.num_processes=$processes" "--config.distributed.process_id=$1")
}
arguments=("$@")

if [[ -n $dry_run ]]; then
    python=${BNAS_PYTHON:-$python}
    for ((i = 0; i < processes; i++)); do
        command_of "$i"
        quoted "${words[@]}"
    done
    exit
fi

choose_python
cd "$root"
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

pids=()
hand_on() {
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'hand_on TERM' TERM
trap 'hand_on INT' INT

# Starts all processes and waits for them. Returns the exit code of the first one that fails; if a process is lost, the
# others are killed.
run_all() {
    local code=0 ended i left pid running
    pids=()
    for ((i = 0; i < processes; i++)); do
        command_of "$i"
        # Without job control, background processes ignore a Ctrl-C on the terminal: the trap above passes it on.
        if ((i)); then
            "${words[@]}" > >(sed -u "s/^/[$i] /" >&2) 2>&1 &
        else
            "${words[@]}" &
        fi
        pids+=($!)
    done
    running=("${pids[@]}")
    while ((${#running[@]})); do
        left=()
        for pid in "${running[@]}"; do
            if kill -0 "$pid" 2>/dev/null; then
                left+=("$pid")
                continue
            fi
            ended=0
            wait "$pid" || ended=$?
            if ((ended && !code)); then
                code=$ended
                # The others would notice the loss only after their time-out, and cannot continue: kill them now.
                if worth_a_restart "$code"; then hand_on KILL; fi
            fi
        done
        running=(${left[@]+"${left[@]}"})
        sleep 0.2 || true
    done
    return "$code"
}

given_port=$port
for ((attempt = 0; ; attempt++)); do
    port=${given_port:-$(free_port)}
    code=0
    run_all || code=$?
    if ((attempt >= restarts)) || ! worth_a_restart "$code"; then exit "$code"; fi
    say "bnas_jax: a process ended with $code; starting all again ($((attempt + 1)) of $restarts)"
done
