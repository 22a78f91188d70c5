"""The version, said once: the package, its metadata and its programs read it here."""

__version__ = "0.1.0"
