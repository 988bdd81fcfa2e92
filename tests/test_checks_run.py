"""What a test defines, it also runs: a check that nobody calls is green for ever."""

import ast
from pathlib import Path

HERE = Path(__file__).parent


def idle(tree):
    """Functions within functions that are never named, and comparisons whose result nobody looks at."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            named = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            inner = (each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)))
            yield from (
                f"{each.lineno}: {each.name}"
                for each in inner
                if each.name not in named and not each.decorator_list
            )
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare):
            yield f"{node.lineno}: {ast.unparse(node)}"


def test_nothing_is_defined_and_not_run():
    files = list(HERE.rglob("*.py"))
    assert Path(__file__) in files
    found = {str(path): list(idle(ast.parse(path.read_text(encoding="utf-8")))) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_what_is_not_run_is_found():
    assert list(idle(ast.parse("def test():\n  async def main():\n    assert 0\n"))) == ["2: main"]
    assert list(idle(ast.parse("def test():\n  def main():\n    1 == 2\n  main()"))) == ["3: 1 == 2"]
