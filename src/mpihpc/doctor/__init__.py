"""Whether an environment is fit for the package, and what to do where it is not: ``python -m mpihpc.doctor``."""
