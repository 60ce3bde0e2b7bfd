//! The table of who may call what, and the verdict on a call. A method missing from the table cannot be called.
//!
//! Not here: what a refusal leads to (mod.rs), how many calls may run at once (gate).

use isyone_proto::{
    error::status,
    tls::{
        Identity,
        OperatorRole::{self, Admin, Operator, Viewer},
    },
};
use tonic::{Code, Status};

use self::Permission::{Agents, Anyone, From, Joining};
use crate::{ports::listener::Peer, wire::caller::Caller};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Operators of at least this role.
    From(OperatorRole),
    /// Agents only.
    Agents,
    /// Callers without a certificate, on the enrolment port.
    Joining,
    /// Anyone with a certificate.
    Anyone,
}

/// Sorted by path, for the binary search.
pub(super) const TABLE: &[(&str, Permission)] = &[
    ("/grpc.health.v1.Health/Check", Anyone),
    ("/grpc.health.v1.Health/Watch", Anyone),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        From(Viewer),
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        From(Viewer),
    ),
    ("/isyone.agent.v1.AgentService/Attach", Agents),
    ("/isyone.agent.v1.AgentService/Relay", Agents),
    ("/isyone.agent.v1.AgentService/Renew", Agents),
    ("/isyone.agent.v1.AgentService/Session", Agents),
    ("/isyone.agent.v1.BackupStore/Create", Agents),
    ("/isyone.agent.v1.BackupStore/Get", Agents),
    ("/isyone.agent.v1.BackupStore/List", Agents),
    ("/isyone.agent.v1.BackupStore/Put", Agents),
    ("/isyone.agent.v1.BackupStore/Stat", Agents),
    ("/isyone.agent.v1.EnrollmentService/Enroll", Joining),
    ("/isyone.v1.BackupService/CreateBackups", From(Operator)),
    ("/isyone.v1.BackupService/GetBackup", From(Viewer)),
    ("/isyone.v1.BackupService/GetProtection", From(Viewer)),
    ("/isyone.v1.BackupService/GetRepositoryKey", From(Admin)),
    // What is in a backup is the tenant's, as what a shell shows.
    ("/isyone.v1.BackupService/ListBackupFiles", From(Operator)),
    ("/isyone.v1.BackupService/ListBackups", From(Viewer)),
    ("/isyone.v1.BackupService/ListProtections", From(Viewer)),
    ("/isyone.v1.BackupService/PruneBackups", From(Operator)),
    ("/isyone.v1.BackupService/ReadBackupFile", From(Operator)),
    ("/isyone.v1.BackupService/RestoreBackup", From(Operator)),
    ("/isyone.v1.BackupService/ReturnTenant", From(Operator)),
    ("/isyone.v1.BackupService/VerifyBackups", From(Operator)),
    (
        "/isyone.v1.CertificateService/AddCertificate",
        From(Operator),
    ),
    ("/isyone.v1.CertificateService/GetCertificate", From(Viewer)),
    (
        "/isyone.v1.CertificateService/ListCertificates",
        From(Viewer),
    ),
    (
        "/isyone.v1.CertificateService/RemoveCertificate",
        From(Operator),
    ),
    ("/isyone.v1.DomainService/AddDomain", From(Operator)),
    ("/isyone.v1.DomainService/ListDomains", From(Viewer)),
    ("/isyone.v1.DomainService/RemoveDomain", From(Operator)),
    ("/isyone.v1.EdgeService/GetEdge", From(Viewer)),
    ("/isyone.v1.EdgeService/ListEdges", From(Viewer)),
    ("/isyone.v1.EdgeService/ListRejectedRoutes", From(Viewer)),
    ("/isyone.v1.EventService/StreamEvents", From(Viewer)),
    ("/isyone.v1.HostService/ApproveHost", From(Admin)),
    ("/isyone.v1.HostService/BeginMaintenance", From(Operator)),
    ("/isyone.v1.HostService/CordonHost", From(Operator)),
    ("/isyone.v1.HostService/CreateJoinToken", From(Admin)),
    ("/isyone.v1.HostService/DeleteOrphan", From(Operator)),
    ("/isyone.v1.HostService/EndMaintenance", From(Operator)),
    ("/isyone.v1.HostService/FailOverHost", From(Operator)),
    ("/isyone.v1.HostService/GetHost", From(Viewer)),
    ("/isyone.v1.HostService/ListHosts", From(Viewer)),
    ("/isyone.v1.HostService/ListJoinTokens", From(Admin)),
    ("/isyone.v1.HostService/ListOrphans", From(Viewer)),
    ("/isyone.v1.HostService/MoveStandbys", From(Operator)),
    ("/isyone.v1.HostService/ProposeRebalance", From(Viewer)),
    ("/isyone.v1.HostService/RemoveHost", From(Admin)),
    ("/isyone.v1.HostService/RevokeJoinToken", From(Admin)),
    ("/isyone.v1.HostService/UncordonHost", From(Operator)),
    (
        "/isyone.v1.OperationService/CancelOperation",
        From(Operator),
    ),
    ("/isyone.v1.OperationService/GetOperation", From(Viewer)),
    ("/isyone.v1.OperationService/ListOperations", From(Viewer)),
    ("/isyone.v1.OperationService/WatchOperation", From(Viewer)),
    ("/isyone.v1.OperatorService/CreateOperator", From(Admin)),
    ("/isyone.v1.OperatorService/ListOperators", From(Admin)),
    // Their own certificates; those of others are for admins (accounts).
    ("/isyone.v1.OperatorService/RenewOperator", From(Viewer)),
    (
        "/isyone.v1.OperatorService/RetireCertificates",
        From(Viewer),
    ),
    ("/isyone.v1.OperatorService/RevokeOperator", From(Admin)),
    ("/isyone.v1.SystemService/GetInfo", From(Viewer)),
    ("/isyone.v1.SystemService/GetTrust", From(Viewer)),
    ("/isyone.v1.SystemService/ResignCertificate", From(Viewer)),
    ("/isyone.v1.TenantService/AddStandby", From(Operator)),
    ("/isyone.v1.TenantService/CreateTenant", From(Operator)),
    ("/isyone.v1.TenantService/DeleteTenant", From(Operator)),
    ("/isyone.v1.TenantService/Exec", From(Operator)),
    ("/isyone.v1.TenantService/ExplainTenant", From(Viewer)),
    ("/isyone.v1.TenantService/FailOverTenant", From(Operator)),
    ("/isyone.v1.TenantService/GetAccess", From(Viewer)),
    ("/isyone.v1.TenantService/GetCredentials", From(Operator)),
    ("/isyone.v1.TenantService/GetTenant", From(Viewer)),
    ("/isyone.v1.TenantService/ListTenants", From(Viewer)),
    ("/isyone.v1.TenantService/MoveTenant", From(Operator)),
    // Links that reset passwords are among it.
    ("/isyone.v1.TenantService/ReadMail", From(Operator)),
    ("/isyone.v1.TenantService/RemoveStandby", From(Operator)),
    ("/isyone.v1.TenantService/ResizeTenant", From(Operator)),
    ("/isyone.v1.TenantService/RestartTenant", From(Operator)),
    ("/isyone.v1.TenantService/RestoreTenant", From(Operator)),
    ("/isyone.v1.TenantService/ResumeTenant", From(Operator)),
    ("/isyone.v1.TenantService/SetAccess", From(Operator)),
    ("/isyone.v1.TenantService/SetMail", From(Operator)),
    ("/isyone.v1.TenantService/SetOdooSettings", From(Operator)),
    // Odoo logs links that reset passwords: who reads them can be anybody there.
    ("/isyone.v1.TenantService/StreamLogs", From(Operator)),
    ("/isyone.v1.TenantService/SuspendTenant", From(Operator)),
    ("/isyone.v1.TenantService/UndeleteTenant", From(Operator)),
    ("/isyone.v1.TenantService/UpgradeTenant", From(Operator)),
    ("/isyone.v1.TopService/TopHosts", From(Viewer)),
    ("/isyone.v1.TopService/TopTenants", From(Viewer)),
];

/// Methods whose requests are streams (a test checks that the list is exact): we do not wait for their end.
pub(super) const OPEN_ENDED: &[&str] = &[
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/isyone.agent.v1.AgentService/Attach",
    "/isyone.agent.v1.AgentService/Relay",
    "/isyone.agent.v1.AgentService/Session",
    "/isyone.agent.v1.BackupStore/Put",
    "/isyone.v1.TenantService/Exec",
];

/// Methods that give themselves the time that they may take, because it follows from how much is sent.
pub(super) const TIMES_ITSELF: &[&str] = &["/isyone.agent.v1.BackupStore/Put"];

/// The method's name in the table (`'static`, so a safe metric label), and whether the peer may call it.
pub(super) fn judge(path: &str, peer: Option<&Peer>) -> (&'static str, Caller, Result<(), Status>) {
    let caller = match peer.and_then(Peer::identity) {
        Some(Identity::Operator(name, role)) => Caller::Operator(name.clone(), *role),
        Some(Identity::Agent(host)) => Caller::Agent(host.clone()),
        Some(Identity::Coordinator) | None => Caller::Stranger,
    };
    let Ok(index) = TABLE.binary_search_by_key(&path, |(method, _)| method) else {
        let refused = Status::unimplemented("no such method");
        return ("unknown", caller, Err(refused));
    };
    let (method, access) = TABLE[index];
    let allowed = match (access, &caller) {
        (From(least), Caller::Operator(_, role)) => *role >= least,
        (Agents, Caller::Agent(_)) | (Joining, Caller::Stranger) => true,
        (Anyone, Caller::Operator(..) | Caller::Agent(_)) => true,
        (From(_) | Agents | Joining | Anyone, _) => false,
    };
    let verdict = if allowed {
        Ok(())
    } else {
        Err(denied(access, &caller))
    };
    (method, caller, verdict)
}

fn denied(access: Permission, caller: &Caller) -> Status {
    let who = match caller {
        Caller::Operator(name, role) => format!("operator `{name}` has the role {role}"),
        Caller::Agent(host) => format!("host `{host}` is no operator"),
        Caller::Stranger => "no client certificate".to_owned(),
    };
    let message = match access {
        From(least) => format!("{who}; this needs the role {least}"),
        Agents => format!("{who}; this is for agents"),
        Joining | Anyone => format!("{who}; not here"),
    };
    status(
        Code::PermissionDenied,
        "PERMISSION_DENIED",
        message,
        std::collections::HashMap::new(),
    )
}
