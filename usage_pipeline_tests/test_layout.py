"""The layout's rules (CONTRIBUTING.md): who may import dagster, where SQL is, and that an import does nothing."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import usage_recorder

import usage_pipeline

PACKAGE = Path(usage_pipeline.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
RECORDER = Path(usage_recorder.__file__).parent
RECORDER_MODULES = sorted(RECORDER.rglob("*.py"))
DEFS = [path for path in MODULES if path.is_relative_to(PACKAGE / "defs") or path.name == "definitions.py"]
DOMAIN = [path for path in MODULES if path not in DEFS]
MOST_MODULES = 12
# From top to bottom, as in CONTRIBUTING.md: a module imports from its own layer or from one below.
LAYERS = (
    ("cli", "commands", "local"),
    ("definitions", "defs"),
    ("api", "ui"),
    (
        *(
            "access",
            "alerting",
            "budgets",
            "checks",
            "drain",
            "enrichment",
            "events",
            "explore",
            "exports",
            "history",
            "issues",
            "merchants",
            "odometers",
            "plots",
        ),
        *("reconciliation", "reports", "rollups", "status"),
    ),
    ("storage",),
    ("bindings", "log_lines", "process", "redis_keys", "server_urls", "setting_types", "settings", "texts", "values"),
)


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported_names(path: Path) -> Iterator[str]:
    """The whole dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path: Path) -> set[str]:
    """The top packages among them."""
    return {name.partition(".")[0] for name in imported_names(path)}


def rooms_of(path: Path) -> set[str]:
    """The folders and modules of our top level among them."""
    return {name.split(".")[1] for name in imported_names(path) if name.startswith("usage_pipeline.")}


def room_of(path: Path) -> str:
    """The folder or module of the top level that a module is in, or is."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", DOMAIN, ids=named)
def test_domain_packages_do_not_know_dagster(path: Path) -> None:
    assert not [name for name in imported(path) if name.startswith("dagster")]
    local = re.findall(r"usage_pipeline\.(?:defs|definitions)\b", path.read_text(encoding="utf-8"))
    assert path.is_relative_to(PACKAGE / "local") or not local, "the domain does not know the definitions either"


@pytest.mark.parametrize("path", DEFS, ids=named)
def test_definitions_hold_no_sql_and_no_redis_commands(path: Path) -> None:
    assert not {"redis", "hiredis", "psycopg", "sqlalchemy"} & imported(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    statement = re.compile(
        r"\s*(select|insert\s+into|update|delete\s+from|with|create|truncate)\s+\S+\s", re.IGNORECASE
    )
    queries = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        if statement.match(node.value) and re.search(r"\b(from|into|set|table|as)\b", node.value, re.IGNORECASE)
    ]
    assert queries == []


def test_no_room_imports_one_that_imports_it() -> None:
    imports: dict[str, set[str]] = {}
    for path in MODULES:
        room = room_of(path)
        imports.setdefault(room, set()).update(rooms_of(path) - {room})
    while leaves := [room for room, others in imports.items() if not others & imports.keys()]:
        for room in leaves:
            del imports[room]
    assert imports == {}, "these import each other, or what does"


def test_a_room_imports_from_its_own_layer_or_from_one_below() -> None:
    depth = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    assert sorted(depth) == sorted({room_of(path) for path in MODULES} - {"__init__"})
    upward = [
        (named(path), room)
        for path in MODULES
        for room in rooms_of(path) & depth.keys()
        if depth[room] < depth.get(room_of(path), 0)
    ]
    assert upward == []


@pytest.mark.parametrize("path", RECORDER_MODULES, ids=lambda path: str(path.relative_to(RECORDER)))
def test_the_recorder_imports_nothing_but_redis_and_the_standard_library(path: Path) -> None:
    assert imported(path) <= {"usage_recorder", "redis", *sys.stdlib_module_names} | (
        {"typing_extensions"} if "if TYPE_CHECKING:" in path.read_text(encoding="utf-8") else set()
    )


def test_connections_to_postgres_are_made_in_one_place_which_sets_what_they_rely_on() -> None:
    connecting = re.compile(r"\bpsycopg\.(Async)?(Connection\.)?connect\(|ConnectionPool\(|\blog_in\(|create_engine\(")
    # The demo and the embedded server connect to a server of their own.
    places = [
        named(path)
        for path in MODULES
        if room_of(path) != "local" and connecting.search(path.read_text(encoding="utf-8"))
    ]
    assert places == ["storage/migrations.py", "storage/postgres.py"]
    assert "creator=" in (PACKAGE / "storage" / "migrations.py").read_text(encoding="utf-8"), "its engine's are ours"


def test_a_room_has_a_dozen_modules_at_most_and_says_what_is_in_it() -> None:
    tests = PACKAGE.parent / "usage_pipeline_tests"
    for folder in {path.parent for path in (*MODULES, *RECORDER_MODULES, *tests.rglob("*.py"))}:
        modules = [path.name for path in folder.glob("*.py") if path.name not in ("__init__.py", "conftest.py")]
        assert len(modules) <= MOST_MODULES, f"{folder}: {len(modules)} modules"
        lines = (ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or "").splitlines()
        assert 1 <= len(lines) <= 5, f"{folder}/__init__.py: expected one to five lines on what is here and what is not"


# Bytecode is the only thing that an import may write.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
IMPORT_EVERYTHING = """
import importlib, json, os, pkgutil, sys

package = sys.argv[1]
folder = importlib.import_module(package).__path__
names = [module.name for module in pkgutil.walk_packages(folder, package + ".")]


def import_all():
    global importing
    for importing in names:
        importlib.import_module(importing)


# Once unwatched: what libraries do at their import is theirs. Then ours alone is imported anew.
import_all()
for name in [name for name in sys.modules if name.partition(".")[0] == package]:
    del sys.modules[name]

seen = []


class Environment(type(os.environ)):
    def __getitem__(self, name):
        # Libraries ask for their own.
        if not name.startswith(("PYDANTIC_", "DAGSTER_")):
            seen.append(f"environment: {name} in {importing}")
        return super().__getitem__(name)


os.environ.__class__ = Environment


def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"):
        seen.append(f"{event}: {arguments[-1]!r}")
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(f"write: {arguments[0]!r}")


sys.addaudithook(watch)
import_all()
print(json.dumps({"imported": names, "seen": seen}))
"""


@pytest.mark.parametrize(
    ("package", "one_module"),
    [("usage_pipeline", "usage_pipeline.drain.rounds"), ("usage_recorder", "usage_recorder.recorder")],
)
def test_an_import_does_no_io_and_reads_no_environment(tmp_path: Path, package: str, one_module: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, package],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": f"{PACKAGE.parent}:{RECORDER.parent}"},
    )
    assert result.returncode == 0, result.stderr[-2_000:]
    answer = json.loads(result.stdout.splitlines()[-1])
    assert one_module in answer["imported"]
    assert len(answer["imported"]) > 10
    assert answer["seen"] == []
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_watch_over_imports_sees_what_it_is_for(tmp_path: Path) -> None:
    package = tmp_path / "naughty"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "reads.py").write_text("import os\nos.environ.get('DATABASE_URL')\n")
    (package / "writes.py").write_text("open('left_behind', 'w').close()\n")
    (package / "connects.py").write_text("import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))\n")
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, "naughty"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr[-2_000:]
    seen = json.loads(result.stdout)["seen"]
    assert [what.partition(":")[0] for what in seen] == ["socket.connect", "environment", "write"]
