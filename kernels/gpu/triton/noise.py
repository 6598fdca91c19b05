"""Gumbel noise that is the same on every device: `kernels.sampling.noise_key` and `gumbel_noise`, in registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def mix64(x):
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def mix32(x):
    """The `lowbias32` integer hash (Wellons 2018, hash-prospector) on uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def noise_key(seed, choice, position):
    """The two uint32 words that stand for (seed, choice, position), bit for bit the reference's."""
    key = mix64(seed.to(tl.uint64, bitcast=True) + 0x9E3779B97F4A7C15)
    key = mix64(key + choice.to(tl.int64).to(tl.uint64, bitcast=True) + 0x9E3779B97F4A7C15)
    key = mix64(key + position.to(tl.uint64, bitcast=True) + 0x9E3779B97F4A7C15)
    return (key >> 32).to(tl.uint32), (key & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def negative_log1p_of_negative(u):
    """-log(1 - u) for 0 < u < 1, to the last bits: the rounding of 1 - u is divided out (Kahan; Goldberg 1991)."""
    rest = 1.0 - u
    rounded = rest == 1.0
    return tl.where(rounded, u, -tl.log(rest) * tl.div_rn(u, tl.where(rounded, 1.0, 1.0 - rest)))


@triton.jit
def gumbel_noise(ids, high, low):
    """Float32 noise of the tokens `ids` under a key; see the reference for why the uniform number is made so."""
    bits = mix32(mix32(ids.to(tl.uint32) + high) ^ low)
    uniform = ((bits >> 1).to(tl.float32) + 0.5) * 4.656612873077393e-10
    uniform = tl.minimum(uniform, 0.9999999403953552)
    return -tl.log(negative_log1p_of_negative(uniform))
