"""What policies would have cost on given arrivals."""
