"""Native CPU kernels: compiled once per machine at first use, cached, called through ctypes.

A library is cached in ``$XDG_CACHE_HOME/evolute`` (``~/.cache/evolute``) under a name that holds
everything it depends on: sources, flags, compiler and processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

# contract=fast fuses multiply and add; -ffast-math would switch the whole process to
# flush-to-zero when the library is loaded.
_FLAGS = ("-std=gnu++20", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno")
_LINK = ("-fopenmp", "-fPIC", "-shared")
_SECONDS = 300  # longest compilation


def load_library(
    source: Path, functions: Mapping[str, int], *more: Path, flags: Sequence[str] = ()
) -> ctypes.CDLL:
    """Compile C++ files as `compile_library` does, and load the library.

    Args:
        source: It may include the headers beside it and those of this folder.
        functions: The functions it exports, and how many pointers each takes.
        more: Files that are compiled and linked with it.
        flags: For the compiler and the linker, beside ours.

    Raises:
        RuntimeError: There is no compiler, or it refuses the file.
        OSError: The cache cannot be written, or the library cannot be loaded.
        subprocess.SubprocessError: The compiler takes too long.
    """
    library = ctypes.CDLL(str(compile_library(source, *more, flags=flags)))
    for name, pointers in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_void_p] * pointers, None
    return library


def compile_library(source: Path, *more: Path, flags: Sequence[str] = ()) -> Path:
    """Compile C++ files into a library, or find it in the cache; the errors of `load_library`."""
    sources, compiler = (source, *more), _compiler()
    stat = os.stat(compiler)
    identity = (compiler, str(stat.st_size), str(stat.st_mtime_ns), _processor(), *_FLAGS, *_LINK)
    folders = {Path(__file__).parent, *(each.parent for each in sources)}
    headers = sorted(header for folder in folders for header in folder.glob("*.h"))
    texts = [path.read_text(encoding="utf-8") for path in (*sources, *headers)]
    digest = hashlib.sha256("\0".join([*texts, *identity, *flags]).encode()).hexdigest()
    target = _cache_directory() / f"{source.stem}-{digest[:20]}.so"
    if not target.exists():
        # Of several processes one compiles, the rest wait; the limit is for file systems without
        # locks, where a killed process leaves its own behind.
        with FileLock(target.with_suffix(".lock"), timeout=2 * _SECONDS):
            if not target.exists():
                _compile(compiler, sources, flags, target)
    return target


def integers(*values: int) -> ctypes.Array:
    """Return values as a kernel reads them."""
    return (ctypes.c_int64 * len(values))(*values)


def _compiler() -> str:
    """Find the C++ compiler: ``$CXX``, else the first of g++, c++, clang++ that is there."""
    named = os.environ.get("CXX")
    found = shutil.which(named) if named else None
    for name in ("g++", "c++", "clang++") if not named else ():
        found = found or shutil.which(name)
    if found is None:
        raise RuntimeError(f"no C++ compiler found ({named or 'g++, c++ or clang++'})")
    return os.path.realpath(found)


def _processor() -> str:
    """Say what -march=native looks at: a cache shared by machines must tell them apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = [f"model name {platform.processor()}"]
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *kept[:2]])


def _cache_directory() -> Path:
    """Return the user's cache directory, or one of this process where that cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolute"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base):
            return base
    except OSError:
        return Path(tempfile.mkdtemp(prefix="evolute-"))


def _compile(compiler: str, sources: Sequence[Path], flags: Sequence[str], target: Path) -> None:
    """Write the library to ``target``; it appears there whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    command = [compiler, *_FLAGS, *_LINK, *map(str, sources), *flags, "-o", partial]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines()[:5]
            raise RuntimeError("\n".join([f"{compiler} failed ({result.returncode})", *lines]))
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)
