"""Mutants of a Python module: the same source with one small change of behaviour, found on its syntax tree.

String literals, annotations and the text of messages are left alone: a change there is not a fault of behaviour. So are
the order of arguments in symmetric functions (`min(a, b)`) and `strict` of `zip`, which only asserts equal lengths.
"""

from __future__ import annotations

import ast
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}

ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.Mod: "//",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.LShift: ">>",
    ast.RShift: "<<",
}


#: Functions whose first two arguments may be swapped.
SYMMETRIC = ("distances", "equal", "max", "maximum", "min", "minimum")


@dataclass(frozen=True)
class Mutant:
    """One change of a source.

    Attributes:
        start, end: the bytes of the source that are replaced.
        text: takes their place.
        kind: of the change.
        line: of the change, from 1.
        function: the first line of the innermost function around it, decorators included; 0 at the top of the module or
            of a class, and in defaults, which run at import.
    """

    start: int
    end: int
    text: str
    kind: str
    line: int
    function: int

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def before(self, source: bytes) -> str:
        """Returns the lines that change, joined and stripped."""
        return _lines(source, self.start, self.end)

    def after(self, source: bytes) -> str:
        """Returns what the lines become."""
        return _lines(self.apply(source), self.start, self.start + len(self.text.encode()))


def _lines(source: bytes, start: int, end: int) -> str:
    first = source.rfind(b"\n", 0, start) + 1
    last = source.find(b"\n", end)
    return " ".join(source[first : last if last >= 0 else len(source)].decode().split())


def mutants(source: bytes) -> list[Mutant]:
    """Returns all mutants of a module's source, in its order."""
    found = sorted(_Finder(source).found, key=lambda mutant: (mutant.start, mutant.end, mutant.text))
    return [mutant for mutant in found if mutant.apply(source) != source and _compiles(mutant.apply(source))]


def sample(name: str, source: bytes, count: int, seed: int) -> list[Mutant]:
    """Returns at most ``count`` mutants, drawn from the seed and the module's name; all where there are fewer.

    A larger sample has all mutants of a smaller one.
    """
    every = mutants(source)
    places = list(range(len(every)))
    random.Random(hashlib.sha256(f"{seed} {name}".encode()).digest()).shuffle(places)
    return [every[place] for place in sorted(places[:count])]


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a source while it walks its tree."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutant] = []
        self.function = 0
        self.visit(ast.parse(source))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def code(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def add(self, start: int, end: int, text: str, kind: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Mutant(start, end, text, kind, line, self.function))

    def replace(self, node: ast.expr | ast.stmt, text: str, kind: str) -> None:
        self.add(*self.span(node), text, kind)

    def between(self, left: ast.expr, right: ast.expr, text: str, kind: str) -> None:
        """Replaces the operator between two expressions, brackets and spaces kept."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = self.source[start:end].decode()
        operator = gap.strip("() \t\n\\")
        if operator and "#" not in gap:
            at = start + len(gap[: gap.index(operator)].encode())
            self.add(at, at + len(operator.encode()), text, kind)

    # --- where nothing is changed ---------------------------------------------------------------------------------

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *(value for value in node.kw_defaults if value is not None)):
            self.visit(default)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.visit(node.args)  # at import
        outer, self.function = self.function, min([node.lineno, *(part.lineno for part in node.decorator_list)])
        for statement in node.body:
            self.visit(statement)
        self.function = outer

    visit_FunctionDef = _function
    visit_AsyncFunctionDef = _function

    def visit_Assert(self, node: ast.Assert) -> None:
        """An assertion in the package is there for the type checker."""

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.replace(node.test, f"not ({self.code(node.test)})", "condition negated")
        self.generic_visit(node)

    # --- statements -----------------------------------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, (ast.Call, ast.Await)):
            self.replace(node, "pass", "statement dropped")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(node, "pass", "statement dropped")
        if type(node.op) in ARITHMETIC:
            self.between(node.target, node.value, ARITHMETIC[type(node.op)] + "=", "operator")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        (target, *_) = node.targets
        kept = isinstance(target, ast.Attribute) and isinstance(node.value, ast.Name) and target.attr == node.value.id
        # Without `self.name = name` nothing works, so that such a mutant would show nothing of the tests.
        if isinstance(target, (ast.Attribute, ast.Subscript)) and not kept:
            self.replace(node, "pass", "statement dropped")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self.replace(node, "pass", "statement dropped")

    def visit_Raise(self, node: ast.Raise) -> None:
        self.replace(node, "pass", "statement dropped")

    def visit_Break(self, node: ast.Break) -> None:
        self.replace(node, "pass", "statement dropped")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace(node, "pass", "statement dropped")

    # --- expressions ----------------------------------------------------------------------------------------------

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value), "truth value")
        elif isinstance(node.value, int):
            self.replace(node, str(node.value + 1), "number")
            if node.value > 1:
                self.replace(node, str(node.value - 1), "number")
        elif isinstance(node.value, float):
            self.replace(node, repr(2 * node.value if node.value else 1.0), "number")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.replace(node.test, f"not ({self.code(node.test)})", "condition negated")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, right, operator in zip(sides, sides[1:], node.ops, strict=False):
            self.between(left, right, COMPARISONS[type(operator)], "comparison")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, other, "and, or")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = any(isinstance(side, (ast.JoinedStr, ast.Constant)) and _is_text(side) for side in _leaves(node))
        if type(node.op) in ARITHMETIC and not texts:
            self.between(node.left, node.right, ARITHMETIC[type(node.op)], "operator")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self.replace(node, f"({self.code(node.operand)})", "sign")
        elif isinstance(node.op, ast.USub):
            self.replace(node, self.code(node.operand), "sign")
            return
        elif isinstance(node.op, ast.Not):
            self.replace(node, f"({self.code(node.operand)})", "not removed")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        plain = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        trivial = name in ("isinstance", "issubclass", "hasattr", "getattr", *SYMMETRIC)
        if len(plain) > 1 and not trivial and not (_is_text(plain[0]) and _is_text(plain[1])):
            (start, end), (next_start, next_end) = self.span(plain[0]), self.span(plain[1])
            swapped = self.code(plain[1]) + self.source[end:next_start].decode() + self.code(plain[0])
            self.add(start, next_end, swapped, "arguments swapped")
        keywords = [] if name == "zip" else node.keywords
        for keyword in keywords:
            self._drop(node, keyword)
        for part in (node.func, *node.args, *keywords):
            self.visit(part)

    def _drop(self, call: ast.Call, keyword: ast.keyword) -> None:
        """Leaves out a keyword argument, so that its default is taken."""
        if keyword.arg is None or _is_text(keyword.value):
            return
        start, end = self.span(keyword)  # type: ignore[arg-type]
        before = self.source[:start].rstrip()
        if before.endswith(b","):
            self.add(len(before) - 1, end, "", "argument left out")
        elif self.source[end:].lstrip().startswith(b","):
            self.add(start, self.source.index(b",", end) + 1, "", "argument left out")
        else:
            self.add(start, end, "", "argument left out")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _leaves(node: ast.expr) -> Iterator[ast.expr]:
    """Yields the operands of nested operators."""
    if isinstance(node, ast.BinOp):
        yield from _leaves(node.left)
        yield from _leaves(node.right)
    else:
        yield node
