"""`from worked import ...` in the tests of losses, made known as tests/conftest.py makes tiny known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("worked", Path(__file__).with_name("worked.py"))
assert _spec and _spec.loader
worked = importlib.util.module_from_spec(_spec)
sys.modules["worked"] = worked
_spec.loader.exec_module(worked)
