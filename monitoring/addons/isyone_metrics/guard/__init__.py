"""Keeps an Odoo server answering where Odoo by itself would not: its database restarts, its connection pool is full, it
is stopped while it works, a request wants more memory than there is, nobody's sessions fill the disk; closed to strangers
where an app that is installed would open it; and sending mail and searching as it was told.

Each mend is a wrapper around one place of Odoo, put there by itself as the hooks of the metrics are: what a version of
Odoo does not have is left as it is, and `odoo_metrics_hook_active` says so. Not here: what is counted (`..layout`).
"""

import importlib
import os

from . import away, cron, mail, memory, pool, search, sessions, signup, stop


def install(recorder, attempt, evented):
    """Puts every mend in place. `attempt(name, hook)` runs a hook and notes whether it could; `evented`: this is the
    process for websockets, which waits for connections in its own way and serves no cron."""
    module = importlib.import_module

    def server():
        return module("odoo.service.server")

    def guard_pool():
        sql = module("odoo.sql_db")
        pool.wait_for_connections(sql.ConnectionPool, sql.PoolError, away.busy(sql.PoolError), recorder)

    def guard_away():
        http = module("odoo.http")
        away.answer_for_database(http.Request, http.RegistryError, module("psycopg2"), recorder)

    def guard_database():
        away.know_the_database(module("odoo.http"), module("odoo.tools").config["db_name"])

    def guard_cron():
        cron.keep_connecting(server().ThreadedServer, recorder)

    def guard_spawn():
        cron.keep_spawning(server().PreforkServer, module("psycopg2").OperationalError, recorder)

    def guard_stop():
        stop.mark_requests(module("odoo.http").Application)
        stop.wait_for_requests(server().ThreadedServer, lambda: module("odoo.tools").config["limit_time_real"])

    def guard_memory():
        config = module("odoo.tools").config
        limit = memory.Bound(config["limit_memory_hard"], memory.container_bytes(), memory.tell_malloc())
        memory.bound(server(), limit)

    def guard_sessions():
        store = module("odoo.http").FilesystemSessionStore
        sessions.age(store)
        directory = module("odoo.tools").config.session_dir
        sessions.sweep_beside_crons(server(), sessions.Sweeper(directory, recorder))

    def guard_signup():
        signup.keep_choice(module("odoo.addons.base.models.ir_config_parameter").IrConfig_Parameter)

    def written():
        config = module("odoo.tools").config
        # 19 has it among its options, 18 as an attribute.
        return config.get("config") or config.rcfile

    def guard_search():
        if search.says_no(written()):
            search.as_written(module("odoo.modules.db"))

    def guard_mail():
        config = module("odoo.tools").config
        told = mail.read(written(), config["smtp_server"], config["smtp_port"])
        counter = os.path.join(config["data_dir"], mail.COUNTER)
        mail.speak_as_told(
            module("odoo.addons.base.models.ir_mail_server"), told, mail.Allowance(counter, told.per_day if told else 0)
        )

    for name, hook, evented_too in (
        ("guard_pool", guard_pool, False),
        ("guard_away", guard_away, True),
        ("guard_database", guard_database, True),
        ("guard_cron", guard_cron, False),
        ("guard_spawn", guard_spawn, False),
        ("guard_stop", guard_stop, False),
        ("guard_memory", guard_memory, True),
        ("guard_sessions", guard_sessions, True),
        ("guard_signup", guard_signup, False),
        ("guard_search", guard_search, True),
        ("guard_mail", guard_mail, False),
    ):
        if evented_too or not evented:
            attempt(name, hook)
