//! How a tenant's Odoo sends mail, in its odoo.conf, and the domain of its aliases in its database. Pure.
//!
//! A server that somebody has set in Odoo comes before it: that is Odoo's own order. Not here: what our module makes of its section
//! (monitoring/addons, guard/mail.py), which connections the packet filter lets through (firewall), who is caught (host::catcher).

use isyone_proto::{
    mail::{CATCHER_PORT, Mail, MailHost, MailTls, Relay, Via, own_host},
    plan::TenantPlan,
};

use super::{conf::Lines, sql::literal};

/// Odoo's own options.
pub(super) fn options(plan: &TenantPlan) -> Lines {
    let Some(mail) = &plan.mail else {
        return Lines::new();
    };
    let mut lines = match &mail.via {
        Via::Nobody => Lines::new(),
        Via::Catcher => server(own_host(plan.subnet).to_string(), CATCHER_PORT),
        Via::Relay(relay) => relayed(plan, relay),
    };
    lines.extend(mail.sender(&plan.name).map(|sender| ("email_from", sender)));
    if !mail.from_filter.is_empty() {
        let senders: Vec<&str> = mail.from_filter.iter().map(|s| s.as_str()).collect();
        lines.push(("from_filter", senders.join(",")));
    }
    lines
}

fn server(host: String, port: u16) -> Lines {
    vec![("smtp_server", host), ("smtp_port", port.to_string())]
}

fn relayed(plan: &TenantPlan, relay: &Relay) -> Lines {
    let host = match &relay.host {
        MailHost::OwnHost => own_host(plan.subnet).to_string(),
        MailHost::Address(address) => address.to_string(),
        MailHost::Name(name) => name.to_string(),
    };
    let mut lines = server(host, relay.port);
    // It means STARTTLS. What is encrypted from the first byte on, only our module can say.
    if relay.tls == MailTls::Starttls {
        lines.push(("smtp_ssl", "True".to_owned()));
    }
    if let Some(user) = &relay.user {
        let password = plan.secrets.mail_password.expose().to_owned();
        lines.push(("smtp_user", user.to_string()));
        lines.push(("smtp_password", password));
    }
    lines
}

/// What Odoo has no option for, and our module reads.
pub(super) fn told(plan: &TenantPlan) -> Lines {
    let Some(mail) = &plan.mail else {
        return Lines::new();
    };
    let mut lines = Lines::new();
    if mail.per_day > 0 && mail.via != Via::Nobody {
        lines.push(("mail_per_day", mail.per_day.to_string()));
    }
    if let Some(relay) = mail.relay() {
        lines.push(("mail_tls", relay.tls.as_str().to_owned()));
        if relay.unverified {
            lines.push(("mail_verify", "False".to_owned()));
        }
    }
    lines
}

/// Who sends what nobody in particular does, in the domain of aliases, where the settings do not say it.
const NOBODYS: &str = "notifications";

/// The domain of aliases, which Odoo has had in a table since 17, with its module `mail`: it is there then, and each company that has none
/// has it. What an administrator has chosen stays. May be repeated.
pub(super) fn aliases(plan: &TenantPlan) -> String {
    let Some((mail, domain)) = with_aliases(plan) else {
        return String::new();
    };
    let domain = literal(domain);
    let sender = mail.sender(&plan.name);
    let sender = literal(sender.as_deref().unwrap_or(NOBODYS));
    let there = "WHERE to_regclass('public.mail_alias_domain') IS NOT NULL \\gexec\n";
    format!(
        "SELECT format('INSERT INTO public.mail_alias_domain (name, bounce_alias, catchall_alias, default_from, sequence, create_uid, write_uid, create_date, write_date) \
         SELECT %1$L, ''bounce'', ''catchall'', %2$L, 10, 1, 1, now() AT TIME ZONE ''UTC'', now() AT TIME ZONE ''UTC'' \
         WHERE NOT EXISTS (SELECT FROM public.mail_alias_domain WHERE name = %1$L)', {domain}, {sender})\n  {there}\
         SELECT format('UPDATE public.res_company SET alias_domain_id = (SELECT min(id) FROM public.mail_alias_domain WHERE name = %L) \
         WHERE alias_domain_id IS NULL', {domain})\n  {there}"
    )
}

/// Stands for what [`aliases`] sets. Each restart sets it again: the module `mail` may have come since, whose table it is.
pub(super) fn spoken(plan: &TenantPlan) -> String {
    let said = with_aliases(plan)
        .map(|(_, domain)| format!(" aliases {domain} restarts {}", plan.odoo_restarts));
    said.unwrap_or_default()
}

fn with_aliases(plan: &TenantPlan) -> Option<(&Mail, &str)> {
    let mail = plan.mail.as_ref()?;
    Some((mail, mail.alias_domain.as_ref()?.as_str()))
}

/// Whether what it sends is caught on its host.
pub fn is_caught(plan: &TenantPlan) -> bool {
    let caught = |mail: &Mail| mail.via == Via::Catcher;
    plan.mail.as_ref().is_some_and(caught)
}

#[cfg(test)]
mod tests {
    use isyone_proto::plan::Secret;

    use super::*;
    use crate::{
        plan::{
            conf::{fixed_conf, odoo_conf},
            facts::ImageFacts,
        },
        testing::tenant_plan,
    };

    fn with(mail: Option<Mail>) -> TenantPlan {
        let mut plan = tenant_plan("alfa");
        plan.subnet = "10.200.0.16/28".parse().unwrap();
        plan.secrets.mail_password = Secret::new("p;#%(x)s");
        plan.mail = mail;
        plan
    }

    fn relay(host: &str, tls: MailTls) -> Mail {
        Mail::by(Via::Relay(Relay {
            host: host.parse().unwrap(),
            port: tls.port(),
            tls,
            unverified: false,
            user: Some("apikey".parse().unwrap()),
        }))
    }

    /// The lines that are there with settings of mail, and not without.
    fn added(mail: Mail) -> String {
        let text = |plan: &TenantPlan| odoo_conf(plan, &ImageFacts::default(), "hash");
        let (with, without) = (text(&with(Some(mail))), text(&with(None)));
        let new = with
            .lines()
            .filter(|line| !without.lines().any(|old| old == *line));
        new.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_relay_stands_in_odoos_options_and_its_encryption_in_ours() {
        let mut mail = relay("smtp.example.com", MailTls::Starttls);
        mail.sender_domain = Some("isy.one".parse().unwrap());
        mail.from_filter = ["isy.one", "a@b.example"]
            .map(|s| s.parse().unwrap())
            .to_vec();
        mail.per_day = 500;
        assert_eq!(
            added(mail),
            "email_from = alfa@isy.one\nfrom_filter = isy.one,a@b.example\nsmtp_password = p;#%(x)s\nsmtp_port = 587\n\
             smtp_server = smtp.example.com\nsmtp_ssl = True\nsmtp_user = apikey\n[isyone]\nmail_per_day = 500\nmail_tls = starttls"
        );
        let mut mail = relay("host", MailTls::Tls);
        if let Via::Relay(relay) = &mut mail.via {
            (relay.user, relay.unverified) = (None, true);
        }
        assert_eq!(
            added(mail),
            "smtp_port = 465\nsmtp_server = 10.200.0.17\n[isyone]\nmail_tls = tls\nmail_verify = False"
        );
    }

    #[test]
    fn a_catcher_is_at_the_tenants_gateway_and_nobody_is_no_server() {
        let mut mail = Mail::by(Via::Catcher);
        assert_eq!(
            added(mail.clone()),
            "smtp_port = 7484\nsmtp_server = 10.200.0.17"
        );
        assert!(is_caught(&with(Some(mail.clone()))) && !is_caught(&with(None)));
        mail.via = Via::Nobody;
        mail.per_day = 5;
        assert_eq!(added(mail), "");
    }

    #[test]
    fn the_domain_of_aliases_is_written_where_it_is_said() {
        let digest = |plan: &TenantPlan| crate::plan::sql::settings_digest(plan);
        let mut mail = Mail::by(Via::Catcher);
        let plan = with(Some(mail.clone()));
        assert_eq!(
            (aliases(&plan), digest(&plan)),
            (String::new(), digest(&with(None)))
        );
        mail.alias_domain = Some("in.isy.one".parse().unwrap());
        let plan = with(Some(mail.clone()));
        let sql = crate::plan::sql::update(&plan);
        assert!(sql.contains("E'in.isy.one', E'notifications')"), "{sql}");
        assert_ne!(digest(&plan), digest(&with(None)));
        let mut restarted = plan.clone();
        restarted.odoo_restarts += 1;
        assert_ne!(digest(&restarted), digest(&plan), "`mail` may have come");
        mail.sender_domain = Some("isy.one".parse().unwrap());
        assert!(aliases(&with(Some(mail))).contains("E'alfa@isy.one'"));
    }

    /// Fails if a tenant stops because its agent or coordinator is upgraded, or does not when its server or password is another.
    #[test]
    fn a_container_is_made_anew_for_other_settings_and_only_then() {
        let fixed = |plan: &TenantPlan| fixed_conf(plan, &ImageFacts::default(), "hash");
        let mut plan = with(None);
        let before = fixed(&plan);
        plan.secrets.mail_password = Secret::new("other");
        assert_eq!(fixed(&plan), before);
        assert!(!before.contains("smtp") && !before.contains("isyone]"));
        plan.mail = Some(relay("smtp.example.com", MailTls::Starttls));
        let first = fixed(&plan);
        plan.secrets.mail_password = Secret::new("third");
        assert!(first != before && fixed(&plan) != first);
    }
}
