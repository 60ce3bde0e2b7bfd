//! Upgrades: a tenant gets other images of its edition, or its host finds out anew what its references mean.
//!
//! Not here: another edition (its modules would have to be migrated), who may name which image (the coordinator's operators),
//! whether an image fits the tenant's data (its agent).

use isyone_types::{ids::TenantName, spec::ImageRef};

use super::{
    super::{ChangeError, Edit, Outcome},
    wrong_state,
};
use crate::{desired::Tenant, event::EventKind, operation::OperationKind, settings::Edition};

impl Edit<'_> {
    /// Without any image, both are those of the edition as it is configured now. What is asked for is settled anew by the host, also
    /// where the reference stays the same: its tag may have moved.
    pub(in crate::change) fn upgrade_tenant(
        &mut self,
        name: &TenantName,
        odoo: Option<ImageRef>,
        postgres: Option<ImageRef>,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Upgrade], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(name)?;
        self.check_disk(&tenant)?;
        let (odoo, postgres) = match (odoo, postgres) {
            (None, None) => {
                let Edition { odoo, postgres } = self.edition_of(&tenant)?.clone();
                (Some(odoo), Some(postgres))
            }
            named => named,
        };
        let asked = &tenant.images_asked;
        // Never the same twice, whatever the clock does.
        let at = (self.stamp.now).max(asked.odoo.max(asked.postgres) + 1);
        let mut told = Vec::new();
        if let Some(image) = odoo {
            self.check_edition(&tenant, &image)?;
            told.push(said(&tenant.spec.odoo_image, &image));
            tenant.spec.odoo_image = image;
            tenant.images_asked.odoo = at;
        }
        if let Some(image) = postgres {
            told.push(said(&tenant.spec.postgres_image, &image));
            tenant.spec.postgres_image = image;
            tenant.images_asked.postgres = at;
        }
        let operation = self.change(tenant, OperationKind::Upgrade, request_id.into())?;
        let tenant = self.tenant(name)?;
        self.event(
            EventKind::TenantUpgraded,
            Some(&tenant),
            None,
            Some(operation.id),
            told.join(", "),
        );
        Ok(Outcome::Operation(operation))
    }

    fn edition_of(&self, tenant: &Tenant) -> Result<&Edition, ChangeError> {
        let edition = &tenant.spec.edition;
        self.settings.editions.get(edition).ok_or_else(|| {
            wrong_state(
                &tenant.name,
                format!("is of edition `{edition}`, which is not configured any more; name its images with --odoo-image and --postgres-image"),
            )
        })
    }

    /// Refuses an Odoo that is another edition's, and not its own's as well.
    fn check_edition(&self, tenant: &Tenant, image: &ImageRef) -> Result<(), ChangeError> {
        let own = &tenant.spec.edition;
        let mut having = (self.settings.editions.iter()).filter(|(_, e)| e.odoo == *image);
        let Some((other, _)) = having.next() else {
            return Ok(());
        };
        if other == own || having.any(|(name, _)| name == own) {
            return Ok(());
        }
        Err(wrong_state(
            &tenant.name,
            format!(
                "is of edition `{own}`, and `{image}` is edition `{other}`'s: an upgrade stays within its edition. Another edition needs the tenant's modules migrated, which is not there yet"
            ),
        ))
    }
}

/// What becomes of an image, for the event.
fn said(from: &ImageRef, to: &ImageRef) -> String {
    match from == to {
        true => format!("{to}, looked up anew"),
        false => format!("{from} → {to}"),
    }
}
