//! The single actions on a tenant, and which step of an operation shows each.
//!
//! Not here: when to do them (the parent), how (tenant::execute).

use isyone_proto::plan::Role;
use uuid::Uuid;

use crate::plan::steps::StepName;

/// A single action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Pull the image of a role.
    PullImage(Role),
    /// Stop a container gracefully.
    StopContainer(Role),
    /// Stop Odoo's container without waiting for its longest requests: its disk is full.
    StopOdooSoon,
    /// Stop a container at once, whatever it is doing: its tenant's lease is over.
    StopNow(Role),
    /// End all connections to PostgreSQL that came over the network, but for the monitor's.
    EndSessions,
    /// Remove a container; data stays in its volume.
    RemoveContainer(Role),
    /// Remove the leftover of an interrupted `odoo -i`.
    RemoveInit,
    /// Remove the tenant's network.
    RemoveNetwork,
    /// Remove a volume, with its data if that lies in Docker's own directory: only for a purged tenant.
    RemoveVolume(Role),
    /// Remove the tenant's directory: only for a purged tenant.
    RemoveDirectory,
    /// Write compose file, `.env`, odoo.conf.
    WriteFiles,
    /// Remove the tenant's home with all data in it: only for a purged tenant.
    RemoveHome,
    /// Make the records of volumes again whose data is there.
    PutBackVolumes,
    /// Rename a role's data into the tenant's home and make its volume a record of it.
    MoveData(Role),
    /// Rename the tenant's data aside, for a restore that takes its place; what an earlier one has set aside goes.
    SetAside(Uuid),
    /// Remove what was restored, and rename back what was set aside for it.
    BringBack(Uuid),
    /// Remove what was set aside for a restore: only on order.
    RemoveAside(Uuid),
    /// Create a volume, and the directory in the tenant's home that it is a record of.
    CreateVolume(Role),
    /// Create the network.
    CreateNetwork,
    /// Create a container, not yet started.
    CreateContainer(Role),
    /// Change memory and CPU of a running container.
    UpdateLimits(Role),
    /// Say whether the engine starts its containers when the machine does.
    UpdateRestarts,
    /// Fill the volumes from the golden snapshot.
    CopyGolden,
    /// Fill the volumes with `odoo -i`.
    InitDatabase,
    StartContainer(Role),
    /// Stop and start a container, because an operator asked.
    RestartContainer(Role),
    /// Wait until PostgreSQL answers.
    AwaitPostgres,
    /// Make a complete standby the tenant's own database.
    Promote,
    /// Give a filled database this tenant's keys.
    Rekey,
    /// A stand-in has no database.
    SkipDatabase,
    /// Write a changed address or role password into the database.
    UpdateSettings,
    /// Wait until `/web/health` is 200.
    AwaitOdoo,
    /// Finish the installation of an app that was cut off.
    FinishInstall,
}

impl Action {
    /// The step that shows it.
    pub fn step(self) -> StepName {
        match self {
            Self::PullImage(role) => StepName::image(role),
            // Creating a container takes milliseconds and happens while the database is filled; starting it is the step
            // that counts.
            Self::RemoveNetwork | Self::CreateNetwork | Self::CreateContainer(_) => {
                StepName::Network
            }
            Self::RemoveVolume(_)
            | Self::CreateVolume(_)
            | Self::RemoveHome
            | Self::PutBackVolumes
            | Self::MoveData(_)
            | Self::SetAside(_)
            | Self::BringBack(_)
            | Self::RemoveAside(_)
            | Self::WriteFiles
            | Self::RemoveDirectory => StepName::Volumes,
            Self::CopyGolden
            | Self::InitDatabase
            | Self::RemoveInit
            | Self::SkipDatabase
            | Self::Promote
            | Self::FinishInstall => StepName::Database,
            Self::Rekey | Self::UpdateSettings => StepName::Rekey,
            Self::AwaitOdoo => StepName::Healthy,
            Self::AwaitPostgres
            | Self::EndSessions
            | Self::StopContainer(Role::Postgres)
            | Self::StopNow(Role::Postgres)
            | Self::RemoveContainer(Role::Postgres)
            | Self::UpdateLimits(Role::Postgres)
            | Self::StartContainer(Role::Postgres)
            | Self::RestartContainer(Role::Postgres) => StepName::Postgres,
            Self::StopOdooSoon
            | Self::StopContainer(Role::Odoo)
            | Self::StopNow(Role::Odoo)
            | Self::RemoveContainer(Role::Odoo)
            | Self::UpdateLimits(Role::Odoo)
            | Self::UpdateRestarts
            | Self::StartContainer(Role::Odoo)
            | Self::RestartContainer(Role::Odoo) => StepName::Odoo,
        }
    }
}
