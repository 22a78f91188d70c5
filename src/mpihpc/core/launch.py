"""How the job was started: whether MPI runs, and whether the launcher belongs to it."""

from __future__ import annotations

import os

from mpi4py import MPI

# SLURM_NTASKS is set for serial programs in a batch script too, so it proves nothing.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


class LaunchError(OSError):
    """The job was started in a way in which its ranks cannot work together."""


def mpi_active() -> bool:
    """Whether MPI runs in this process: it was initialised, and not finalised yet."""
    return MPI.Is_initialized() and not MPI.Is_finalized()


def check_launch() -> None:
    """Stop where MPI does not run, or where the launcher started several ranks and MPI sees one.

    In the second case each process would do the work of all, and write over the files of the others.

    Raises
    ------
    LaunchError
        MPI is not initialised, or is finalised; or the launcher and the MPI library that mpi4py loaded do not belong
        together.
    """
    if not MPI.Is_initialized():
        raise LaunchError(
            "MPI is not initialised, and this needs it: unset MPI4PY_RC_INITIALIZE (or mpi4py.rc.initialize), or call "
            "MPI.Init() first"
        )
    if MPI.Is_finalized():
        raise LaunchError("MPI is finalised, and this needs it: call MPI.Finalize() last, or leave it to mpi4py")
    name, ranks = _launched()
    if MPI.COMM_WORLD.size == 1 and ranks > 1:
        library = " ".join(MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0].split())
        raise LaunchError(
            f"the launcher started {ranks} ranks ({name}), but each sees only itself (1): mpirun or srun "
            f"does not belong to the MPI library in use ({library}); use the launcher of that library"
        )


def job_size() -> int:
    """The number of ranks: MPI's, or the launcher's where that is more or MPI does not run."""
    return max(MPI.COMM_WORLD.size if mpi_active() else 1, _launched()[1])


def is_first() -> bool:
    """Whether this process speaks for the job: rank 0, or the launcher's first process if MPI sees no others."""
    if mpi_active() and MPI.COMM_WORLD.size > 1:
        return MPI.COMM_WORLD.rank == 0
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def _launched() -> tuple[str, int]:
    """The variable in which the launcher says how many ranks it started, and that number; 1 if none says so."""
    return next(((name, int(os.environ[name])) for name in _SIZES if os.environ.get(name, "").isdigit()), ("", 1))
