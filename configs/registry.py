"""Named things that a configuration can ask for: the one way in which a string selects code.

Operators, blocks, metrics, runtimes, samplers and data sources each have a `Registry`. A new one is
one file with one registration: a file of ours in the folder that is imported as a whole
(`import_all`), or a user's own file named under ``plugins:`` (`load_plugins`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from configs.errors import UserError
from configs.suggestions import did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names and what they stand for; a mapping whose missing names are refused with the nearest.

    Args:
        kind: What is registered, in one word, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that makes a thing available under a name.

        Raises:
            UserError: The name is taken by something else. The same definition may come twice, as
                when its file is run again.
        """

        def add(entry: T) -> T:
            present = self._entries.get(name)
            if present is not None and _origin(present) != _origin(entry):
                raise UserError(f"{self.kind} {name!r} is registered twice: {present} and {entry}")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """Return what is registered under a name.

        Raises:
            UserError: Nothing is; the message names the nearest name.
        """
        if name not in self._entries:
            hint = did_you_mean(name, sorted(self._entries))
            raise UserError(f"{self.kind} {name!r} does not exist; {hint}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _origin(entry: object) -> object:
    """What tells two definitions apart, and is equal for one that was run twice."""
    if hasattr(entry, "__qualname__"):
        return entry.__qualname__
    return [getattr(value, "__qualname__", value) for value in vars(entry).values()]  # a record


def import_all(package: ModuleType) -> None:
    """Import every module of a package, so that each registers what it defines."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


_PLUGIN = "evolute_plugin_"  # what the names of plugins' modules begin with


def loaded_plugins() -> list[str]:
    """Return the plugin files that this process has run, so that another can run them too.

    Without those that are gone since.
    """
    files = (str(m.__file__) for name, m in sys.modules.items() if name.startswith(_PLUGIN))
    return [file for file in files if Path(file).is_file()]


def plugins_of_architecture(
    named: Any, folder: Path, listed: Iterable[str | os.PathLike[str]]
) -> list[Path]:
    """Return the plugins that an architecture's file names, if their code may be run.

    A file from elsewhere must not choose what is run here: its plugins lie in its own folder, once
    links are followed, or were listed by the user. A listed file of the same name is taken for one
    that does not lie there.

    Args:
        named: What the file has under ``plugins``.
        listed: Files that the user trusts.

    Raises:
        UserError: A plugin lies elsewhere; the message says where, and how to allow it.
    """
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise UserError(f"plugins: {named!r} is not possible; a list of files is needed")
    home, trusted = folder.resolve(), [Path(file).resolve() for file in listed]
    plugins = []
    for name in named:
        file = (folder / name).resolve()
        meant = [each for each in trusted if each == file or each.name == Path(name).name]
        if file.is_relative_to(home) and file.is_file():
            plugins.append(folder / name)
        elif meant:
            plugins.append(file if file in meant else meant[0])
        else:
            raise UserError(
                f"plugins: {name!r} is not a file of the architecture's own folder (it is {file}), "
                f"and its code would run here. If you trust it: --plugin {file}, or "
                f"plugins=[{str(file)!r}] in Python"
            )
    return plugins


def load_plugins(files: Iterable[str | Path]) -> None:
    """Run Python files that register something. A file is run once, however often it is named.

    Raises:
        UserError: A file is missing or fails; the message names it.
    """
    for file in files:
        path = Path(file).resolve()
        if not path.is_file():
            raise UserError(f"plugins: {str(file)!r} is not a file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        name = f"{_PLUGIN}{path.stem}_{digest}"
        if name in sys.modules:
            continue
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification is not None and specification.loader is not None
        module: Any = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        try:
            specification.loader.exec_module(module)
        except UserError:
            del sys.modules[name]
            raise
        except Exception as error:
            del sys.modules[name]
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"plugins: {str(file)!r} fails: {reason}") from error
