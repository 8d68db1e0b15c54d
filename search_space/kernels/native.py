"""The native CPU kernels: compiled once per machine at first use, cached, called through ctypes.

The library is cached in ``$XDG_CACHE_HOME/evolute`` (``~/.cache/evolute``) under a name that
holds everything it depends on: source, flags, compiler and processor.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)

_UNITS = ("involution.cpp", "experts.cpp")
_SOURCES = (*_UNITS, "layout.cpp", "loops.cpp")  # the last two are included by the first
_FUNCTIONS = {  # and how many pointers each takes
    "involution_forward": 4,
    "involution_backward": 6,
    "experts_forward": 7,
    "experts_backward": 9,
}
# contract=fast fuses multiply and add; -ffast-math would switch the whole process to
# flush-to-zero when the library is loaded.
_FLAGS = ("-std=gnu++20", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno")
_LINK = ("-fopenmp", "-fPIC", "-shared")


def _compiler() -> str:
    """The C++ compiler: ``$CXX``, else the first of g++, c++, clang++ that is there."""
    named = os.environ.get("CXX")
    found = shutil.which(named) if named else None
    for name in ("g++", "c++", "clang++") if not named else ():
        found = found or shutil.which(name)
    if found is None:
        raise RuntimeError(f"no C++ compiler found ({named or 'g++, c++ or clang++'})")
    return os.path.realpath(found)


def _processor() -> str:
    """What -march=native looks at: a cache shared by several machines must tell them apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([*os.uname()[-1:], *kept[:2]])


def _cache_directory() -> Path:
    """The user's cache directory, or one of this process alone where that cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolute"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base):
            return base
    except OSError:
        return Path(tempfile.mkdtemp(prefix="evolute-"))


def _compile(compiler: str, target: Path) -> None:
    """Write the library to ``target``; it appears there whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    units = [str(Path(__file__).with_name(unit)) for unit in _UNITS]
    command = [compiler, *_FLAGS, *_LINK, *units, "-o", partial]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines()[:5]
            raise RuntimeError("\n".join([f"{compiler} failed ({result.returncode})", *lines]))
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels. Raises RuntimeError, OSError or SubprocessError if there is none."""
    compiler = _compiler()
    stat = os.stat(compiler)
    identity = (compiler, str(stat.st_size), str(stat.st_mtime_ns), _processor(), *_FLAGS, *_LINK)
    sources = [Path(__file__).with_name(source).read_text() for source in _SOURCES]
    digest = hashlib.sha256("\0".join([*sources, *identity]).encode()).hexdigest()
    target = _cache_directory() / f"kernels-{digest[:20]}.so"
    if not target.exists():
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one compiles, the rest wait
            if not target.exists():
                _compile(compiler, target)
    loaded = ctypes.CDLL(str(target))
    for name, pointers in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [ctypes.c_void_p] * pointers, None
    return loaded


def integers(*values: int) -> ctypes.Array:
    """Values as a kernel reads them."""
    return (ctypes.c_int64 * len(values))(*values)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether channels-last, and not contiguous in the usual order too."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def dense(tensor: Tensor, channels_last: bool) -> Tensor:
    """The tensor in one of the two memory formats, copied if it is in neither."""
    return tensor.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def _sizes(
    input: Tensor, weight: Tensor, geometry: tuple[int, int, int], last: bool, weight_last: bool
) -> ctypes.Array:
    groups = weight.shape[1] // (geometry[0] * geometry[0])
    bfloat16 = input.dtype is torch.bfloat16
    threads = torch.get_num_threads()
    return integers(*input.shape, groups, *geometry, last, weight_last, bfloat16, threads)


def forward(input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """Involution of CPU tensors of one dtype of ``DTYPES``."""
    last = is_channels_last(input)
    weight_last = weight.is_contiguous(memory_format=torch.channels_last)
    input, weight = dense(input, last), dense(weight, weight_last)
    batch, channels = input.shape[:2]
    output = torch.empty(
        (batch, channels, *weight.shape[2:]),
        dtype=input.dtype,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    sizes = _sizes(input, weight, (kernel_size, stride, dilation), last, weight_last)
    library().involution_forward(sizes, input.data_ptr(), weight.data_ptr(), output.data_ptr())
    return output


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to input and weight, in their memory formats."""
    last = is_channels_last(input)
    weight_last = weight.is_contiguous(memory_format=torch.channels_last)
    input, weight, grad = dense(input, last), dense(weight, weight_last), dense(grad, last)
    grad_input, grad_weight = torch.empty_like(input), torch.empty_like(weight)
    sizes = _sizes(input, weight, (kernel_size, stride, dilation), last, weight_last)
    tensors = (grad, input, weight, grad_input, grad_weight)
    library().involution_backward(sizes, *(tensor.data_ptr() for tensor in tensors))
    return grad_input, grad_weight
