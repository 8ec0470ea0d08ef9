#!/usr/bin/env bash
# Submits a command of bnas_jax to Slurm, with one task for each GPU; JAX detects the tasks. A job that is preempted, reaches
# its time limit or loses a node is put back into the queue, and continues from its last checkpoint.
# Usage: launch/slurm.sh [OPTIONS] COMMAND [--config=... --workdir=...]   (the work directory on a file system of all nodes)
#   --nodes=N        number of nodes (default 1)
#   --gpus=G         GPUs of each node (default 1), or KIND:G
#   --cpus=C         CPUs of each task (default 8)
#   --time=HH:MM:SS  time limit (default 24:00:00)
#   --partition=P    --account=A   --name=NAME (default bnas)
#   --restarts=K     how often a job is put back into the queue after a failure (default 10)
#   --plan[=KIND]    first compile the run's step for that number of GPUs, of that kind (default: the kind of --gpus), for
#                    instance --plan=h100; a run that does not fit is not submitted
#   --dry-run        print the job script
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

nodes=1 gpus=1 cpus=8 limit=24:00:00 name=bnas restarts=10 plan='' kind='' extra=()
while (($#)); do
    case $1 in
        --nodes=*) nodes=${1#*=} ;;
        --gpus=*) gpus=${1#*=} ;;
        --cpus=*) cpus=${1#*=} ;;
        --time=*) limit=${1#*=} ;;
        --name=*) name=${1#*=} ;;
        --restarts=*) restarts=${1#*=} ;;
        --plan) plan=1 ;;
        --plan=*) plan=1 kind=${1#*=} ;;
        --partition=* | --account=*) extra+=("$1") ;;
        --dry-run) dry_run=1 ;;
        -*) refuse "unknown option $1; see the head of $0" ;;
        *) break ;;
    esac
    shift
done
(($#)) || refuse "no command; write for instance: launch/slurm.sh --gpus=8 train --config=configs/train.py:d --workdir=/shared/d"

# A cluster's name for a kind of GPU may differ from the plan's.
tasks=${gpus##*:}
if [[ -z $kind && $gpus == *:* ]]; then kind=${gpus%%:*}; fi
[[ $nodes-$tasks =~ ^[1-9][0-9]*-[1-9][0-9]*$ ]] ||
    refuse "--nodes and --gpus take whole numbers from 1 on, or --gpus=KIND:G, got $nodes and $gpus"
for word in "--name=$name" "--gpus=$gpus" "--time=$limit" ${extra[@]+"${extra[@]}"}; do
    # These become lines of the job script, which Slurm splits at spaces.
    [[ $word =~ ^[^[:space:]\"\'=]+=[^[:space:]\"\']+$ ]] || refuse "write ${word%%=*}= without spaces and quotes, got ${word#*=}"
done
check_whole --restarts "$restarts"
check_whole --cpus "$cpus"
[[ -z $plan || -n $kind ]] || refuse "--plan needs the kind of GPU; write for instance --plan=h100"

if [[ -n $plan ]] && ((nodes > 1 && tasks != 8)); then
    say "The plan assumes that the $((nodes * tasks)) GPUs are in hosts of 8; between $nodes nodes of $tasks, messages take longer"
fi

job_script() {
    echo '#!/usr/bin/env bash'
    printf '#SBATCH %s\n' "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$tasks" "--gpus-per-node=$gpus" \
        "--cpus-per-task=$cpus" "--time=$limit" "--output=$name-%j.log" --open-mode=append --requeue --signal=TERM@120 \
        ${extra[@]+"${extra[@]}"}
    # If one task fails, srun ends the others; its exit code is the highest of theirs. --cpus-per-task is repeated because
    # srun does not inherit it from the job since Slurm 22.05.
    cat <<EOF
cd $(quoted "$root")
srun --kill-on-bad-exit=1 --cpus-per-task=$cpus $(quoted "$python" -m bnas_jax "$@")
code=\$?
case \$code in
    0 | 2 | 130) exit \$code ;; # done, a mistake in the settings, or stopped by hand
esac
# 143 is the notice of preemption or of the time limit; anything else a lost node.
if ((\$code == 143 || \${SLURM_RESTART_COUNT:-0} < $restarts)); then
    scontrol requeue "\$SLURM_JOB_ID"
fi
exit \$code
EOF
}

if [[ -n $dry_run ]]; then
    python=${BNAS_PYTHON:-$python}
    if [[ -n $plan ]]; then plan_first "${kind}x$((nodes * tasks))" "$@" >&2; fi
    job_script "$@"
    exit
fi
command -v sbatch >/dev/null || refuse "there is no sbatch here; run this on a login node of a Slurm cluster"
choose_python
if [[ -n $plan ]]; then plan_first "${kind}x$((nodes * tasks))" "$@"; fi
job_script "$@" | sbatch
