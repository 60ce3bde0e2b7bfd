"""Searches with accents as they are written, where odoo.conf says so in so many words: Odoo asks its option `unaccent` only when it makes
a database by itself, and otherwise searches without accents wherever the database has the function.

Indexes stay as they are; one without accents is of no use to a search with them.
"""

import configparser


def says_no(path):
    """Whether the file itself says `unaccent = False`. Odoo's own default, which is the same, counts for nothing."""
    parser = configparser.RawConfigParser()
    parser.read([path])
    return parser.get("options", "unaccent", fallback="").strip().lower() == "false"


def as_written(databases):
    """`databases`: Odoo's module that looks for the function when a registry is made."""
    missing = getattr(getattr(databases, "FunctionStatus", None), "MISSING", False)
    databases.has_unaccent = lambda cr: missing
