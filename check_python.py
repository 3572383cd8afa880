"""Whether this Python is one of those in pyproject.toml: `make setup` asks before it installs anything.

Packages of a newer one have no wheels yet: without compilers, the installation would end in pages of errors. An older Python
reads this file, too.
"""

import re
import shutil
import sys
from pathlib import Path


def main() -> None:
    """Raises SystemExit with one line if it is none of them."""
    text = Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8")
    oldest, end = (int(minor) for minor in re.findall(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', text, re.M)[0])
    if (3, oldest) <= sys.version_info[:2] < (3, end):
        return
    names = [f"python3.{minor}" for minor in range(end - 1, oldest - 1, -1)]
    found = next(filter(shutil.which, names), None)
    way_out = f"make setup PYTHON={found}" if found else f"install one of them, then make setup PYTHON={names[0]}"
    came = f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
    sys.exit(f"expected Python 3.{oldest} to 3.{end - 1}, came {came}. Try: {way_out}")


if __name__ == "__main__":
    main()
