"""The rules of the house: directions of imports, light imports, no global flags."""

import ast
import subprocess
import sys
from pathlib import Path

import shapjax

PACKAGE = Path(shapjax.__file__).parent
ORDER = [
    ("core",),
    ("coalitions",),
    ("transforms",),
    ("indices",),
    ("estimators",),
    ("games",),
    ("explainers",),
    ("report", "training", "evaluate"),
    ("cli",),
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
# Networks know nothing of games, whatever is built on them.
ALLOWED = {name: {n for n, r in RANK.items() if r < rank} for name, rank in RANK.items()}
ALLOWED["backbones"] = {"core"}
for name in ("games", "explainers", "report", "training", "evaluate", "cli"):
    ALLOWED[name] |= {"backbones"}


def package_imports(path):
    """Parts of shapjax that a file imports, relative and lazy imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "shapjax":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("shapjax."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("shapjax."):
                    yield alias.name.split(".")[1]


def test_imports_go_one_way():
    files = [f for f in PACKAGE.rglob("*.py") if f.parent != PACKAGE or f.name == "cli.py"]
    assert len(files) > 20
    for path in files:
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        wrong = set(package_imports(path)) - ALLOWED[part] - {part, "__version__"}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_an_import_against_the_direction_would_be_seen(tmp_path):
    path = tmp_path / "f.py"
    path.write_text("def f():\n    from shapjax.report import page\n    from shapjax import cli\n")
    assert set(package_imports(path)) == {"report", "cli"}


def run_python(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_is_light():
    code = (
        "import sys, shapjax, shapjax.cli\n"
        "heavy = ('matplotlib', 'flax', 'skimage', 'optax', 'scipy.optimize', 'tqdm', 'PIL')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_import_flips_no_flag():
    code = (
        "import jax\n"
        "before = dict(jax.config.values)\n"
        "import shapjax, shapjax.cli\n"
        "print(before == dict(jax.config.values))"
    )
    assert run_python(code) == "True"


def test_public_names_exist_and_are_documented():
    for name in shapjax.__all__:
        assert getattr(shapjax, name).__doc__, name
