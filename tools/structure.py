"""Measure how the source is cut into files, and fail on circular imports and on files that are too long.

``python -m tools.structure [-v]`` prints the figures; ``make lint`` runs it. The import graph is one between files: imports
below ``if TYPE_CHECKING`` and inside of functions count, since import-linter does not look into a package.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PACKAGES = ("tgdav", "tgdav_fuse")
MAX_FILE_LINES = 500
SMALL_FILE_LINES = 150
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 6
FOR_TOOLS = re.compile(r"#\s*(noqa|type:|fmt:|pragma|!)")

Graph = dict[str, set[str]]


@dataclass
class Module:
    """One file: what it imports by dotted name, and what is measured in it."""

    name: str
    lines: int
    comments: int
    imports: list[tuple[str, str | None]]
    wide: list[str] = field(default_factory=list)
    long: list[str] = field(default_factory=list)


def modules_below(root: Path, packages: Iterable[str] = PACKAGES) -> dict[str, Module]:
    """Return the modules of the packages by dotted name; a package's ``__init__`` has the name of the package."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = measure(name, path.read_text(encoding="utf-8"), is_package=parts[-1] == "__init__")
    return found


def measure(name: str, source: str, *, is_package: bool = False) -> Module:
    """Return the imports and figures of one file's source."""
    tree = ast.parse(source)
    module = Module(name, len(source.splitlines()), _comments(source), list(_imports(tree, name, is_package)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if (count := _parameters(node)) > MAX_PARAMETERS:
                module.wide.append(f"{name}:{node.lineno} {node.name} ({count})")
            if (size := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES:
                module.long.append(f"{name}:{node.lineno} {node.name} ({size})")
    return module


def _comments(source: str) -> int:
    """Return how many lines have a comment for readers; those for other tools do not count."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT and not FOR_TOOLS.match(token.string) for token in tokens)


def _imports(tree: ast.AST, name: str, is_package: bool) -> Iterator[tuple[str, str | None]]:
    """Yield pairs of a dotted name and what is imported from it: None for ``import a.b``."""
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((source, alias.name) for alias in node.names)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([each for each in names if each not in ("self", "cls")])


def import_graph(modules: dict[str, Module]) -> Graph:
    """Return for each file the files that it names in an import. ``from package import module`` names the module."""
    graph: Graph = {name: set() for name in modules}
    for name, module in modules.items():
        for source, imported in module.imports:
            inner = f"{source}.{imported}"
            target = inner if inner in modules else source
            if target in modules and target != name:
                graph[name].add(target)
    return graph


def importers(modules: dict[str, Module]) -> Graph:
    """Return for each file the files that use it. Who takes a name from a package uses the file that defines the name."""
    graph = import_graph(modules)
    users: Graph = {name: set() for name in modules}
    for name, targets in graph.items():
        for target in targets:
            users[target].add(name)
    for name, module in modules.items():
        for source, imported in module.imports:
            for origin, exported in modules[source].imports if source in modules else ():
                if exported is not None and exported == imported and origin in modules and origin != name:
                    users[origin].add(name)
    return users


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of files that reach each other (strongly connected components of two and more), sorted."""
    reached = {name: _reach(graph, name) for name in graph}
    found = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted(sorted(each) for each in found if len(each) > 1)


def _reach(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    left = [start]
    while left:
        for target in graph[left.pop()] - seen:
            seen.add(target)
            left.append(target)
    return seen


def problems(modules: dict[str, Module]) -> list[str]:
    """Return what must not be: circles, and files that are too long."""
    found = [f"circular imports: {' '.join(circle)}" for circle in circles(import_graph(modules))]
    return found + [
        f"{module.name} has {module.lines} lines, more than {MAX_FILE_LINES}"
        for module in modules.values()
        if module.lines > MAX_FILE_LINES
    ]


def single_use(modules: dict[str, Module]) -> list[str]:
    """Return the small files, not counting packages' own, that a single file imports."""
    packages = {name.rpartition(".")[0] for name in modules}
    return [
        f"{name} ({modules[name].lines}) <- {next(iter(users))}"
        for name, users in importers(modules).items()
        if len(users) == 1 and modules[name].lines < SMALL_FILE_LINES and name not in packages
    ]


def report(modules: dict[str, Module], verbose: bool) -> Iterator[str]:
    """Yield the lines of the report."""
    lines = sum(module.lines for module in modules.values())
    comments = sum(module.comments for module in modules.values())
    lists = {
        f"files with one importer and fewer than {SMALL_FILE_LINES} lines": single_use(modules),
        "circles": [" ".join(circle) for circle in circles(import_graph(modules))],
        f"functions with more than {MAX_PARAMETERS} parameters": [
            each for module in modules.values() for each in module.wide
        ],
        f"functions over {MAX_FUNCTION_LINES} lines": [each for module in modules.values() for each in module.long],
    }
    yield f"{len(modules)} modules, median {median(module.lines for module in modules.values()):.0f} lines"
    for title, each in lists.items():
        yield f"{len(each)} {title}"
        yield from (f"    {line}" for line in each if verbose)
    yield f"{comments / lines:.1%} of {lines} lines with a comment"


def main() -> int:
    """Print the report; return 1 if something must not be as it is."""
    modules = modules_below(ROOT)
    print("\n".join(report(modules, "-v" in sys.argv)))
    found = problems(modules)
    for each in found:
        print(each, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
