{
    "name": "isyone metrics",
    "summary": "Prometheus metrics of this Odoo on /metrics",
    "version": "1.0.0",
    "category": "Technical",
    "author": "isyone",
    "license": "LGPL-3",
    "depends": ["base"],
    # Works by `server_wide_modules` alone: nothing is to be installed in a database, so it is not offered there.
    "installable": False,
    "post_load": "post_load",
}
