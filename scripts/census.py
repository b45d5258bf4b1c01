"""Count what makes a code base hard to find one's way in, so that two states of it can be compared.

    python scripts/census.py [DIRECTORY]

Lines are those with code: no blank lines, comments or docstrings. A private function has a single caller where its
name is used in one function or one class body only, outside itself.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_PROSE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that have code.

    >>> sorted(code_lines('def f():\\n    \\"\\"\\"Says.\\"\\"\\"\\n\\n    # why\\n    return 1\\n'))
    [1, 5]
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _PROSE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


class Census:
    """What a directory of modules has."""

    def __init__(self, directory: Path) -> None:
        self.lines = 0
        self.modules = 0
        self.classes: dict[str, list[str]] = defaultdict(list)
        self.private: dict[tuple[str, str], set[str]] = {}
        self.functions: list[tuple[int, int, str]] = []
        for path in sorted(directory.rglob("*.py")):
            self._read(path.relative_to(directory).as_posix(), path.read_text())

    def _read(self, name: str, source: str) -> None:
        self.modules += 1
        lines = code_lines(source)
        self.lines += len(lines)
        tree = ast.parse(source)
        users: dict[str, set[str]] = defaultdict(set)
        for node, scope in _scoped(tree, ""):
            if isinstance(node, ast.ClassDef):
                self.classes[node.name].append(name)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = len(lines.intersection(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
                branches = sum(isinstance(inner, _BRANCHES) for inner in ast.walk(node))
                self.functions.append((length, branches, f"{name}: {scope}{node.name}"))
                if node.name.startswith("_") and not node.name.startswith("__"):
                    self.private[name, f"{scope}{node.name}"] = set()
            used = (
                node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
            )
            if used is not None and used.startswith("_"):
                users[used].add(scope)
        for (module, qualified), callers in self.private.items():
            if module == name:
                callers.update(users[qualified.rpartition(".")[2]] - {f"{qualified}."})

    def twice(self) -> dict[str, list[str]]:
        """Return the class names that are defined more than once, and where."""
        return {name: places for name, places in sorted(self.classes.items()) if len(places) > 1}

    def single(self) -> list[str]:
        """Return the private functions that have a single caller."""
        return [f"{module}: {name}" for (module, name), callers in self.private.items() if len(callers) == 1]


def _scoped(node: ast.AST, scope: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        yield child, scope
        yield from _scoped(child, f"{scope}{child.name}." if isinstance(child, _DEFINITIONS) else scope)


def main() -> None:
    """Print it."""
    census = Census(Path(sys.argv[1] if len(sys.argv) > 1 else "src/mooring"))
    single, twice = census.single(), census.twice()
    print(f"{census.lines} lines of code in {census.modules} modules")
    print(f"{len(twice)} class names more than once: {', '.join(twice)}")
    share = len(single) / max(len(census.private), 1)
    print(f"{len(single)} of {len(census.private)} private functions have a single caller ({share:.0%})")
    long = [one for one in census.functions if one[0] > 60 or one[1] > 15]
    print(f"{len(long)} functions have more than 60 lines or 15 branches")
    print("the twenty longest:")
    for length, branches, where in sorted(census.functions, reverse=True)[:20]:
        print(f"  {length:4} lines, {branches:2} branches  {where}")


if __name__ == "__main__":
    main()
