"""The handler, tested from outside: real processes, real clients, the demo model's checkable answers."""
