//! Plans in small messages: the coordinator splits them into parts, the agent puts them together.
//!
//! All parts carry the plan's generation, and all but the last say that more follow. Everything but the tenants is in
//! the first.
//! Not here: parsing the assembled plan (convert).

use prost::Message as _;

use crate::{convert::MAX_TENANTS_PER_HOST, error::FieldError, pb::agent::v1::Plan};

/// A part takes tenants up to this size, bytes, and at least one: two or three as they usually are. Small, because the
/// buffer through which a session's messages go grows to the largest of them and stays so for as long as the session.
const PART_BYTES: usize = 4 << 10;

/// Splits a plan into messages.
pub fn split(mut plan: Plan) -> Vec<Plan> {
    let tenants = std::mem::take(&mut plan.tenants);
    let next = || Plan {
        generation: plan.generation,
        ..Plan::default()
    };
    let (mut parts, mut bytes) = (vec![plan.clone()], 0);
    for tenant in tenants {
        let size = tenant.encoded_len();
        if bytes > 0 && bytes + size > PART_BYTES {
            parts.push(next());
            bytes = 0;
        }
        bytes += size;
        if let Some(part) = parts.last_mut() {
            part.tenants.push(tenant);
        }
    }
    let last = parts.len() - 1;
    parts[..last].iter_mut().for_each(|part| part.more = true);
    parts
}

/// The parts of one session's current plan that have arrived so far.
#[derive(Debug, Default)]
pub struct PlanAssembly {
    begun: Option<Plan>,
}

impl PlanAssembly {
    /// Adds a part; returns the plan once it is complete. A part of another generation in between is an error: the
    /// coordinator sends one plan after the other.
    pub fn add(&mut self, part: Plan) -> Result<Option<Plan>, FieldError> {
        let mut whole = match self.begun.take() {
            None => part,
            Some(begun) if begun.generation != part.generation => {
                return Err(FieldError::new(
                    "generation",
                    "a part of another plan came in between",
                ));
            }
            Some(mut begun) => {
                begun.tenants.extend(part.tenants);
                begun.more = part.more;
                begun
            }
        };
        if whole.tenants.len() > MAX_TENANTS_PER_HOST {
            return Err(FieldError::new(
                "tenants",
                format!("more than {MAX_TENANTS_PER_HOST}"),
            ));
        }
        if std::mem::take(&mut whole.more) {
            self.begun = Some(whole);
            return Ok(None);
        }
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pb::agent::v1::TenantPlan, tls::MAX_MESSAGE_BYTES};

    fn plan(tenants: usize, bytes_each: usize) -> Plan {
        let tenant = |n| TenantPlan {
            name: format!("t{n}"),
            base_url: "x".repeat(bytes_each),
            ..TenantPlan::default()
        };
        Plan {
            generation: 7,
            tenants: (0..tenants).map(tenant).collect(),
            ..Plan::default()
        }
    }

    #[test]
    fn a_plan_of_any_size_arrives_whole_in_messages_that_fit() {
        for (tenants, bytes, parts) in [
            (0, 0, 1),
            (2, 1_500, 1),
            (10, 500, 2),
            (MAX_TENANTS_PER_HOST, 3_000, MAX_TENANTS_PER_HOST),
        ] {
            let plan = plan(tenants, bytes);
            let messages = split(plan.clone());
            assert_eq!(messages.len(), parts);
            assert!(messages.iter().all(|m| m.encoded_len() < MAX_MESSAGE_BYTES));
            let mut assembly = PlanAssembly::default();
            let taken: Vec<_> = messages
                .into_iter()
                .map(|m| assembly.add(m).unwrap())
                .collect();
            assert!(taken[..parts - 1].iter().all(Option::is_none));
            assert_eq!(taken[parts - 1], Some(plan));
        }
    }

    #[test]
    fn parts_of_two_plans_do_not_mix_and_memory_is_bounded() {
        let mut assembly = PlanAssembly::default();
        let more = |mut plan: Plan, generation| {
            (plan.more, plan.generation) = (true, generation);
            plan
        };
        assert_eq!(assembly.add(more(plan(1, 1), 7)).unwrap(), None);
        assert!(assembly.add(plan(1, 1)).unwrap().is_some());
        assert_eq!(assembly.add(more(plan(1, 1), 7)).unwrap(), None);
        assert!(assembly.add(more(plan(1, 1), 8)).is_err());
        assert_eq!(
            assembly
                .add(more(plan(MAX_TENANTS_PER_HOST, 1), 7))
                .unwrap(),
            None
        );
        assert!(assembly.add(plan(1, 1)).is_err());
    }
}
