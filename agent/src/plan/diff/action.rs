//! What can be done to a tenant, one thing at a time, and which step of an operation shows it.
//!
//! Not here: when (the parent), how (tenant::execute).

use isyone_proto::plan::Role;

use crate::plan::steps::StepName;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Fetch the image of a role.
    PullImage(Role),
    /// Stop, gracefully.
    StopContainer(Role),
    /// Remove a container; data stays in its volume.
    RemoveContainer(Role),
    /// Remove the leftover of an interrupted `odoo -i`.
    RemoveInit,
    /// Remove the tenant's network.
    RemoveNetwork,
    /// Remove a volume: only of a purged tenant.
    RemoveVolume(Role),
    /// Remove the tenant's directory: only of a purged tenant.
    RemoveDirectory,
    /// Write compose file, `.env`, odoo.conf.
    WriteFiles,
    /// Make a volume.
    CreateVolume(Role),
    /// Make the network.
    CreateNetwork,
    /// Make a container, not yet started.
    CreateContainer(Role),
    /// Change memory and CPU in flight.
    UpdateLimits(Role),
    /// Fill the volumes from the golden snapshot.
    CopyGolden,
    /// Fill them with `odoo -i`.
    InitDatabase,
    StartContainer(Role),
    /// Stop and start, because an operator asked.
    RestartContainer(Role),
    /// Wait until PostgreSQL answers.
    AwaitPostgres,
    /// Give a filled database this tenant's keys.
    Rekey,
    /// A stand-in has no database.
    SkipDatabase,
    /// Write a changed address or role password into the database.
    UpdateSettings,
    /// Wait until `/web/health` is 200.
    AwaitOdoo,
}

impl Action {
    /// The step that shows it.
    pub fn step(self) -> StepName {
        match self {
            Self::PullImage(role) => StepName::image(role),
            // Making a container takes milliseconds and happens beside filling the database; starting it is the step that counts.
            Self::RemoveNetwork | Self::CreateNetwork | Self::CreateContainer(_) => {
                StepName::Network
            }
            Self::RemoveVolume(_)
            | Self::CreateVolume(_)
            | Self::WriteFiles
            | Self::RemoveDirectory => StepName::Volumes,
            Self::CopyGolden | Self::InitDatabase | Self::RemoveInit | Self::SkipDatabase => {
                StepName::Database
            }
            Self::Rekey | Self::UpdateSettings => StepName::Rekey,
            Self::AwaitOdoo => StepName::Healthy,
            Self::AwaitPostgres
            | Self::StopContainer(Role::Postgres)
            | Self::RemoveContainer(Role::Postgres)
            | Self::UpdateLimits(Role::Postgres)
            | Self::StartContainer(Role::Postgres)
            | Self::RestartContainer(Role::Postgres) => StepName::Postgres,
            Self::StopContainer(Role::Odoo)
            | Self::RemoveContainer(Role::Odoo)
            | Self::UpdateLimits(Role::Odoo)
            | Self::StartContainer(Role::Odoo)
            | Self::RestartContainer(Role::Odoo) => StepName::Odoo,
        }
    }
}
