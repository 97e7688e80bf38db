"""How the documentation is built, with the package installed.

sphinx-build -W -n docs build/docs
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ipcheap

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "ipcheap"
copyright = "the authors of ipcheap"
version = release = ipcheap.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "c_header"]
exclude_patterns = ["_ext"]
html_theme = "furo"
html_title = f"ipcheap {release}"
html_copy_source = False

# Links are written as for any reader of Markdown: to files and their headings.
myst_heading_anchors = 3

# Docstrings are plain: what stands in backticks is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "inherited-members": "Exception",
    "show-inheritance": True,
}
add_module_names = False

MADE_BY_CALLERS = ("Atomic", "Barrier", "Event", "Lock", "Peer")


def find_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element
) -> Element | None:
    """Find what is public under the name by which it is imported, not where it is defined."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    ours = not module or "ipcheap" in module
    if node.get("refdomain") != "py" or name not in ipcheap.__all__ or not ours:
        return None
    domain, builder = env.domains.python_domain, app.builder
    return domain.resolve_xref(
        env, node["refdoc"], builder, "obj", f"ipcheap.{name}", node, content
    )


def hide_private_bases(
    app: Sphinx, name: str, obj: type, options: object, bases: list[type]
) -> None:
    """Leave out this package's base classes that have no public name."""
    bases[:] = [
        base
        for base in bases
        if not base.__module__.startswith("ipcheap") or hasattr(ipcheap, base.__name__)
    ]
    bases[:] = bases or [object]


def hide_constructor(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """Leave out the arguments of classes that are made by calls of others."""
    hidden = what == "class" and name.rpartition(".")[2] not in MADE_BY_CALLERS
    return ("", None) if hidden else None


def annotated() -> dict[str, tuple[str, str]]:
    """Return what _types.py says of the methods in C, by class and name: arguments, result."""
    tree = ast.parse((Path(ipcheap.__file__).parent / "_types.py").read_text())
    found = {}
    for kind in ast.walk(tree):
        if not isinstance(kind, ast.ClassDef):
            continue
        for method in kind.body:
            if isinstance(method, ast.FunctionDef) and method.returns:
                del method.args.args[:1]
                name = f"ipcheap.{kind.name.removesuffix('Core')}.{method.name}"
                found[name] = f"({ast.unparse(method.args)})", ast.unparse(method.returns)
    return found


def annotate(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Show the types of methods in C."""
    return annotated().get(name) if what == "method" else None


def mark_code(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Say of indented paragraphs that they are code."""
    marked: list[str] = []
    for line in lines:
        code = line.startswith("    ") and "".join(marked[-1:]) == ""
        if code and not next((seen for seen in reversed(marked) if seen), " ").startswith(" "):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def unlink_files(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """In an example's README, name the files beside it instead of linking to them."""
    if "examples" in path.parts:
        content[0] = re.sub(r"\[([^\]]+)\]\((?!\w+:)[^)]*\)", r"`\1`", content[0])


def setup(app: Sphinx) -> None:
    """Hang the functions above in."""
    app.connect("missing-reference", find_public)
    app.connect("autodoc-process-bases", hide_private_bases)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("autodoc-process-signature", annotate)
    app.connect("autodoc-process-docstring", mark_code)
    app.connect("include-read", unlink_files)


# Types that have no page here. What is of this package must be found.
_elsewhere = "|".join(name for name in dir(builtins) if not name.startswith("_"))
nitpick_ignore_regex = [
    ("py:(class|exc|obj|data)", rf"({_elsewhere}|None|Ellipsis|optional)"),
    (
        "py:.*",
        r"(numpy|collections|contextlib|threading|typing|types|multiprocessing|os|pathlib)\..*",
    ),
    ("py:class", "Shape"),  # an int, or a tuple of them
    ("py:.*", r"ipcheap\.graph\.kernels\.T|Murder"),
    ("py:.*", r"(ipcheap\.testing\.)?(_P|_R|W)(\.args|\.kwargs)?"),
    ("c:identifier", r"u?int\d+_t|size_t"),
]
