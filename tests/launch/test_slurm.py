"""launch/slurm.sh: a plan before the job is submitted."""

import fake_clouds
import pytest
import test_launch
from fake_clouds import answer

TRAIN = ["train", "--config=configs/train.py:a", "--workdir=/shared/a"]


@pytest.mark.parametrize(
    ("options", "machine"),
    [
        (["--gpus=8", "--plan=h100"], "h100x8"),
        (["--nodes=2", "--gpus=a100:4", "--plan"], "a100x8"),
        (["--gpus=nvidia_h100:2", "--plan=h100"], "h100x2"),
    ],
)
def test_what_fits_is_submitted(options, machine, tmp_path):
    lines = [answer("python plan", "it fits"), answer("sbatch")]
    played = fake_clouds.play(tmp_path, lines, "slurm.sh", *options, *TRAIN)
    assert played.code == 0
    assert ("in hosts of 8; between 2 nodes of 4" in played.stderr) == (
        "--nodes=2" in options
    )
    assert played.calls[0][1:] == [
        "-m",
        "bnas_jax",
        "plan",
        f"--on={machine}",
        TRAIN[1],
    ]
    (gpus,) = (
        word.removeprefix("--gpus=") for word in options if word.startswith("--gpus=")
    )
    wanted = {
        f"#SBATCH --gpus-per-node={gpus}",
        f"#SBATCH --ntasks-per-node={gpus[-1]}",
    }
    assert wanted <= set(played.stdin.splitlines())


def test_what_does_not_fit_is_not_submitted(tmp_path):
    lines = [answer("python plan", "too large", 1)]
    played = fake_clouds.play(tmp_path, lines, "slurm.sh", "--plan=h100", *TRAIN)
    assert (
        played.code == 1
        and "does not fit on h100x1, so nothing was created" in played.stderr
    )


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("--plan", "write for instance --plan=h100"),
        ("--gpus=h100", "or --gpus=KIND:G, got 1 and h100"),
        ("--name=my run", "write --name= without spaces and quotes, got my run"),
        ("--account=", "write --account= without spaces and quotes, got "),
    ],
)
def test_a_wrong_option_is_answered_with_one_line(option, advice):
    done = test_launch.launch("slurm.sh", "--dry-run", option, *TRAIN)
    assert (
        done.returncode == 2
        and advice in done.stderr
        and len(done.stderr.splitlines()) == 1
    )
