"""A graph as plain data, and the files that hold it."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import kernels as forms
from .errors import GraphError

if TYPE_CHECKING:
    from types import ModuleType

    from .graph import Graph, Node, Port
    from .plan import Kernel, Plan

_GRAPH = ("name", "capacity", "kernels")
_KERNEL = ("kernel", "inputs", "params", *forms.OPTIONS)
_CAPACITY = "1GiB"


# To data ----------------------------------------------------------------------------------


def to_dict(graph: Graph) -> dict[str, Any]:
    """Return a graph as data; see `Graph.to_dict`."""
    data: dict[str, Any] = {}
    if graph.name is not None:
        data["name"] = graph.name
    if graph.capacity != _CAPACITY:
        data["capacity"] = graph.capacity
    data["kernels"] = {
        kernel.name: _described(graph, kernel)
        for kernel in graph._kernels.values()
        if not kernel.is_caller
    }
    return data


def _described(graph: Graph, kernel: Kernel) -> dict[str, Any]:
    what = f"kernel {kernel.name!r}"
    found: dict[str, Any] = {"kernel": _path_of(what, kernel.call)}
    for refs in kernel.inputs:
        for name, _ in refs:
            if graph._kernels[name].is_caller:
                raise GraphError(
                    f"{what} reads the input {name!r}, which the calling program sends: that is no "
                    "part of a graph as data. Let it read a source instead"
                )
    if kernel.inputs:
        found["inputs"] = _inputs(kernel)
    if kernel.params:
        found["params"] = _plain(what, "params", dict(kernel.params))
    for option, value in kernel.options.items():
        if option == "key":
            found[option] = _path_of(f"the key of {what}", value)
        elif option == "cpus":
            is_one = isinstance(value, set | frozenset)
            found[option] = (
                sorted(cast("set[int]", value)) if is_one else [sorted(one) for one in value]
            )
        else:
            found[option] = _plain(what, option, value)
    return found


def text_of(plan: Plan) -> bytes:
    """Return a plan as JSON for tools, which show it: what a file cannot hold is a description."""
    kernels: dict[str, Any] = {}
    for name, kernel in plan.kernels.items():
        if kernel.is_caller:
            continue
        try:
            path = _path_of(name, kernel.call)
        except GraphError:
            path = repr(kernel.call)
        inputs = {"inputs": _inputs(kernel)} if kernel.inputs else {}
        params = {"params": dict(kernel.params)} if kernel.params else {}
        kernels[name] = {"kernel": path, **inputs, **params, **kernel.options}
    data = {"name": plan.name, "capacity": plan.capacity, "kernels": kernels}
    return json.dumps(data, default=repr, skipkeys=True).encode()


def _inputs(kernel: Kernel) -> list[Any]:
    return [
        [_dotted(ref) for ref in refs] if merged else _dotted(refs[0])
        for refs, merged in zip(kernel.inputs, kernel.merged, strict=True)
    ]


def _dotted(ref: tuple[str, str]) -> str:
    return f"{ref[0]}.{ref[1]}" if ref[1] else ref[0]


def _path_of(what: str, thing: Any) -> str:
    """Return "module:name" of a function or class."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "<>")
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    public = _public_name(found) if found is not None and "<" not in name else None
    for part in name.split("."):
        found = getattr(found, part, None)
    if public is None or found is not thing:
        raise GraphError(
            f"{what} has no name by which it could be imported: {thing!r}. Define it at module "
            "level, in a file"
        )
    return f"{public}:{name}"


def _public_name(module: ModuleType) -> str | None:
    """Return the name by which other programs import a module; None if there is none."""
    if module.__name__ not in ("__main__", "__mp_main__"):
        return module.__name__
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(module, "__file__", None)
    return Path(file).stem if file and Path(file).suffix == ".py" else None


def _plain(what: str, where: str, value: Any) -> Any:
    """Return a value as JSON and TOML can both hold it."""
    if type(value) in (bool, int, float, str):
        return value
    if forms.is_table(value) and all(isinstance(key, str) for key in value):
        return {key: _plain(what, f"{where}.{key}", one) for key, one in value.items()}
    if forms.is_list(value):
        return [_plain(what, f"{where}[{n}]", one) for n, one in enumerate(value)]
    raise GraphError(
        f"{what}: {where} is {value!r}, which a file cannot hold: give a number, a text, a bool, "
        "or lists and dicts of these"
    )


# From data --------------------------------------------------------------------------------


def from_dict(data: Mapping[str, Any], folder: Path | None = None) -> Graph:
    """Return the graph that data describe; see `Graph.from_dict`.

    `folder` is where the modules of the kernels are looked for first.
    """
    from .graph import Graph

    if not isinstance(data, Mapping):
        raise GraphError(f"a graph as data is a dict, not {data!r}")
    _known("a graph", data, _GRAPH)
    name, kernels = data.get("name"), data.get("kernels", {})
    if name is not None and not isinstance(name, str):
        raise GraphError(f"the name of a graph is a text, not {name!r}")
    if not forms.is_table(kernels):
        raise GraphError(f"kernels is a table of kernels by name, not {kernels!r}")
    graph = Graph(name, capacity=data.get("capacity", _CAPACITY))
    nodes: dict[str, Node] = {}
    for kernel_name, of in kernels.items():
        nodes[kernel_name] = _added(graph, nodes, kernel_name, of, folder)
    return graph


def _added(graph: Graph, nodes: dict[str, Node], name: str, data: Any, folder: Path | None) -> Node:
    what = f"kernel {name!r}"
    if not forms.is_table(data):
        raise GraphError(f"{what} is a table with the key 'kernel', not {data!r}")
    _known(what, data, _KERNEL)
    if "kernel" not in data:
        raise GraphError(f"{what} lacks the key 'kernel', as in kernel = \"module:name\"")
    inputs = data.get("inputs", [])
    if not forms.is_list(inputs):
        raise GraphError(f"{what}: inputs is a list, not {inputs!r}")
    params = data.get("params", {})
    if not forms.is_table(params):
        raise GraphError(f"{what}: params is a table of parameters by name, not {params!r}")
    options = {option: data[option] for option in forms.OPTIONS if option in data}
    if "together" in options:
        options["together"] = _node(what, nodes, options["together"])
    if "key" in options:
        options["key"] = _imported(f"the key of {what}", options["key"], folder)
    if "cpus" in options:
        options["cpus"] = _cpus(what, options["cpus"])
    return graph.add(
        _imported(what, data["kernel"], folder),
        *(
            [_port(what, nodes, one) for one in entry]
            if forms.is_list(entry)
            else _port(what, nodes, entry)
            for entry in inputs
        ),
        name=name,
        params=params,
        **options,
    )


def _known(what: str, data: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in data:
        if key not in known:
            hint = "; parameters of the kernel belong into params" if known is _KERNEL else ""
            raise GraphError(f"{what} has no key {key!r}: the keys are {', '.join(known)}{hint}")


def _node(what: str, nodes: dict[str, Node], name: Any) -> Node:
    if name not in nodes:
        above = f"those above it are {', '.join(nodes)}" if nodes else "there is none above it"
        raise GraphError(f"{what} names {name!r}, which is no kernel above it: {above}")
    return nodes[name]


def _port(what: str, nodes: dict[str, Node], dotted: Any) -> Port:
    if not isinstance(dotted, str):
        raise GraphError(f'{what}: an input is "kernel", "kernel.port" or a list of them')
    name, _, port = dotted.partition(".")
    node = _node(what, nodes, name)
    return node[port] if port else node


def _cpus(what: str, cpus: Any) -> set[int] | list[set[int]]:
    if forms.is_list(cpus):
        if all(isinstance(one, int) for one in cpus):
            return set(cpus)
        if all(forms.is_list(one) for one in cpus):
            return [set(one) for one in cpus]
    raise GraphError(f"{what}: cpus is a list of numbers, or a list of such lists, not {cpus!r}")


def _imported(what: str, path: Any, folder: Path | None) -> Any:
    """Return what "module:name" names."""
    if not isinstance(path, str) or not all(path.partition(":")):
        raise GraphError(f'{what} is named "module:name", not {path!r}')
    module, _, name = path.partition(":")
    found: Any = _module(what, module, folder)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise GraphError(f"{what}: module {module!r} has no {name!r}") from None
    return found


def _module(what: str, name: str, folder: Path | None) -> ModuleType:
    main = sys.modules["__main__"]
    if name not in sys.modules and _public_name(main) == name:
        return main
    try:
        module = importlib.import_module(name)
    except Exception as error:
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise GraphError(f"{what}: module {name!r} cannot be imported: {kind}{error}") from error
    if folder is not None:
        beside = folder / f"{name.replace('.', '/')}.py"
        file = getattr(module, "__file__", None)
        if beside.is_file() and (file is None or not beside.samefile(file)):
            raise GraphError(
                f"{what}: module {name!r} is {file or 'built in'} here, not {beside}: rename one "
                "of them"
            )
    return module


# Files ------------------------------------------------------------------------------------


def load(path: Path) -> Graph:
    """Return the graph in a .toml or .json file; see `Graph.load`."""
    try:
        if path.suffix == ".toml":
            data = tomllib.loads(path.read_text())
        elif path.suffix == ".json":
            data = json.loads(path.read_text())
        else:
            raise GraphError(f"{path}: the name of a graph's file ends in .toml or .json")
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GraphError(f"{path}: {error}") from None
    folder = path.resolve().parent
    look_in(folder)
    try:
        return from_dict(data, folder)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error.__cause__


def look_in(folder: Path) -> None:
    """Look for modules in a folder first, as Python does in that of a script."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
