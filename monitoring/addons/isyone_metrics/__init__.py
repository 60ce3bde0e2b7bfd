"""Prometheus metrics of an Odoo server (18 and 19), without a database install: loaded by `server_wide_modules`.

README.md beside this file lists every metric and what the container needs. Importing the package touches nothing of
Odoo; `post_load`, which Odoo calls once per process, does.
"""

import logging

from . import hooks

_logger = logging.getLogger(__name__)


def post_load():
    """Starts counting. Whatever goes wrong here, Odoo starts without metrics rather than not at all."""
    try:
        hooks.install()
    except Exception:
        _logger.exception("isyone_metrics: not active")
