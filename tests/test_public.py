"""What each module offers is a list that people can read: tests/public_names.txt.

After a change on purpose: `python -m tests.test_public`.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("public_names.txt")
PACKAGES = ("study", "models", "objectives", "dashboards")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def defined(tree: ast.Module) -> set[str]:
    """Public functions and classes that a module defines itself."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"}


def listed(tree: ast.Module) -> list[str]:
    """What `__all__` holds, read without importing anything."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def public() -> list[str]:
    trees = {module_name(path): ast.parse(path.read_text()) for path in SOURCES}
    return [
        f"{name}: {' '.join(sorted(listed(tree)))}" for name, tree in trees.items() if listed(tree)
    ]


def test_the_public_names_are_those_of_the_list() -> None:
    found, pinned = set(public()), set(LIST.read_text().splitlines())
    changed = [f"+ {line}" for line in found - pinned] + [f"- {line}" for line in pinned - found]
    assert not changed, (
        "public names changed; on purpose? python -m tests.test_public\n"
        + "\n".join(sorted(changed, key=lambda line: line[2:]))
    )


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_lists_what_it_offers(path: Path) -> None:
    names = listed(tree := ast.parse(path.read_text()))
    assert len(set(names)) == len(names)
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | defined(tree)
    imported = {
        a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names
    }
    assert set(names) <= bound | imported, "listed, but not there"
    if defined(tree):
        assert names, "it defines public names and has no __all__"


if __name__ == "__main__":
    LIST.write_text("\n".join(public()) + "\n")
