"""The endpoint on one machine: RunPod's queue, its client API and its workers' protocol, over real worker processes."""
