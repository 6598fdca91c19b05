"""What is done once, at build time: models fetched, laid out and baked, and the demo model trained."""
