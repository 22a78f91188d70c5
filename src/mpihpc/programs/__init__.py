"""What runs from the command line: the frame and the configuration that programs share, and a folder per job."""
