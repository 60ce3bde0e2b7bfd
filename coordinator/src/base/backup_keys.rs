//! Keys of tenants' backups: made, sealed and opened.
//!
//! Not here: sealing itself (secrets), where they are kept (isyone_fleet::desired), what they open (isyone-backup).

use isyone_fleet::desired::{Sealed, backups::BackupKey};
use isyone_proto::backup::RepositoryKey;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::secrets::{SealError, Sealer, rand_bytes};

impl Sealer {
    /// Makes and seals the key of a tenant's backups.
    pub fn new_backup_key(&self, tenant: Uuid) -> Sealed {
        let mut key = Zeroizing::new([0; 64]);
        rand_bytes(key.as_mut());
        self.seal(&BackupKey::sealed_for(tenant), key.as_ref())
    }

    /// The key of a tenant's backups.
    pub fn open_backup_key(&self, key: &BackupKey) -> Result<RepositoryKey, SealError> {
        let bytes = self.open(&BackupKey::sealed_for(key.tenant), &key.key)?;
        let bytes: Result<&[u8; 64], _> = bytes.as_slice().try_into();
        bytes
            .map(RepositoryKey::from)
            .map_err(|_| SealError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_for_its_tenant_and_each_is_another() {
        let (sealer, [alfa, beta]) = (Sealer::ephemeral(), [1, 2].map(Uuid::from_u128));
        let of = |tenant, key: &Sealed| {
            sealer.open_backup_key(&BackupKey {
                tenant,
                name: "alfa".parse().unwrap(),
                key: key.clone(),
                made_at: 0,
                delete_at: None,
            })
        };
        let (one, two) = (sealer.new_backup_key(alfa), sealer.new_backup_key(alfa));
        assert_ne!(of(alfa, &one).unwrap(), of(alfa, &two).unwrap());
        assert!(of(beta, &one).is_err(), "it is sealed for its tenant");
        let short = sealer.seal(&BackupKey::sealed_for(alfa), b"short");
        assert!(matches!(of(alfa, &short), Err(SealError::DoesNotOpen)));
    }
}
