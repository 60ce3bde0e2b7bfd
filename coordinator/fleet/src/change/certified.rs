//! Arguments of commands that come with a certificate.
//!
//! Not here: signing it, and what is done with it (joining, operators).

use std::{collections::BTreeMap, net::IpAddr};

use isyone_types::{
    identity::OperatorRole,
    ids::{HostName, ShortName},
    spec::{LabelKey, LabelValue},
};
use uuid::Uuid;

use super::command::AskedWith;
use crate::desired::Certificate;

/// What an agent presents in [`super::Command::Enroll`].
#[derive(Debug, Clone)]
pub struct Enroll {
    /// Public half of the token.
    pub token_id: String,
    /// SHA-256 of the secret half, hex.
    pub secret_hash: String,
    /// The requested host name.
    pub host: HostName,
    /// The host's uid if it is new.
    pub uid: Uuid,
    /// Where edges reach the host.
    pub advertise: IpAddr,
    /// Where the request came from.
    pub from: IpAddr,
    /// `advertise` leads to the coordinator itself: its certificate carries it, or this machine has it.
    pub is_ours: bool,
    /// The agent's own labels; the token's take precedence.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Already signed, but handed out only if this command succeeds.
    pub certificate: Certificate,
}

/// Arguments of [`super::Command::RenewOperator`].
#[derive(Debug, Clone)]
pub struct RenewOperator {
    pub name: ShortName,
    /// The role in the new certificate.
    pub role: OperatorRole,
    pub certificate: Certificate,
    /// If it is the operator's own, it stays until the operator comes with the new one: the answer goes over a connection
    /// that it holds open. If it is an admin's, all that there are are refused at once.
    pub asked_with: AskedWith,
}
