"""Imports go one way: a room of the package imports only rooms before it."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ast_jax"
ORDER = (
    *(
        "errors",
        "mode",
        "files",
        "cli",
        "config",
        "config_file",
        "parallel",
        "precision",
        "parameter",
        "platforms",
        "device_memory",
    ),
    *("run", "data", "backbones", "features", "scoring", "models", "training"),
    *("inference", "evaluation", "report", "pipeline", "ablation", "interop"),
    *("api", "estimator", "commands"),
)


# A method that a user calls may import a later room inside its body.
EXCEPTIONS = {
    ("ast_jax.inference.detector", "ast_jax.interop.export"),
}


def imported_modules(source: str) -> set[str]:
    """The names of this package that a module imports, also inside functions.

    `from ast_jax import run` counts as `ast_jax.run`. Imports below
    `if __name__ == "__main__":` do not count.
    """
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not is_program(node)]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("ast_jax.")}


def is_program(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)


def imports(known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yields (module, imported module), except those of `EXCEPTIONS`."""
    for name, source in known.items():
        for target in imported_modules(source):
            # A name that is imported from a module counts as the module.
            module = target if target in known else target.rpartition(".")[0]
            if (name, module) not in EXCEPTIONS:
                yield name, module


def room(module: str) -> str:
    return module.split(".")[1]


def modules() -> dict[str, str]:
    """The source of every module except `ast_jax/__init__.py`, by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text()
    del found["ast_jax"]
    return found


def test_every_room_has_its_place_in_the_order():
    assert {room(name) for name in modules()} == set(ORDER)


def test_a_room_imports_only_rooms_before_it():
    wrong = [
        f"{name} imports {target}"
        for name, target in imports(modules())
        if ORDER.index(room(target)) > ORDER.index(room(name))
    ]
    assert wrong == []


def test_no_module_imports_itself_through_others():
    graph = graphlib.TopologicalSorter()
    for name, target in imports(modules()):
        graph.add(name, target)
    graph.prepare()  # raises CycleError with the modules of a cycle


def test_imports_in_functions_count_and_those_of_a_program_do_not():
    source = """
def f():
    from ast_jax.report import tables

if __name__ == "__main__":
    from ast_jax.commands.train import run
"""
    assert imported_modules(source) == {"ast_jax.report.tables"}
