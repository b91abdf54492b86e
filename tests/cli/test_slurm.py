"""The scripts of `docs/clusters` under a real Slurm, on two machines made of namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import QUICK, dpo_bench, results
from tests.cli.test_cluster import TWO, assert_same_policies
from tests.cli.test_interruptions import assert_same, checkpoints, manifests, wait_until
from tests.machines import Machine, machines, require_machines

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
SCRIPTS = Path(__file__).parents[2] / "docs" / "clusters"
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=test
SlurmctldHost=machine1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=machine[1-2] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class Slurm:
    """A cluster to which jobs are given from its first machine."""

    def __init__(self, made: list[Machine], folder: Path) -> None:
        self.first = made[0]
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def ask(self, *command: object) -> str:
        """What a command of Slurm says."""
        done = subprocess.run(
            self.first.command(*command),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *arguments: object) -> str:
        """Give it a script with its arguments; returns the job's number."""
        output = f"--output={self.folder}/job-%j.log"
        said = self.ask("sbatch", "--parsable", f"--chdir={self.folder}", output, *arguments)
        return said.strip()

    def state(self, job: str) -> str:
        """A job's state."""
        shown = self.ask("scontrol", "show", "job", job)
        return shown.partition("JobState=")[2].split()[0]

    def log(self, job: str) -> str:
        """What a job has said."""
        return (self.folder / f"job-{job}.log").read_text()

    def wait(self, job: str, seconds: float = 240.0) -> str:
        """The state in which a job has ended."""
        wait_until(lambda: self.state(job) not in {"PENDING", "RUNNING", "COMPLETING"}, seconds)
        return self.state(job)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    require_machines()
    if not all(map(shutil.which, (*DAEMONS, "sbatch"))):
        pytest.skip("needs Slurm (Debian: slurm-wlm, munge)")
    (tmp_path / "state").mkdir()
    (tmp_path / "slurm.conf").write_text(CONFIGURATION.format(folder=tmp_path))
    key = tmp_path / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    tmp_path.chmod(0o755)
    with machines(2, tmp_path) as made, contextlib.ExitStack() as stack:
        cluster = Slurm(made, tmp_path)
        for machine in made:
            subprocess.run(machine.command("mkdir", "-m", "755", "/run/munge"), check=True)
            daemons = [["munged", "--foreground", "--force", f"--key-file={key}"]]
            daemons += [["slurmctld", "-D"]] if machine is made[0] else []
            daemons += [["slurmd", "-D", "-N", machine.name]]
            for daemon in daemons:
                log = stack.enter_context((tmp_path / f"{daemon[0]}-{machine.name}.out").open("w"))
                started = machine.start(
                    *daemon, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT
                )
                stack.callback(started.wait)
                time.sleep(1)
            stack.callback(machine.cut_power)
        wait_until(lambda: cluster.ask("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], 60)
        yield cluster


@pytest.fixture(scope="module")
def asked(llama_folder: Path, pairs_file: Path) -> list[str]:
    return [
        *("--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *("--losses", "dpo", "--beta", "0.1", *QUICK, "--set=training.steps=400"),
        *("--set=training.checkpoint_seconds=0.2", "--set=keep_policies=true"),
    ]


@pytest.fixture(scope="module")
def alone(asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two processes of this machine."""
    out = tmp_path_factory.mktemp("alone") / "out"
    dpo_bench("sweep", *asked, TWO, "--workers", "1", "--out", out)
    return out


OPTIONS = ("--nodes=2", "--cpus-per-task=1")


@pytest.mark.parametrize(
    ("script", "more"), [("torchrun.sbatch", ()), ("ray.sbatch", (TWO, "--workers", "1"))]
)
def test_a_job_whose_time_is_over_saves_and_the_same_line_goes_on(
    slurm: Slurm,
    asked: list[str],
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    more: tuple[str, ...],
) -> None:
    """A scheduler's signal comes to whom the script has it come, as it does before the limit."""
    slurm.environment["PROCESSES"] = "1"
    out = tmp_path / "out"
    line = (*OPTIONS, SCRIPTS / script, *asked, *more, "--out", out)
    job = slurm.submit(*line)
    wait_until(lambda: checkpoints(out), 240)
    only = ("--batch",) if "B:TERM" in (SCRIPTS / script).read_text() else ()
    slurm.ask("scancel", "--signal=TERM", *only, job)
    assert slurm.wait(job) == "FAILED", slurm.log(job)
    assert "interrupted; the same command goes on from here" in slurm.log(job)
    assert checkpoints(out)
    assert not manifests(out)
    job = slurm.submit(*line)
    assert slurm.wait(job) == "COMPLETED", slurm.log(job)
    assert results(out)["status"].tolist() == ["done"]
    assert_same(out, alone)
    assert_same_policies(out, alone)
