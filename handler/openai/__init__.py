"""OpenAI's API over the engine, with and without HTTP."""
