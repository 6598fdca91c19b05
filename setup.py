"""The part of the build that pyproject.toml cannot say: the C++ kernels, left out where there is no compiler."""

from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("kernels/cpu/source")

KERNELS = Extension(
    "kernels.cpu._kernels",  # No Python module, but it is built, named and installed like one.
    sources=sorted(map(str, SOURCE.glob("*.cpp"))),
    depends=sorted(map(str, SOURCE.glob("*.h"))),
    language="c++",
    # NaN and infinity must come through, so nothing of -ffast-math that assumes there are none. Never -march: the
    # instruction set is chosen when the library is loaded.
    extra_compile_args=[
        "-std=c++17", "-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
        "-fvisibility=hidden", "-Wno-psabi", "-Wno-maybe-uninitialized",
    ],
    extra_link_args=["-pthread"],
    optional=True,
)

setup(ext_modules=[KERNELS])
