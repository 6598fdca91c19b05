"""The arithmetic of a decoder: one operation a file, its plain-torch reference in it.

Hugging Face publishes a package of the same name; `PILOTLIGHT` tells ours from it.
"""

PILOTLIGHT = True
