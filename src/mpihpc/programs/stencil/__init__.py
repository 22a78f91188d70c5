"""The main job: many steps of a stencil, from a file to a file. See `mpihpc.stencil.__main__`."""
