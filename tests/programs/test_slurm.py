"""Under a real Slurm: every script in jobs/, srun and mpirun, and jobs that are cancelled or lose a rank."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import slurm as machine
from suite import end

# This process is no MPI program: a signal reaches it, and lets it stop its Slurm.
pytestmark = pytest.mark.timeout(100, method="signal")

JOBS = Path(__file__).resolve().parents[2] / "jobs"
STENCIL = ("-m", "mpihpc.stencil")
ENDLESS = ("--shape", 400, 300, "--steps", 10**9, "--output", "out.h5")
SIZES = "--nodes=1 --ntasks-per-node={} --cpus-per-task=1"  # for sbatch, instead of the script's own


def mpi_library():
    """The version of the MPI library of these tests, asked outside this process."""
    command = [sys.executable, "-m", "mpi4py", "--mpi-lib-version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def cluster():
    if reason := machine.missing():
        # Where everything is installed for it, as in CI, these tests must not be skipped in silence.
        required = "slurm" in os.environ.get("MPIHPC_TEST_REQUIRE", "")
        (pytest.fail if required else pytest.skip)(f"no Slurm: {reason}")
    with machine.Slurm() as slurm:
        # What a site has set for its MPI, and a user's `srun` finds.
        slurm.env["SLURM_MPI_TYPE"] = "pmi2" if "MPICH" in mpi_library() else "pmix"
        yield slurm


@pytest.fixture
def slurm(cluster):
    """A Slurm of one node with 8 cores; its logs are shown when a test fails."""
    yield cluster
    cluster.run("scancel", "--user=root")
    print(cluster.logs())


@pytest.fixture(scope="session")
def starts_ranks(cluster):
    """Whether srun can start this MPI: Debian 12's PMIx 4 cannot serve Open MPI 5 with more than two ranks."""
    program = "from mpi4py import MPI; print('size', MPI.COMM_WORLD.size)"
    done = cluster.run("srun", "-n", 8, "python", "-c", program)
    return done.stdout.count("size 8\n") == 8, done.stderr


@pytest.fixture
def srun(slurm, starts_ranks):
    """The Slurm, if its srun can start this MPI."""
    able, why = starts_ranks
    if not able:
        assert "Open MPI v5" in mpi_library(), why
        pytest.skip("this Slurm's srun cannot start Open MPI 5")
    return slurm


@pytest.fixture
def folder(tmp_path):
    """A folder to submit from, with jobs/ and an input."""
    (tmp_path / "jobs").symlink_to(JOBS)
    with h5py.File(tmp_path / "dem.h5", "w") as f:
        f["z"] = np.random.default_rng(11).random((203, 301))
    return tmp_path


def write_old(file):
    """An old result, and its bytes."""
    with h5py.File(file, "w") as f:
        f["data"] = np.arange(12.0)
    return file.read_bytes()


def submit(slurm, command, ranks, cwd):
    """Submit as a user would, but with sizes that the one node has; returns the job's number."""
    sized = command.replace("sbatch ", f"sbatch --parsable {SIZES.format(ranks)} ", 1)
    done = slurm.run("bash", "-c", sized, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s"
        time.sleep(0.02)


def advice(script):
    """The command that a script's head says to submit it with."""
    commands = re.findall(r"^#\s+(sbatch .*)", script.read_text(), re.M)
    assert len(commands) == 1, f"{script.name} does not say, in one line, how to submit it"
    return commands[0]


def runs_of_sweep(words):
    return [shlex.split(line) for line in (JOBS.parent / words[0]).read_text().splitlines() if line.startswith("--")]


# script -> its program; from the words behind it, the program's options in each of the runs it makes
RUNS = {
    "matmul.sbatch": (("-m", "mpihpc.matmul"), lambda words: [words]),
    "stencil_cpu.sbatch": (STENCIL, lambda words: [words]),
    "stencil_gpu.sbatch": (STENCIL, lambda words: [words]),
    "sweep.sbatch": (STENCIL, runs_of_sweep),
}
NO_GPU = {"stencil_gpu.sbatch": " --device cpu"}  # where the node only says that it has some


def test_no_script_is_forgotten():
    assert {script.name for script in JOBS.glob("*.sbatch")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_script(launch, srun, folder, name):
    """The script does what its head promises: the same results as without Slurm."""
    command = advice(JOBS / name)
    program, runs_of = RUNS[name]
    runs = runs_of(shlex.split(command.partition(f"jobs/{name} ")[2]))
    assert runs
    expected = {}
    for options in runs:
        output = folder / options[options.index("--output") + 1]
        done = launch(2, *program, *options)
        assert done.returncode == 0, done.stderr
        with h5py.File(output) as f:
            expected[output] = re.search("checksum ([0-9a-f]{16})", done.stdout)[1], f["data"][...]
        output.unlink()
    assert len(expected) == len(runs), "runs that write the same file"

    job = submit(srun, command + NO_GPU.get(name, ""), 4, folder)
    tasks = srun.wait(job)
    logs = [Path(task["StdOut"]) for task in tasks]
    said = [log.read_text() for log in logs]
    assert [(task["JobState"], task["ExitCode"]) for task in tasks] == [("COMPLETED", "0:0")] * len(runs), said
    assert len(set(logs)) == len(runs)
    assert all(log.parent == folder and job in log.name for log in logs)
    for text in said:
        ranks, grid = re.search(r"^(\d+) ranks as (\S+),", text, re.M).groups()
        assert int(ranks) == 4
        assert np.prod([int(n) for n in grid.split("x")]) == 4
    checksums = re.findall("checksum ([0-9a-f]{16})", "\n".join(said))
    assert sorted(checksums) == sorted(checksum for checksum, data in expected.values())
    for output, (_, data) in expected.items():
        with h5py.File(output) as f:
            np.testing.assert_array_equal(f["data"], data)
    assert {p.name for p in folder.iterdir()} == {"jobs", "dem.h5", *(p.name for p in (*logs, *expected))}


def test_stencil_without_arguments(srun, folder):
    job = submit(srun, "sbatch jobs/stencil_cpu.sbatch", 8, folder)
    [task] = srun.wait(job)
    said = Path(task["StdOut"]).read_text()
    assert task["JobState"] == "COMPLETED", said
    assert "1 nodes, 8 ranks, 1 threads each" in said
    assert "\n8 ranks as 4x2," in said


def test_stencil_on_gpus(srun, folder):
    """All GPUs of the node for all ranks, no binding; the log tells the ranks' GPUs. Where there are none, it fails."""
    script = (JOBS / "stencil_gpu.sbatch").read_text()
    options = re.findall(r"^#SBATCH (\S+)", script, re.M)
    assert "--gpus-per-node=4" in options and not any(name.startswith("--gpus-per-task") for name in options)
    job = submit(srun, "sbatch jobs/stencil_gpu.sbatch --output out.h5", 2, folder)
    [task] = srun.wait(job)
    said = Path(task["StdOut"]).read_text()
    assert "1 nodes, 2 ranks, 4 GPUs on each node, transport auto" in said
    if "GPU map" in said:
        assert "rank 0: gpu 0 of" in said and task["JobState"] == "COMPLETED", said
    else:
        assert "no GPU: " in said and "no GPU is available" in said and task["JobState"] == "FAILED", said
        assert not (folder / "out.h5").exists()


def test_sweep_with_mistakes(srun, folder):
    """One run's mistake is told in its own log, and is no other run's."""
    (folder / "runs.txt").write_text(
        "--shape 20 20 --output 1.h5\n"
        "not a run\n"
        "--shape 20 20 --kernel nonsense --output 2.h5\n"
        "--shape 20 20 --kernel '[1\n"
        "--shape 20 20 --output $(touch${IFS}oops).h5\n"
    )
    job = submit(srun, "sbatch --array=1-5 jobs/sweep.sbatch runs.txt", 2, folder)
    tasks = {int(task["ArrayTaskId"]): task for task in srun.wait(job)}
    said = {n: Path(task["StdOut"]).read_text() for n, task in tasks.items()}
    assert [tasks[n]["JobState"] for n in range(1, 6)] == ["COMPLETED", "FAILED", "FAILED", "COMPLETED", "FAILED"], said
    assert tasks[2]["ExitCode"] == "2:0"
    assert said[2].count("unknown kernel 'nonsense'") == 1
    assert "unmatched single quote" in said[3] and "ranks as" not in said[3]
    assert "runs.txt has no run 5" in said[5]
    assert {p.name for p in folder.glob("*.h5")} == {"dem.h5", "1.h5", "$(touch${IFS}oops).h5"}
    assert not (folder / "oops").exists()


def test_mpirun_in_a_batch_script(slurm, folder):
    """mpirun takes the number of ranks from the job."""
    command = "mpirun python -m mpihpc.stencil --input dem.h5:/z --kernel mean:3 --output out.h5 --verify"
    if "MPICH" in mpi_library():
        # Hydra starts its helpers with srun, whose PMIx it would take for its own.
        command = f"export SLURM_MPI_TYPE=none; {command}"
    job = submit(slurm, f"sbatch --output=log --wrap={shlex.quote(command)}", 8, folder)
    [task] = slurm.wait(job)
    said = (folder / "log").read_text()
    assert (task["JobState"], task["ExitCode"]) == ("COMPLETED", "0:0"), said
    assert "\n8 ranks as " in said
    with h5py.File(folder / "out.h5") as f:
        assert f["data"].shape == (203, 301)


def test_srun_passes_the_exit_code(srun, folder):
    """Bad input under srun: one line and code 2, as everywhere."""
    done = srun.run("srun", "-n", 3, "python", *STENCIL, "--shape", 20, "--steps", -1, cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    own = [line for line in done.stderr.splitlines() if not line.startswith("srun: ")]
    assert len(own) == 1 and own[0].startswith("mpihpc.stencil: error: "), done.stderr


def test_srun_of_another_mpi(slurm, folder):
    """Every rank would be alone: the program says so once (Open MPI 4 stops by itself before), and writes nothing."""
    command = ("srun", "--mpi=none", "-n", 3, "python", *STENCIL, "--shape", 20, "--output", "out.h5")
    done = slurm.run(*command, cwd=folder)
    assert done.returncode != 0
    assert not (folder / "out.h5").exists()
    if "Open MPI v4" not in mpi_library():
        assert done.returncode == 2
        assert done.stderr.count("the launcher started 3 ranks (SLURM_STEP_NUM_TASKS)") == 1, done.stderr


def ended(slurm, folder, old):
    """Nothing runs, the old result is there, and nothing else goes by its name."""
    wait_until(lambda: not slurm.processes(), 10)
    assert (folder / "out.h5").read_bytes() == old


def test_scancel_in_the_middle_of_the_steps(srun, folder):
    old = write_old(folder / "out.h5")
    job = submit(srun, f"sbatch --output=log jobs/stencil_cpu.sbatch {shlex.join(map(str, ENDLESS))}", 8, folder)
    log = folder / "log"
    wait_until(lambda: log.exists() and "8 ranks as" in log.read_text())
    time.sleep(1)
    assert srun.processes()
    begin = time.monotonic()
    assert srun.run("scancel", job).returncode == 0
    [task] = srun.wait(job, 20)
    assert task["JobState"] == "CANCELLED", log.read_text()
    assert time.monotonic() - begin < 10
    ended(srun, folder, old)
    assert {p.name for p in folder.iterdir()} == {"jobs", "dem.h5", "out.h5", "log"}
    assert "Traceback" not in log.read_text()


def test_scancel_in_the_middle_of_a_write(srun, folder):
    """The partial file may stay, but not under the result's name; the next run does not mind it."""
    old = write_old(folder / "out.h5")
    big = "--shape 8000 8000 --steps 1 --output out.h5"
    job = submit(srun, f"sbatch --output=log jobs/stencil_cpu.sbatch {big}", 3, folder)
    wait_until(lambda: any(folder.glob("out.h5.*partial")))
    assert srun.processes()
    assert srun.run("scancel", job).returncode == 0
    [task] = srun.wait(job, 20)
    assert task["JobState"] == "CANCELLED", (folder / "log").read_text()
    ended(srun, folder, old)
    done = srun.run("srun", "-n", 3, "python", *STENCIL, "--shape", 20, 20, "--output", "out.h5", cwd=folder)
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "out.h5") as f:
        assert f["data"].shape == (20, 20)
    for rest in folder.glob("*.partial"):
        rest.unlink()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT] * 2], ids=["TERM", "INT-INT"])
def test_signal_to_srun(srun, folder, signals):
    """srun hands a SIGTERM on; of two SIGINTs within a second it makes the end of the job."""
    old = write_old(folder / "out.h5")
    process = srun.start("srun", "-n", 3, "python", *STENCIL, *ENDLESS, cwd=folder)
    try:
        assert any("3 ranks as" in line for line in process.stdout)
        assert srun.processes()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.2)
        process.communicate(timeout=15)
    finally:
        end(process)
    assert process.returncode != 0
    ended(srun, folder, old)
    assert not list(folder.glob("*.partial"))


def test_rank_killed(srun, folder):
    """kill -9 of one rank (a node out of memory, say): the others do not wait until the time limit."""
    old = write_old(folder / "out.h5")
    job = submit(srun, f"sbatch --output=log jobs/stencil_cpu.sbatch {shlex.join(map(str, ENDLESS))}", 3, folder)
    log = folder / "log"
    wait_until(lambda: log.exists() and "3 ranks as" in log.read_text())
    [victim] = [pid for pid in srun.processes() if is_rank(pid, 1)]
    os.kill(victim, signal.SIGKILL)
    [task] = srun.wait(job, 20)
    assert task["JobState"] == "FAILED", log.read_text()
    ended(srun, folder, old)


def is_rank(pid, rank):
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return f"SLURM_PROCID={rank}".encode() in environ and b"mpihpc" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_exception_on_one_rank(srun, folder):
    script = (
        "from mpi4py import MPI\n"
        "import mpihpc\n"
        "u = mpihpc.zeros((8, 8))\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    raise RuntimeError('rank 1 stumbles')\n"
        "u.checksum()\n"  # the others wait here
    )
    begin = time.monotonic()
    process = srun.start("srun", "-n", 3, "python", "-c", script, cwd=folder)
    try:
        wait_until(lambda: process.poll() is not None or not srun.processes(), 15)
        stderr = process.communicate(timeout=15)[1]
    finally:
        end(process)
    assert time.monotonic() - begin < 15
    assert process.returncode != 0
    assert stderr.count("RuntimeError: rank 1 stumbles") == 1
    assert "rank 1 of 3" in stderr


def test_nothing_is_left(cluster):
    """Without jobs, only the three daemons."""
    wait_until(lambda: not cluster.processes(), 10)
    assert all(daemon.poll() is None for daemon in cluster.daemons)
