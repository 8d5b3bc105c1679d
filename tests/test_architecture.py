"""The shape of the house (DESIGN.md, section 2): imports run one way, and scripts are thin."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = {"config": 0, "utils": 0, "data": 1, "models": 2, "diffusion": 3, "influence": 4, "sampling": 5, "baselines": 5,
         "evaluation": 6, "library": 7, "stages": 7, "cli": 7}
OUTER = ("classifier", "data_preprocess", "scripts")
SOURCES = sorted(path for folder in ("tardiff", *OUTER) for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it; relative ones are resolved from `root`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1].relative_to(root).parts if node.level else ()
            module = ".".join([*folder, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def layer(dotted: str) -> str | None:
    """Return the part of tardiff that a dotted name belongs to; None for the package itself and for all else."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "tardiff" and len(parts) > 1 and not parts[1].startswith("__") else None


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "tardiff")],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    """utils, config -> data -> models -> diffusion -> influence -> sampling -> evaluation -> library -> stages,
    cli; of what stands outside, the library, the stages and the face of the package know the classifier."""
    names = imported(path)
    here = path.relative_to(ROOT / "tardiff").with_suffix("").parts[0]
    known = {"classifier"} if here in ("library", "stages", "__init__") else set()
    assert not {name for name in names if name.split(".")[0] in OUTER if name.split(".")[0] not in known}
    if here in ("__init__", "__main__"):
        return
    upwards = {name for name in names if layer(name) and ORDER[layer(name)] > ORDER[here]}
    assert not upwards


def test_utils_do_not_read_the_configuration_of_stages():
    for path in (ROOT / "tardiff" / "utils").rglob("*.py"):
        assert "config" not in {layer(name) for name in imported(path)}, path


def test_samplers_do_not_name_influence():
    assert "influence" not in (ROOT / "tardiff" / "sampling" / "samplers.py").read_text(encoding="utf-8").lower()
    for path in (ROOT / "tardiff" / "sampling").rglob("*.py"):
        assert "influence" not in {layer(name) for name in imported(path)}, path


def test_data_preprocess_imports_only_data_and_utils():
    for path in (ROOT / "data_preprocess").rglob("*.py"):
        names = imported(path)
        assert {layer(name) for name in names} <= {None, "data", "utils"}, path
        assert not {name for name in names if name.split(".")[0] in ("classifier", "scripts")}, path


def test_the_classifier_needs_no_script():
    for path in (ROOT / "classifier").rglob("*.py"):
        assert not {name for name in imported(path) if name.split(".")[0] in ("scripts", "data_preprocess")}, path


def test_scripts_are_thin():
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "scripts").glob("*.py")}
    entry_points = {name: count for name, count in lines.items() if not name.startswith(("benchmark", "study"))}
    assert entry_points and max(entry_points.values()) <= 10, entry_points


def test_the_reader_of_imports_sees_every_form(tmp_path):
    """What holds the rules above must itself notice a breach, at the top, inside a function, and relative."""
    path = tmp_path / "tardiff" / "data" / "breach.py"
    path.parent.mkdir(parents=True)
    path.write_text("import tardiff.a.b\nfrom tardiff.c import d\ndef f():\n    from ..sampling import generate\n"
                    "    from . import format\nif True:\n    import classifier.train as t\n")
    assert {"tardiff.a.b", "tardiff.c.d", "tardiff.sampling", "tardiff.sampling.generate", "tardiff.data.format",
            "classifier.train"} <= imported(path, tmp_path)
    assert {layer(name) for name in imported(path, tmp_path)} == {"a", "c", "sampling", "data", None}


def test_ruff_is_clean():
    """The rules stand in pyproject.toml."""
    checked = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, text=True,
                             capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout
