"""The serverless function: an HTTP server with OpenAI's API, and RunPod's queue worker, over one engine in the process.

Importing this package imports nothing heavy: `server` and `worker` begin the boot first and import the rest beside it.
"""
