"""The operations on an NVIDIA GPU: what to launch is decided here, the kernels themselves are in `triton/`."""
