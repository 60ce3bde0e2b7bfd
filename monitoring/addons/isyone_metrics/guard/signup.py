"""Keeps who may make an account as that was decided: Odoo's module `auth_signup`, which comes with most apps, opens registration to
everybody each time it is installed, whatever the tenant's operator or administrator had chosen.

Settings that a person changes while Odoo runs count as ever.
"""

import functools

# Odoo's parameter: `b2b`, people are invited; `b2c`, everybody.
SCOPE = "auth_signup.invitation_scope"


def keep_choice(parameters):
    """Around the setting of a parameter: while modules are being loaded, this one keeps the value that it has."""
    original = parameters.set_param

    @functools.wraps(original)
    def set_param(self, key, value):
        if key == SCOPE and not self.env.registry.ready:
            chosen = self.sudo().get_param(SCOPE)
            if chosen:
                return chosen
        return original(self, key, value)

    parameters.set_param = set_param
