"""The worker's own loop: RunPod's protocol between a worker and its queue, without the SDK."""
