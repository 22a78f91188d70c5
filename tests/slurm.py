"""A real Slurm on this machine, for as long as a test needs it: munged, slurmctld and one slurmd.

The node says it has 8 cores and 4 GPUs, whatever the machine has. Ports, keys, state and logs are its own, in a
temporary folder that ``SLURM_CONF`` leads to; a Slurm that the machine itself belongs to is not touched. Needs root and
Debian's ``slurm-wlm`` and ``munge``. (One slurmd: with two on one host, srun's PMIx does not find its peers.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from suite import end, environment

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol")
CORES, GPUS = 8, ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
CONFIGURATION = """
ClusterName=mpihpc-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true

# Neither cgroups nor binding: they need more rights, and more cores, than a test has.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Believe the line below, not the hardware.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cores} Gres=gpu:{gpus}
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE
MpiDefault=pmix
ReturnToService=2
# A job's number names MPICH's shared memory, and what a killed job left must not be found by its namesake.
FirstJobId={first}

# Start what can start at once; give a job a few seconds to end before it is killed.
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
KillWait=5
"""


def missing() -> str:
    """Why there can be no Slurm here; "" if there can."""
    if os.geteuid():
        return "only root can start a Slurm"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_search_path())]
    return f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge)" if absent else ""


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Slurm:
    """A running Slurm; ``with Slurm() as slurm``. `env` is what its commands need."""

    def __init__(self) -> None:
        # Not in pytest's folders: the name of a socket may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="mpihpc-slurm-"))
        self.env = {name: value for name, value in environment().items() if not name.startswith(("SLURM", "SBATCH"))}
        self.env |= {
            "SLURM_CONF": f"{self.folder}/slurm.conf",
            # A job inherits this: `python` and `mpirun` in a script are those of the tests.
            "PATH": f"{Path(sys.executable).parent}:{_search_path()}",
        }
        self.daemons: list[subprocess.Popen] = []
        self.helpers: set[int] = set()  # processes that a daemon keeps for itself
        self.shared: set[Path] = set()  # shared memory of jobs, as far as `processes` saw it

    def __enter__(self) -> Slurm:
        # Who is asked to go stops the Slurm first. (pytest takes a SystemExit for a test's failure, and goes on.)
        self.on_term = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self._start()
        except BaseException:
            print(self.logs())
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        signal.signal(signal.SIGTERM, self.on_term)

    def _start(self) -> None:
        self.folder.chmod(0o755)  # munged wants its socket to be reachable
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        host = socket.gethostname().split(".")[0]
        first = 1 + int.from_bytes(os.urandom(3))
        text = CONFIGURATION.format(
            folder=self.folder, host=host, ports=free_ports(2), cores=CORES, gpus=len(GPUS), first=first
        )
        Path(self.env["SLURM_CONF"]).write_text(text)
        # Any devices will do.
        gpus = [f"NodeName=node Name=gpu File={device}\n" for device in GPUS]
        (self.folder / "gres.conf").write_text("".join(gpus))
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))

        files = ("key-file", "socket", "pid-file", "seed-file")
        munge = [f"--{name}={self.folder}/munge.{name.removesuffix('-file')}" for name in files]
        self._daemon("munged", "--foreground", *munge)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged did not start")
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", "node")
        self._wait(lambda: "State=IDLE" in self.run("scontrol", "show", "node", "node").stdout, "the node is not idle")
        self.helpers = set(self.processes())

    def _daemon(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            command = [str(shutil.which(name, path=_search_path())), *options]
            self.daemons.append(
                subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _wait(self, condition, otherwise: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                raise RuntimeError(otherwise)
            time.sleep(0.05)

    def start(self, *command: object, cwd: Path | None = None) -> subprocess.Popen:
        """Start one of Slurm's commands."""
        pipe = subprocess.PIPE
        words = [str(word) for word in command]
        null = subprocess.DEVNULL
        return subprocess.Popen(words, cwd=cwd, env=self.env, stdin=null, stdout=pipe, stderr=pipe, text=True)

    def run(self, *command: object, cwd: Path | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
        """Run one of Slurm's commands, or another in its environment."""
        process = self.start(*command, cwd=cwd)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            end(process)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def jobs(self, job: str) -> list[dict[str, str]]:
        """What scontrol knows of a job; of each task, if it is an array."""
        lines = self.run("scontrol", "-o", "show", "job", job).stdout.splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def wait(self, job: str, timeout: float = 60) -> list[dict[str, str]]:
        """`jobs`, when all of it has ended."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.jobs(job)
            if found and all(task["JobState"] not in ("PENDING", "RUNNING", "COMPLETING") for task in found):
                return found
            if time.monotonic() > deadline:
                self.run("scancel", job)
                raise TimeoutError(f"job {job} has not ended after {timeout} s: {[t['JobState'] for t in found]}")
            time.sleep(0.1)

    def processes(self) -> list[int]:
        """What this Slurm started and still runs, for jobs. Notes their shared memory: who is killed leaves it."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        own = {*self.helpers, *(daemon.pid for daemon in self.daemons)}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if mark in (process / "environ").read_bytes().split(b"\0") and int(process.name) not in own:
                    found.append(int(process.name))
                    mapped = (process / "maps").read_text().splitlines()
                    self.shared |= {Path(line.split()[5]) for line in mapped if " /dev/shm/" in line}
        return found

    def logs(self, last: int = 60) -> str:
        """The ends of the daemons' logs."""
        text = []
        for log in sorted(self.folder.glob("*.log")):
            text += [f"---- {log.name}", *log.read_text(errors="replace").splitlines()[-last:]]
        return "\n".join(text)

    def stop(self) -> None:
        """End the jobs, then the daemons, then what is left of either; remove the folder."""
        if len(self.daemons) == 3:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--user=root", timeout=3)
            deadline = time.monotonic() + 4
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.1)
        for daemon in reversed(self.daemons):
            end(daemon)
        self.helpers.clear()
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for file in self.shared:
            file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for s in found:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in found]
