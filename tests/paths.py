"""Where the repository's folders are, for tests."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
TOOLS = ROOT / "tools"
