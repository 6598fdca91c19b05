"""The operations of a decoder on a CPU, in C++ with OpenMP: built on installation if there is a compiler."""
