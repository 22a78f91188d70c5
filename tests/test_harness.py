"""The ground the other tests stand on: one MPI library, real ranks, the same examples and verdicts."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", ["mpi", "hdf5"])
def test_one_library(comm, name):
    """mpi4py, h5py and HDF5 share one MPI; two in one process crash sooner or later."""
    import h5py  # noqa: F401

    maps = Path("/proc/self/maps").read_text().splitlines()
    files = {os.path.realpath(line.split(maxsplit=5)[-1]) for line in maps if "/" in line}
    pattern = rf"lib{name}(_\w*mpi)?(-[0-9a-f]+)?\.so[.\d]*"  # not libmpi_cxx, not libhdf5_hl
    libraries = {file for file in files if re.fullmatch(pattern, os.path.basename(file))}
    assert len(libraries) == 1, libraries


def test_launcher_and_library_match(comm):
    """A launcher of another MPI starts N jobs of one rank."""
    launched = [os.environ[name] for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE") if name in os.environ]
    assert set(launched) <= {str(comm.size)}


def test_shared_folder_is_one(comm, shared_tmp_path):
    (shared_tmp_path / str(comm.rank)).touch()
    comm.Barrier()
    assert {p.name for p in shared_tmp_path.iterdir()} == {str(rank) for rank in range(comm.size)}


@given(data=st.lists(st.integers()), x=st.floats())
def test_examples_are_the_same(comm, verdict, data, x):
    with verdict(comm):
        assert len(set(comm.allgather(repr((data, x))))) == 1


def test_example_that_fails_on_one_rank(comm, verdict):
    """The ranks find, and shrink to, the same example, though only the last rank sees the failures."""
    seen = []

    @given(x=st.integers(min_value=0))
    def prop(x):
        seen.append(x)
        with verdict(comm):
            if comm.rank == comm.size - 1:
                assert x < 1000
                assert x < 1000000, "another place"

    with pytest.raises(AssertionError, match=f"rank {comm.size - 1}: "):
        prop()
    assert seen[-1] == 1000
    assert len(set(comm.allgather(repr(seen)))) == 1
