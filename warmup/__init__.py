"""When to be warm: policies, the simulator that tries them on arrivals, and the warmer that carries them out."""
