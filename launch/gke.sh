#!/usr/bin/env bash
# Runs a command of bnas_jax on a slice of TPUs in a cluster of Google Kubernetes Engine, as a JobSet: one pod on each host.
# When a host is preempted or a run is lost, the JobSet starts all pods again; the run continues from its last checkpoint.
# The cluster is kubectl's current one; it needs JobSet and the driver for buckets, see docs/devices.md.
# Usage: launch/gke.sh [OPTIONS] COMMAND [--config=... --workdir=bucket/NAME]
#        launch/gke.sh [OPTIONS] stop | log      saves and ends the run, and deletes the JobSet; shows the run's log
#   --name=NAME (default bnas)    --type=TYPE (default v4-8), for instance v5litepod-16, v5p-8, v6e-8, tpu7x-8    --spot
#   --bucket=BUCKET  is mounted as bucket in all pods; only files in it outlive the pods
#   --account=ACCOUNT  the Kubernetes service account that may write to the bucket (default: default)
#   --image=IMAGE    an image with bash, tar and Python 3.11 or newer (default python:3.12)
#   --namespace=NAMESPACE (default: kubectl's)
#   --restarts=K     how often to start again (default 100)
#   --plan           first compile the run's step for that type; a run that does not fit is not started
#   --dry-run        print the manifest to stdout, and the commands to stderr
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=tpu.sh
source "$root/launch/tpu.sh"

name=bnas type=v4-8 spot='' bucket='' account=default image=python:3.12 restarts=100 plan='' namespace=()
while (($#)); do
    case $1 in
        --name=*) name=${1#*=} ;;
        --type=*) type=${1#*=} ;;
        --spot) spot=1 ;;
        --bucket=*) bucket=${1#*=} ;;
        --account=*) account=${1#*=} ;;
        --image=*) image=${1#*=} ;;
        --namespace=*) namespace=("$1") ;;
        --restarts=*) restarts=${1#*=} ;;
        --plan) plan=1 ;;
        --dry-run) dry_run=1 ;;
        -*) refuse "unknown option $1; see the head of $0" ;;
        *) break ;;
    esac
    shift
done
(($#)) || refuse "no command; write for instance:" \
    "launch/gke.sh --type=tpu7x-8 --bucket=BUCKET train --config=configs/train.py:a --workdir=bucket/a"
[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || refuse "--name takes small letters, digits and -, got $name"
check_whole --restarts "$restarts"
for word in "$bucket" "$account" "$image"; do
    # These are written into the manifest without quoting.
    [[ $word =~ ^[A-Za-z0-9._/:@-]*$ ]] || refuse "--bucket, --account and --image take names, got $word"
done
[[ -n $dry_run ]] || command -v kubectl >/dev/null || refuse "there is no kubectl here; install it," \
    "and fetch the cluster's credentials with gcloud container clusters get-credentials"

# Runs kubectl; with --dry-run, prints the command.
cluster() {
    local words=(kubectl "$@" ${namespace[@]+"${namespace[@]}"})
    if [[ -n $dry_run ]]; then quoted "${words[@]}" >&2; else "${words[@]}"; fi
}

# Prints the JobSet. Exit code 2, a mistake in the settings, ends it. After any other one, such as 75 of a failed
# installation, all pods start again.
manifest() {
    local annotations='' nodes tolerations=''
    nodes="cloud.google.com/gke-tpu-accelerator: $accelerator"
    nodes+=", cloud.google.com/gke-tpu-topology: \"$topology\""
    # All pods must run on the hosts of the same slice.
    if ((hosts > 1)); then
        annotations='alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool'
    fi
    if [[ -n $spot ]]; then
        nodes+=', cloud.google.com/gke-spot: "true"'
        tolerations='{key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}'
    fi
    cat <<MANIFEST
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations: {$annotations}
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: 1
    template:
      spec:
        parallelism: $hosts
        completions: $hosts
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: run, operator: In, values: [2]}
        template:
          metadata:
            annotations:
              gke-gcsfuse/volumes: "true"
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120
            serviceAccountName: "$account"
            nodeSelector: {$nodes}
            tolerations: [$tolerations]
            containers:
            - name: run
              image: "$image"
              workingDir: /bnas
              command:
              - bash
              - -c
              - |
                tar -xzf /code/bnas.tar.gz && bash -c '$install_code' || exit 75
                exec .venv/bin/python -m bnas_jax $(quoted "$@")
              ports:
              - containerPort: 8471 # between the hosts of a slice
              resources:
                requests: {ephemeral-storage: 10Gi} # the packages
                limits: {google.com/tpu: $chips}
              volumeMounts:
              - {name: code, mountPath: /code}
              - {name: bucket, mountPath: /bnas/bucket}
            volumes:
            - name: code
              configMap: {name: $name-code}
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes:
                  bucketName: "$bucket"
                  mountOptions: "implicit-dirs,rename-dir-limit=$most_renamed"
MANIFEST
}

case $1 in
    stop)
        cluster delete jobset "$name" --cascade=foreground
        cluster delete configmap "$name-code" --ignore-not-found
        exit
        ;;
    log)
        first="jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
        cluster logs --follow --tail=100 --container=run "--selector=$first"
        exit
        ;;
esac

refuse_address gke.sh "$@"
know_slice "$type"
[[ $accelerator != - ]] || refuse "launch/gke.sh does not know $type; write launch/tpu_vm.sh --type=$type $1 ..."
refuse_lost "a pod" "$@"
if [[ -n $dry_run ]]; then
    if [[ -n $plan ]]; then plan_first "$type" "$@" >&2; fi
    cluster create configmap "$name-code" --from-file=bnas.tar.gz
    cluster create --filename=-
    manifest "$@"
    exit
fi

again="launch/gke.sh ${namespace[*]+${namespace[*]} }--name=$name"
# A JobSet of that name that has ended is replaced; one that still runs is not touched.
ended=$(cluster get jobset "$name" --ignore-not-found '--output=jsonpath={.metadata.name}:{.status.terminalState}')
[[ $ended != *: ]] ||
    refuse "the JobSet $name has not ended; write $again stop, or another --name"
if [[ -n $plan ]]; then plan_first "$type" "$@" || exit; fi
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
pack_code "$folder/bnas.tar.gz"
cluster delete jobset "$name" --cascade=foreground --ignore-not-found
cluster delete configmap "$name-code" --ignore-not-found
cluster create configmap "$name-code" "--from-file=$folder/bnas.tar.gz"
manifest "$@" | cluster create --filename=-
say "bnas_jax: started; $again log shows its log, and stop in place of log ends it"
