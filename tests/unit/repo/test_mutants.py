"""The planted faults: which there are, and that a module's tests notice them."""

from __future__ import annotations

import pytest

import mutants
from mutants import ROOT, STACKCTL, TESTS
from plainpillar import ROOT as TREE


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a == b", ["(a != b)"]),
        ("x = a not in b", ["(a in b)"]),
        ("x = not a", ["(a)"]),
        ("x = a and not b", ["((a) or (not b))", "(b)"]),
        ("x = 3", ["4"]),
        ("x = 1800", []),
        ("if TYPE_CHECKING:\n    a = b", []),
        ("x: Literal[3] = True", ["False"]),
        ("@dataclass(frozen=True)\nclass C: ...", []),
        ("def f():\n    return g(x)", ["return None"]),
        ("def f():\n    return None", []),
        ("if a:\n    raise E", ["(not (a))", "pass"]),
        ("x = [a for a in b if a.c]", ["(not (a.c))"]),
        ("f(x)", ["pass"]),
        ("x = a + b - c", ["(a - b)", "(a + b + c)"]),
        ("x = all(a)", ["any"]),
        ("x = max(a, b)", ["min"]),
        ("x['a'] = b", ["pass"]),
        ('"""A docstring with 3 == 4."""', []),
    ],
)
def test_faults(source: str, expected: list[str]) -> None:
    found = mutants.faults(source.encode())
    assert [fault.new for fault in found] == expected
    for fault in found:
        assert fault.plant(source.encode()) != source.encode()


def test_fault_stands_where_its_text_stood() -> None:
    source = "é = 1\nx = f(a <\n  b)\n".encode()
    (_, fault) = mutants.faults(source)
    assert str(fault) == "2: a < b -> (a >= b)"
    assert fault.plant(source).decode() == "é = 1\nx = f((a >= b))\n"


def test_every_module_of_salt_is_tried() -> None:
    known = {str(path.relative_to(TREE)) for path in TREE.glob("salt/_*/*.py")}
    assert known <= TESTS.keys()


@pytest.mark.parametrize("module", TESTS)
def test_module_and_its_tests_exist(module: str) -> None:
    assert (ROOT / module).is_file()
    assert all((ROOT / "tests/unit" / name).exists() for name in TESTS[module])


def test_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict that the tests of another module cannot notice is printed with its line."""
    module = f"{STACKCTL}/files.py"
    monkeypatch.setitem(TESTS, module, ["stackctl/test_progress.py"])
    monkeypatch.setattr("sys.argv", ["mutants", "--each", "2", module])
    assert mutants.main() == 1
    printed = capsys.readouterr().out
    assert f"{module}: 0 of 2 noticed" in printed
    assert "0 of 2 faults noticed: 0%" in printed
