"""Makes the addon importable without Odoo, as package `isyone_metrics`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
