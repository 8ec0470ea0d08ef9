"""Commands of clouds and clusters that play what a test writes down: a play is a list
of calls, each with its answer.
"""

import dataclasses
import os
import pathlib
import subprocess

import test_launch

NOT_FOUND = "ERROR: (gcloud.describe) NOT_FOUND: Resource 'x' was not found."
NO_CAPACITY = '{"code": 8, "message": "There is no more capacity in the zone \\"z\\""}'
QUOTA = (
    '{"code": 8, "message": "Quota limit TPUV4 has been exceeded. Limit: 0 in zone z"}'
)

# Any command. It writes down its arguments and plays the next line: CALL, EXIT CODE and
# OUTPUT, between tabs. A call that does not come now in the play ends with 97. A
# description without a format says again why there was none before.
_PLAYER = r"""#!/usr/bin/env bash
tool=${0##*/}
case $tool in
    gcloud) call="gcloud $3 $4" ;;
    kubectl) call="kubectl $1 $2" ;;
    python) if [[ $1 == -c ]]; then exit; else call="python $3"; fi ;;
    *) call=$tool ;;
esac
if [[ $call == *describe && "$*" != *--format* ]]; then cat "$FAKE/said" >&2; exit 1; fi
printf '%s\0' "$tool" "$@" >>"$FAKE/calls"
printf '\1' >>"$FAKE/calls"
IFS=$'\t' read -r wanted code output <"$FAKE/play"
sed -i 1d "$FAKE/play"
if [[ $call != "$wanted" ]]; then
    echo "played $wanted, called $*" | tee -a "$FAKE/wrong" >&2
    exit 97
fi
for word; do
    if [[ $word == --from-file=* ]]; then cp "${word#*=}" "$FAKE/code.tar.gz"; fi
done
if [[ $call == sbatch || "$*" == *--filename=-* ]]; then cat >"$FAKE/stdin"; fi
if ((code)); then
    echo "$output" | tee "$FAKE/said" >&2
else
    printf '%s' "${output:+$output
}"
fi
exit "$code"
"""


@dataclasses.dataclass
class Played:
    """What a script did: its exit code and stderr, each call's words, and what a call
    read from stdin.
    """

    code: int
    stderr: str
    calls: list[list[str]]
    stdin: str
    folder: pathlib.Path

    def of(self, *words: str) -> list[list[str]]:
        """The calls that have all these words."""
        return [call for call in self.calls if set(words) <= set(call)]


def answer(call: str, output: str = "", code: int = 0) -> str:
    """One line of a play."""
    return f"{call}\t{code}\t{output}\n"


def play(
    folder: pathlib.Path, lines: list[str], script: str, *arguments: str
) -> Played:
    """Runs a script of launch/; every line of the play must be called, in its order."""
    for tool in ("gcloud", "kubectl", "sbatch", "python"):
        (folder / tool).write_text(_PLAYER)
        (folder / tool).chmod(0o755)
    for name, text in {
        "play": "".join(lines),
        "calls": "",
        "stdin": "",
        "wrong": "",
    }.items():
        (folder / name).write_text(text)
    environment = {
        **os.environ,
        "FAKE": str(folder),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "BNAS_PYTHON": str(folder / "python"),
    }
    done = subprocess.run(
        [test_launch.LAUNCH / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    read = lambda name: (folder / name).read_text()
    assert read("wrong") == "" and read("play") == "", (
        read("wrong"),
        read("play"),
        done.stderr,
    )
    calls = [call.split("\0")[:-1] for call in read("calls").split("\1")[:-1]]
    return Played(done.returncode, done.stderr, calls, read("stdin"), folder)
