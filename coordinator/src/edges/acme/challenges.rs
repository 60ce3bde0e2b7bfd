//! Answers to the HTTP-01 challenges of current orders. Whichever edge the CA asks, the request ends up here.
//!
//! In memory only: orders do not survive a restart either.
//! Not here: serving them (ports/http) and DNS-01 (hook).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// See the module. Holds one name for each order.
#[derive(Debug, Default)]
pub struct Challenges(Mutex<HashMap<String, String>>);

impl Challenges {
    /// Publishes the answer to `token` for as long as the guard lives.
    pub(crate) fn put(self: &Arc<Self>, token: &str, answer: &str) -> Answered {
        self.lock().insert(token.to_owned(), answer.to_owned());
        Answered {
            token: token.to_owned(),
            by: self.clone(),
        }
    }

    /// The answer to `token`, while its order is running.
    pub fn answer(&self, token: &str) -> Option<String> {
        self.lock().get(token).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A published answer, withdrawn on drop.
#[derive(Debug)]
pub(crate) struct Answered {
    token: String,
    by: Arc<Challenges>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.by.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lives_as_long_as_its_order() {
        let challenges = Arc::<Challenges>::default();
        let first = challenges.put("t1", "t1.thumb");
        let _second = challenges.put("t2", "t2.thumb");
        assert_eq!(challenges.answer("t1").as_deref(), Some("t1.thumb"));
        drop(first);
        assert_eq!(
            (challenges.answer("t1"), challenges.answer("t2").is_some()),
            (None, true)
        );
    }
}
