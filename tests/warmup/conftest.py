"""S3 servers for the warmer's memory: those that the ledger is tested on."""

from tests.billing.conftest import moto, server, start_server

__all__ = ["moto", "server", "start_server"]
