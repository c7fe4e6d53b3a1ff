//! A password that is given anew while sessions of a run come and go.
//!
//! Who rotates a password changes the role and the place where it is kept, one after the other, and a run
//! must not end of it. So a session logs in with what let the last one in; only where that is refused it is looked
//! up again, and tried once more if it is another by now. A server that counts refused logins is asked no
//! oftener than that. (Sessions that are open when a password changes go on: it is asked for at their
//! beginning alone, PostgreSQL 15, 55.2.1.)

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemark_core::config::Secret;

/// Where it is looked up; all clones know what one of them has found.
#[derive(Clone)]
pub struct Renewal(Arc<Inner>);

struct Inner {
    look_up: Box<dyn Fn() -> Option<Secret> + Send + Sync>,
    /// What was found and has let a session in.
    newer: Mutex<Option<Secret>>,
}

impl Renewal {
    /// `look_up` gives the password as it is by now; `None` where there is none, or it cannot be read.
    pub fn new(look_up: impl Fn() -> Option<Secret> + Send + Sync + 'static) -> Renewal {
        Renewal(Arc::new(Inner {
            look_up: Box::new(look_up),
            newer: Mutex::new(None),
        }))
    }

    /// What has let a session in, if that is another than was given at the beginning.
    pub(crate) fn newer(&self) -> Option<Secret> {
        self.lock().clone()
    }

    /// What is to be tried after one that was refused; `None` where it is still the same.
    pub(crate) fn after(&self, refused: Option<&Secret>) -> Option<Secret> {
        let is_other = |secret: &Secret| Some(secret) != refused;
        // Another session may have found it meanwhile.
        let found = self.newer().filter(is_other);
        found.or_else(|| (self.0.look_up)().filter(is_other))
    }

    /// A session was let in with it. Whether none was before.
    pub(crate) fn lets_in(&self, password: Secret) -> bool {
        let mut newer = self.lock();
        let is_news = newer.as_ref() != Some(&password);
        *newer = Some(password);
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, Option<Secret>> {
        // Holds one password or the other, whatever panicked.
        self.0.newer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_a_password_is_looked_up_only_after_it_is_refused_and_tried_only_if_it_is_another() {
        let kept = Arc::new(Mutex::new(Some("first")));
        let place = Arc::clone(&kept);
        let renewal = Renewal::new(move || place.lock().unwrap().map(Secret::new));
        let first = Secret::new("first");
        assert_eq!(renewal.newer(), None);
        assert_eq!(renewal.after(Some(&first)), None, "it is the same");

        *kept.lock().unwrap() = Some("second");
        let second = renewal.after(Some(&first)).unwrap();
        assert_eq!(second.expose(), "second");
        assert_eq!(renewal.newer(), None, "nobody was let in with it yet");
        let other = renewal.clone();
        assert!(renewal.lets_in(second.clone()));
        assert!(!other.lets_in(second.clone()));
        assert_eq!(other.newer(), Some(second.clone()));

        // Gone for a moment, what another session has found counts for who was refused with the old one.
        *kept.lock().unwrap() = None;
        assert_eq!(other.after(Some(&first)), Some(second.clone()));
        assert_eq!(other.after(Some(&second)), None);
        assert!(!format!("{renewal:?}").contains("second"));
    }
}
