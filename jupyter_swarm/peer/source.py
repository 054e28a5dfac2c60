"""What can be known of a recipe's text before any of it runs."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.metadata
import importlib.util
import re
import symtable
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ..protocol.errors import RecipeError

_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Nothing that means something else to a shell: people copy the line that installs it.
_REQUIREMENT = re.compile(_DISTRIBUTION.pattern + r"(\[[A-Za-z0-9._, -]*\])?[A-Za-z0-9._,<>=!~* +]*")
_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*")
_MAGIC = re.compile(r"\s*(?:%|!|\?|[\w, ]+=\s*[%!])|.*\?\s*$")
_OWN = {"__file__", "__builtins__", "__annotations__", "__class__", "__module__", "__qualname__", "WindowsError"}
# What a notebook adds to the builtins is not there for peers in a terminal.
_BUILTINS = ({*dir(builtins), *dir(ModuleType(""))} | _OWN) - {"get_ipython", "display"}
# With these a name may come about in ways that no analysis sees.
_DEFINE_UNSEEN = frozenset({"exec", "globals", "vars", "locals", "builtins"})
_SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip
_DISTRIBUTIONS = {
    "PIL": "pillow", "bs4": "beautifulsoup4", "cv2": "opencv-python", "skimage": "scikit-image",
    "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip


def hash_source(text: str) -> str:
    """SHA-256 of a recipe's text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_source(text: str, filename: str, path: Path | None = None) -> CodeType:
    """The compiled text of a recipe; `path` is the file that it came from, if any.

    Raises `RecipeError` for a syntax error, a notebook command, an import of a module that is not installed or not
    covered by the recipe's hash, and a global name that the text does not define.
    """
    with _only_python(text):
        tree = ast.parse(text, filename)
        code = compile(tree, filename, "exec", dont_inherit=True)  # this module's own __future__
        table = symtable.symtable(text, filename, "exec")
        _refuse_local_imports(tree, path)
        _refuse_missing_imports(tree)
        _refuse_undefined(tree, table)
        return code


def readable(text: str) -> str:
    """`text` for a screen: characters that could hide some of it from its reader (control characters, marks that turn
    the direction of writing) are written as escapes."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def missing_packages(names: tuple[str, ...], why: str) -> RecipeError:
    """The error that says what to install."""
    # A shell takes >= for something else.
    words = (name if _DISTRIBUTION.fullmatch(name) else f'"{name}"' for name in names)
    return RecipeError(
        f"The recipe needs what is not installed here: {', '.join(names)}.", why, f"Run: pip install {' '.join(words)}"
    )


def is_requirement(text: str) -> bool:
    """Whether `text` names a distribution and perhaps its versions, and is safe to show in a line for a shell."""
    return _REQUIREMENT.fullmatch(text) is not None


def distribution_of(module: str) -> str:
    """What to install for an import of `module`, as far as the name tells."""
    top = module.split(".")[0]
    return _DISTRIBUTIONS.get(top, top)


def is_installed(requirement: str) -> bool:
    """Whether a distribution is here, in whatever version."""
    match = _DISTRIBUTION.match(requirement)
    try:
        return match is not None and bool(importlib.metadata.distribution(match[0]))
    except importlib.metadata.PackageNotFoundError:
        return False


def with_constants(text: str, constants: Mapping[str, Any]) -> str:
    """`text` with other literals in its top-level assignments to names in capitals. Raises `RecipeError`."""
    with _only_python(text):
        found = _constants(ast.parse(text))
    for name in constants:
        if name not in found:
            there = ", ".join(f"{name}={ast.literal_eval(node)!r}" for name, node in found.items())
            raise RecipeError(f"The recipe has no constant {name}.", todo=f"It has: {there or 'none'}.")
    lines = text.encode().splitlines(keepends=True)
    # From the end, so that the places before stay where they are; columns count UTF-8 bytes.
    for name in sorted(constants, key=lambda name: (found[name].lineno, found[name].col_offset), reverse=True):
        node = found[name]
        value = _literal(name, constants[name], ast.literal_eval(node)).encode()
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        lines[first : last + 1] = [head + value + tail]
    return b"".join(lines).decode()


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The literals that are assigned, once, to names in capitals."""
    found: dict[str, list[ast.expr]] = {}
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and _CONSTANT.fullmatch(target.id):
                assert isinstance(statement, (ast.Assign, ast.AnnAssign))
                assert statement.value is not None
                found.setdefault(target.id, []).append(statement.value)
    return {name: nodes[0] for name, nodes in found.items() if len(nodes) == 1 and _is_literal(nodes[0])}


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
        return True
    except (ValueError, TypeError):
        return False


def _literal(name: str, value: Any, old: Any) -> str:
    """`value` as Python text, if it is of the kind of `old`."""
    fits = old is None or type(value) is type(old) or (type(old) is float and type(value) is int)
    try:
        if fits and ast.literal_eval(repr(value)) == value:
            return repr(value)
    except (ValueError, SyntaxError):
        pass
    raise RecipeError(
        f"The recipe's constant {name} cannot be {value!r}.", f"It is {old!r}.", f"Pass a {type(old).__name__}."
    )


@contextmanager
def _only_python(text: str) -> Iterator[None]:
    try:
        yield
    except SyntaxError as error:
        raise _syntax_error(text, error) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RecipeError("The recipe is not Python.", str(error) or "It is nested too deeply.") from None


def _syntax_error(text: str, error: SyntaxError) -> RecipeError:
    if not error.lineno:
        return RecipeError("The recipe is not Python.", error.msg)
    lines, number = text.splitlines(), error.lineno
    line = lines[number - 1] if number <= len(lines) else ""
    if _MAGIC.match(line):
        return RecipeError(
            f"Line {number} of the recipe is a command of the notebook: {line.strip()}",
            "A recipe is plain Python: it also runs where there is no notebook.",
            "Put the command into another cell; name packages in requires=(…).",
        )
    column = max((error.offset or 1) - 1, 0)
    return RecipeError(
        f"The recipe has a syntax error in line {number}.",
        f"{error.msg}\n    {line}\n    {' ' * min(column, len(line))}^",
        "Correct that line.",
    )


# --- imports


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported, with the line. Also by `import_module` and `__import__`, where it is named."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _refuse_local_imports(tree: ast.Module, path: Path | None) -> None:
    for name, line in _imports(tree):
        place = _local_file(name, path)
        if place:
            raise RecipeError(
                f"The recipe imports the local module {name} in line {line}.",
                f"The hash that people agree to covers the recipe's own text only, not {place}.",
                "Copy what is needed into the recipe.",
            )


def _refuse_missing_imports(tree: ast.Module) -> None:
    """Of those imports that are certain to run: what depends on a condition or stands in a function may never be."""
    statements = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for statement in statements:
        for name, line in _imports(statement):
            if not _is_there(name.split(".")[0]):
                needed = tuple(name for name in _literal_requires(tree) if not is_installed(name))
                raise missing_packages(needed or (distribution_of(name),), f"Line {line} imports {name}.")


def _is_there(module: str) -> bool:
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _literal_requires(tree: ast.Module) -> tuple[str, ...]:
    """What the text says as `requires=`, found without running it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "requires":
            try:
                return tuple(name for name in map(str, ast.literal_eval(node.value)) if is_requirement(name))
            except (ValueError, TypeError):
                return ()
    return ()


def _local_file(name: str, path: Path | None) -> str:
    """Where a module lies if it is neither installed nor part of Python; else ''."""
    if name.startswith("."):
        return "files beside it"
    top = name.split(".")[0]
    if top == "__main__":
        return "the notebook"
    if top in sys.stdlib_module_names or top == __name__.split(".")[0]:
        return ""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        beside = (path.parent / f"{top}.py", path.parent / top) if path is not None else ()
        return next((str(place) for place in beside if place.exists()), "")
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    local = [place for place in places if place not in ("built-in", "frozen") and not _is_site(Path(place))]
    return local[0] if local else ""


def _is_site(place: Path) -> bool:
    """Whether a file is in a directory that package managers install to."""
    place = place.resolve()
    roots = [Path(root).resolve() for key, root in sysconfig.get_paths().items() if key in ("purelib", "platlib")]
    return bool({"site-packages", "dist-packages"} & set(place.parts)) or any(root in place.parents for root in roots)


# --- names


def _refuse_undefined(tree: ast.Module, module: symtable.SymbolTable) -> None:
    """Names of another cell are there in the founder's notebook only."""
    if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree)):
        return
    names = list(_evaluated_names(tree))
    if any(node.id in _DEFINE_UNSEEN for node in names):
        return
    tables = list(_tables(module))
    known = set(_BUILTINS)
    for table in tables:
        for symbol in table.get_symbols():
            bound = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
            if bound and (table is module or symbol.is_declared_global()):
                known.add(symbol.get_name())
    ends: dict[int, int] = {0: sys.maxsize}
    for node in ast.walk(tree):
        if isinstance(node, _SCOPES):
            ends[node.lineno] = max(ends.get(node.lineno, 0), node.end_lineno or node.lineno)
    unknown = [
        (node.lineno, node.id)
        for table in tables
        for symbol in table.get_symbols()
        if symbol.is_referenced() and symbol.is_global() and symbol.get_name() not in known
        for node in names
        if node.id == symbol.get_name() and table.get_lineno() <= node.lineno <= ends.get(table.get_lineno(), 0)
    ]
    if unknown:
        line, name = min(unknown)
        raise RecipeError(
            f"The recipe uses {name} in line {line} and does not define it.",
            "Others get the text of the recipe and nothing else of your notebook: the cell must contain all of it.",
            f"Import or define {name} in the recipe.",
        )


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _evaluated_names(node: ast.AST) -> Iterator[ast.Name]:
    """The names that `node` reads, less those in annotations, which may never be evaluated (those that are raise at
    once), and those that it is prepared to miss."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load):
            yield node
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns") or (field == "body" and isinstance(node, ast.Try) and _may_miss(node)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _evaluated_names(child)


def _may_miss(node: ast.Try) -> bool:
    caught = {
        name.id if isinstance(name, ast.Name) else ""
        for handler in node.handlers
        for name in (ast.walk(handler.type) if handler.type is not None else [ast.Name("Exception")])
    }
    return bool(caught & {"NameError", "Exception", "BaseException"})
