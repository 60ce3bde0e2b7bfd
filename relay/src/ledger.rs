//! Stocks in use: a tenant's, out of what its host has, held until they are dropped.
//!
//! Not here: who gets how much (`shares`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    shares::{Full, Shares},
    visitor::Visitor,
};

/// Stands for a tenant in what all share; never given twice.
pub(crate) type TenantId = u64;

/// What all tenants share.
#[derive(Debug)]
pub(crate) struct Common(Mutex<Shares<TenantId>>);

impl Common {
    /// A stock of which one tenant has at most half of what is free.
    pub(crate) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Shares::new(bound, bound, 1))))
    }

    /// Another bound from now on.
    pub(crate) fn resize(&self, bound: u64) {
        locked(&self.0).resize(bound, bound);
    }

    /// Takes one for a tenant, directly.
    pub(crate) fn take_one(self: &Arc<Self>, tenant: TenantId) -> Result<One, Full> {
        locked(&self.0).take(tenant, 1)?;
        Ok(One(Arc::clone(self), tenant))
    }
}

/// One piece of what all share.
#[derive(Debug)]
pub(crate) struct One(Arc<Common>, TenantId);

impl Drop for One {
    fn drop(&mut self) {
        locked(&self.0.0).give(self.1, 1);
    }
}

/// A tenant's stock.
#[derive(Debug)]
pub(crate) struct Ledger {
    common: Arc<Common>,
    tenant: TenantId,
    own: Mutex<Shares<Visitor>>,
}

impl Ledger {
    /// See `Shares::new` for the bounds.
    pub(crate) fn new(
        common: &Arc<Common>,
        tenant: TenantId,
        bound: u64,
        per_key: u64,
        part: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            common: Arc::clone(common),
            tenant,
            own: Mutex::new(Shares::new(bound, per_key, part)),
        })
    }

    /// Other bounds from now on.
    pub(crate) fn resize(&self, bound: u64, per_key: u64) {
        locked(&self.own).resize(bound, per_key);
    }

    /// Something that can hold a part for a visitor, and holds nothing yet.
    pub(crate) fn hold(self: &Arc<Self>, visitor: Visitor) -> Held {
        Held {
            ledger: Arc::clone(self),
            visitor,
            amount: 0,
        }
    }

    /// How much is in use.
    pub(crate) fn used(&self) -> u64 {
        locked(&self.own).used()
    }
}

/// A part of a stock. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    ledger: Arc<Ledger>,
    visitor: Visitor,
    amount: u64,
}

impl Held {
    /// Takes more, or nothing.
    pub(crate) fn grow(&mut self, amount: u64) -> Result<(), Full> {
        let ledger = &self.ledger;
        locked(&ledger.own).take(self.visitor, amount)?;
        if locked(&ledger.common.0)
            .take(ledger.tenant, amount)
            .is_err()
        {
            locked(&ledger.own).give(self.visitor, amount);
            return Err(Full::All);
        }
        self.amount += amount;
        Ok(())
    }

    /// Gives some back.
    pub(crate) fn shrink(&mut self, amount: u64) {
        let amount = amount.min(self.amount);
        if amount == 0 {
            return;
        }
        self.amount -= amount;
        locked(&self.ledger.own).give(self.visitor, amount);
        locked(&self.ledger.common.0).give(self.ledger.tenant, amount);
    }

    /// How much it holds.
    pub(crate) fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}

/// A lock whose holders never leave anything half done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn visitor(last: u8) -> Visitor {
        IpAddr::from([203, 0, 113, last]).into()
    }

    #[test]
    fn what_is_held_comes_back_and_what_the_host_lacks_is_not_taken() {
        let common = Common::new(100);
        let alfa = Ledger::new(&common, 1, 1_000, 1_000, 1);
        let beta = Ledger::new(&common, 2, 1_000, 1_000, 1);
        let mut of_alfa = alfa.hold(visitor(1));
        of_alfa.grow(50).unwrap();
        assert_eq!(
            of_alfa.grow(1),
            Err(Full::All),
            "half of the host's is a tenant's most"
        );
        assert_eq!((alfa.used(), of_alfa.amount()), (50, 50));
        let mut of_beta = beta.hold(visitor(1));
        of_beta.grow(20).unwrap();
        of_alfa.shrink(30);
        drop(of_beta);
        assert_eq!(
            (alfa.used(), beta.used(), locked(&common.0).used()),
            (20, 0, 20)
        );
        drop(of_alfa);
        assert_eq!(locked(&common.0).used(), 0);
    }
}
