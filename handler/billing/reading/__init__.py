"""The ledger read: what it cost, whether it is whole, and how it looks to other systems."""
