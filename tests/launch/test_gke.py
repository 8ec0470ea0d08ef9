"""launch/gke.sh: its manifest, and what it does with a kubectl that plays a cluster."""

import shlex
import subprocess
import tarfile

import fake_clouds
import pytest
import test_launch
import yaml
from fake_clouds import answer

from bnas_jax.plan import machines
from bnas_jax.plan.chips import CHIPS

TRAIN = ["train", "--config=configs/train.py:a", "--workdir=bucket/a b"]
OPTIONS = ["--name=n", "--bucket=b"]


def manifest(*options: str) -> dict:
    done = test_launch.launch("gke.sh", "--dry-run", *OPTIONS, *options, *TRAIN)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def job(jobset: dict) -> dict:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


@pytest.mark.parametrize(
    ("type", "accelerator", "topology", "hosts", "chips"),
    [
        ("v4-32", "tpu-v4-podslice", "2x2x4", 4, 4),
        ("v5e-1", "tpu-v5-lite-podslice", "1x1", 1, 1),
        ("v5litepod-16", "tpu-v5-lite-podslice", "4x4", 4, 4),
        ("v5p-8", "tpu-v5p-slice", "2x2x1", 1, 4),
        ("v6e-8", "tpu-v6e-slice", "2x4", 1, 8),
        ("tpu7x-16", "tpu7x", "2x2x2", 2, 4),
    ],
)
def test_a_pod_on_each_host_of_the_slice(type, accelerator, topology, hosts, chips):
    jobset = manifest(f"--type={type}")
    assert (jobset["apiVersion"], jobset["kind"]) == (
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
    )
    # Pods of several hosts must not spread over two slices.
    exclusive = {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert (jobset["metadata"]["annotations"] == exclusive) == (hosts > 1)
    slice = job(jobset)
    assert (slice["parallelism"], slice["completions"]) == (hosts, hosts)
    pod = slice["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    (container,) = pod["containers"]
    assert (
        container["resources"]["limits"] == {"google.com/tpu": chips}
        and pod["tolerations"] == []
    )


def test_slices_are_shaped_as_a_plan_has_them():
    """The tables of the launchers and of `plan` agree in every slice that both have."""
    chips = [chip for chip in CHIPS.values() if chip.platform == "tpu"]
    slices = [
        machines.machine(name) for chip in chips for name in machines.names_of(chip)
    ]
    describe = 'know_slice "$name" && echo $topology $hosts $chips'
    script = f"source environment.sh; source tpu.sh; for name; do {describe}; done"
    names = [slice.name for slice in slices]
    done = subprocess.run(
        ["bash", "-c", script, "-", *names],
        cwd=test_launch.LAUNCH,
        capture_output=True,
        text=True,
    )
    wanted = [f"{slice.shape} {slice.hosts} {slice.chips_per_host}" for slice in slices]
    assert done.stdout.splitlines() == wanted and len(wanted) > 30, done.stderr


def test_restarts_spot_and_the_bucket_are_those_of_the_options():
    jobset = manifest("--restarts=7", "--spot", "--account=writer", "--image=mine:1")
    # Any failure starts all pods again, but exit code 2.
    rule = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 7, "rules": [rule]}
    slice = job(jobset)
    codes = {"containerName": "run", "operator": "In", "values": [2]}
    assert slice["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": codes}
    ]
    assert (
        slice["backoffLimit"] == 0
        and slice["template"]["spec"]["restartPolicy"] == "Never"
    )
    pod = slice["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert (
        pod["serviceAccountName"] == "writer"
        and pod["containers"][0]["image"] == "mine:1"
    )
    bucket = next(
        volume["csi"] for volume in pod["volumes"] if volume["name"] == "bucket"
    )
    assert bucket["volumeAttributes"]["bucketName"] == "b"
    assert slice["template"]["metadata"]["annotations"] == {
        "gke-gcsfuse/volumes": "true"
    }


@pytest.mark.parametrize(("installs", "code"), [(True, 2), (False, 75)])
def test_a_pod_installs_and_becomes_the_run(installs, code, tmp_path):
    """Its command, run here with an archive that unpacks or not; the run ends with 2,
    which starts nothing again.
    """
    (container,) = job(manifest())["template"]["spec"]["containers"]
    *shell, command = container["command"]
    assert shell == ["bash", "-c"] and container["workingDir"] == "/bnas"
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "environment.sh").write_text(
        "python=true; find_python() { :; }; install_requirements() { :; }\n"
    )
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word; do echo "$word"; done\nexit 2\n')
    python.chmod(0o755)
    command = f"tar() {{ {str(installs).lower()}; }}\n{command}"
    done = subprocess.run(
        [*shell, command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == code
    if installs:
        assert done.stdout.splitlines() == ["-m", "bnas_jax", *TRAIN]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--type=tpu7x-24"], "write --type= one of tpu7x-8 tpu7x-16"),
        (["--type=v3-8"], "write launch/tpu_vm.sh --type=v3-8 train ..."),
        (["--type=h100x8"], "write for instance --type=v4-8"),
        (["--bucket="], "write --bucket=BUCKET train ... --workdir=bucket/NAME"),
        (["--bucket=a b"], "take names, got a b"),
        (["--name=A"], "--name takes small letters"),
        (["--restarts=x"], "--restarts takes a whole number"),
        (["train", "--workdir=runs/a"], "write --workdir=bucket/NAME, got runs/a"),
        (
            ["train", "--workdir=gs://b/a"],
            "launch/gke.sh --bucket=b train ... --workdir=bucket/a",
        ),
    ],
)
def test_a_wrong_option_is_answered_with_one_line(options, advice):
    done = test_launch.launch("gke.sh", "--dry-run", *OPTIONS, *options, *TRAIN)
    assert done.returncode == 2 and done.stdout == ""
    assert advice in done.stderr and len(done.stderr.splitlines()) == 1


START = [
    answer("kubectl delete jobset"),
    answer("kubectl delete configmap"),
    answer("kubectl create configmap"),
    answer("kubectl create --filename=-"),
]


@pytest.mark.parametrize("before", ["", "n:Failed"])
def test_the_code_and_the_manifest_are_created_in_the_cluster(before, tmp_path):
    """For the first time, and in the place of a JobSet that has ended."""
    options = [*OPTIONS, "--namespace=team", *TRAIN]
    played = fake_clouds.play(
        tmp_path, [answer("kubectl get jobset", before), *START], "gke.sh", *options
    )
    assert played.code == 0 and all("--namespace=team" in call for call in played.calls)
    assert yaml.safe_load(played.stdin) == manifest()
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        names = archive.getnames()
    assert {"bnas_jax/__main__.py", "launch/environment.sh", "requirements.txt"} <= set(
        names
    )
    assert not any("__pycache__" in name for name in names)
    # What the manifest mounts.
    assert "n-code" in played.of("create", "configmap")[0]


def test_one_that_runs_is_not_touched(tmp_path):
    running = [answer("kubectl get jobset", "n:")]
    played = fake_clouds.play(
        tmp_path, running, "gke.sh", "--namespace=t", *OPTIONS, *TRAIN
    )
    assert played.code == 2
    assert "write launch/gke.sh --namespace=t --name=n stop, or" in played.stderr


def test_a_plan_that_does_not_fit_creates_nothing(tmp_path):
    lines = [answer("kubectl get jobset"), answer("python plan", "too large", 1)]
    played = fake_clouds.play(tmp_path, lines, "gke.sh", "--plan", *OPTIONS, *TRAIN)
    assert played.code == 1 and "does not fit on v4-8" in played.stderr
    assert "--on=v4-8" in played.calls[1]


def test_stop_and_log(tmp_path):
    lines = [answer("kubectl delete jobset"), answer("kubectl delete configmap")]
    stop = fake_clouds.play(tmp_path, lines, "gke.sh", "--name=n", "stop")
    # Gone only when its pods have ended, saved.
    assert stop.code == 0 and {"n", "--cascade=foreground"} <= set(stop.calls[0])
    done = test_launch.launch("gke.sh", "--dry-run", "--name=n", "log")
    words = shlex.split(done.stderr)
    assert words[:2] == ["kubectl", "logs"] and "jobset-name=n," in words[-1]
