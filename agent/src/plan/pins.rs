//! Which very image a reference means: settled once for each time that it is asked for, because tags move and tenants only move on
//! purpose. And whether another image fits what a tenant has. Pure.
//!
//! The image before is remembered too: an upgrade that is taken back leads to it, whatever its tag means by then. Not here: fetching
//! (tenant::images), where this is kept (state).

use isyone_proto::plan::{Role, TenantPlan, UnixMs};
use serde::{Deserialize, Serialize};

use crate::plan::{
    container::{Container, LABEL_IMAGE, LABEL_IMAGE_ID},
    diff::Blocked,
    facts::ImageFacts,
    state::TenantState,
};

/// What a plan asks for as a role's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    pub reference: &'a str,
    /// When it was asked for; see [`isyone_proto::plan::ImagesAsked`].
    pub asked: UnixMs,
}

impl<'a> Wanted<'a> {
    pub fn of(plan: &'a TenantPlan, role: Role) -> Self {
        let reference = match role {
            Role::Odoo => plan.odoo_image.as_str(),
            Role::Postgres => plan.postgres_image.as_str(),
        };
        Self {
            reference,
            asked: plan.images_asked.of(role),
        }
    }
}

/// Which image a reference meant when a container was first made of it, or when it was asked for anew. It holds until the plan asks
/// for another, also when the image can be had nowhere any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The reference in the plan.
    pub reference: String,
    /// When it was asked for. Not in records of agents before, which knew only one time.
    #[serde(default, skip_serializing_if = "isyone_proto::plan::is_default")]
    pub asked: UnixMs,
    /// Engine's id.
    pub id: String,
    /// `sha256:…` under which its registry knows it; `None` where it came from none, or was pinned by an agent of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What it has made of the tenant's data, should the image be gone one day. Not in records of agents before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    /// The tenant has not been as its plan wants with this image yet. Agents before did not note it: all theirs count as tried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    untried: bool,
}

/// What an image leaves in a tenant's data that another one has to fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Uid of its files.
    uid: u32,
    /// Major version of an Odoo; 0: not known.
    #[serde(default)]
    odoo_major: u32,
    /// Major version of a PostgreSQL; empty: not known.
    #[serde(default)]
    postgres_major: String,
    /// Where a PostgreSQL keeps its data; empty: not known.
    #[serde(default)]
    pgdata: String,
}

impl From<&ImageFacts> for Left {
    fn from(image: &ImageFacts) -> Self {
        Self {
            uid: image.uid,
            odoo_major: image.odoo_major.unwrap_or(0),
            postgres_major: image.postgres_major.clone(),
            pgdata: image.pgdata.clone().unwrap_or_default(),
        }
    }
}

impl Pin {
    fn new(wanted: &Wanted<'_>, image: &ImageFacts) -> Self {
        Self {
            reference: wanted.reference.to_owned(),
            asked: wanted.asked,
            id: image.id.clone(),
            digest: (image.digest != image.id).then(|| image.digest.clone()),
            left: Some(image.into()),
            untried: true,
        }
    }

    fn is_of(&self, wanted: &Wanted<'_>) -> bool {
        self.reference == wanted.reference && self.asked == wanted.asked
    }

    /// The reference that means this very image wherever its registry is reached.
    pub fn by_digest(&self) -> Option<String> {
        let name = self.reference.split('@').next()?;
        let last = name.rfind('/').map_or(0, |at| at + 1);
        let end = name[last..].find(':').map_or(name.len(), |at| last + at);
        Some(format!("{}@{}", &name[..end], self.digest.as_ref()?))
    }
}

impl TenantState {
    fn pins(&self, role: Role) -> [Option<&Pin>; 2] {
        match role {
            Role::Odoo => [self.odoo_pin.as_ref(), self.odoo_pin_before.as_ref()],
            Role::Postgres => [
                self.postgres_pin.as_ref(),
                self.postgres_pin_before.as_ref(),
            ],
        }
    }

    fn pins_mut(&mut self, role: Role) -> [&mut Option<Pin>; 2] {
        match role {
            Role::Odoo => [&mut self.odoo_pin, &mut self.odoo_pin_before],
            Role::Postgres => [&mut self.postgres_pin, &mut self.postgres_pin_before],
        }
    }

    /// Which image is meant, if that has been settled.
    pub fn pinned(&self, role: Role, wanted: &Wanted<'_>) -> Option<&Pin> {
        let mut pins = self.pins(role).into_iter().flatten();
        pins.find(|pin| pin.is_of(wanted))
    }

    /// The image that a role has: the one that its container is made of, or the last one that was settled.
    pub fn held(&self, role: Role, made_of: Option<&str>) -> Option<&Pin> {
        let mut pins = self.pins(role).into_iter().flatten();
        let is_it = |pin: &&Pin| made_of == Some(pin.id.as_str());
        pins.clone().find(is_it).or_else(|| pins.next())
    }

    /// Whether it is to be found out anew what is meant: all that is settled was asked for at other times. Where nothing is, as on the
    /// host that a tenant begins on or moves to, its reference means what it means there.
    pub fn asks_anew(&self, role: Role, wanted: &Wanted<'_>) -> bool {
        let otherwise = |pin: &Pin| pin.asked != wanted.asked;
        wanted.asked != 0
            && self.held(role, None).is_some()
            && self.pins(role).into_iter().flatten().all(otherwise)
    }

    /// Settles what a container says that was there before our memory of it: the image that it was made of. Where the plan asks for
    /// another reference by now, that was not settled.
    pub fn adopt_pin(&mut self, role: Role, wanted: &Wanted<'_>, container: &Container) {
        let (reference, id) = (
            container.label(LABEL_IMAGE),
            container.label(LABEL_IMAGE_ID),
        );
        if reference.is_empty() || id.is_empty() {
            return;
        }
        let [now, _] = self.pins_mut(role);
        *now = Some(Pin {
            reference: reference.to_owned(),
            asked: if reference == wanted.reference {
                wanted.asked
            } else {
                0
            },
            id: id.to_owned(),
            digest: None,
            left: None,
            // It is no news that the tenant works with it.
            untried: false,
        });
    }

    /// Settles which image is meant. One before is still known, for a way back: one that the tenant has worked with, and not another that
    /// was settled since and has not been seen to work.
    pub fn pin(&mut self, role: Role, wanted: &Wanted<'_>, image: &ImageFacts) {
        let [now, before] = self.pins_mut(role);
        let is_it = |pin: &&Pin| pin.is_of(wanted);
        let comes_back = before.as_ref().filter(is_it).is_some();
        let known = now.iter().chain(before.iter()).find(is_it);
        let untried = known.is_none_or(|pin| pin.untried || pin.id != image.id);
        let works = |pin: &Option<Pin>| pin.as_ref().is_some_and(|pin| !pin.untried);
        let is_another = now.as_ref().is_some_and(|pin| !pin.is_of(wanted));
        if is_another && (comes_back || works(now) || !works(before)) {
            *before = now.take();
        }
        *now = Some(Pin {
            untried,
            ..Pin::new(wanted, image)
        });
    }

    /// Notes that the tenant is as this plan wants, with the images that it means. Returns whether that is news.
    pub fn prove(&mut self, plan: &TenantPlan) -> bool {
        let mut is_news = false;
        for role in [Role::Odoo, Role::Postgres] {
            let wanted = Wanted::of(plan, role);
            for pin in self.pins_mut(role).into_iter().flatten() {
                if pin.is_of(&wanted) && std::mem::take(&mut pin.untried) {
                    is_news = true;
                }
            }
        }
        is_news
    }

    /// Notes of a settled image what an agent before has not noted.
    pub fn learn(&mut self, role: Role, wanted: &Wanted<'_>, image: &ImageFacts) {
        for pin in self.pins_mut(role).into_iter().flatten() {
            if pin.is_of(wanted) && pin.id == image.id {
                pin.left = Some(image.into());
            }
        }
    }
}

/// Whether a tenant may go on with another image than it has. What nobody knows keeps nobody from trying.
pub fn check_fit(
    role: Role,
    had: Option<&Left>,
    after: &ImageFacts,
    data_major: Option<&str>,
) -> Result<(), Blocked> {
    match role {
        Role::Postgres => {
            check_pgdata(had, after)?;
            let had = had.map(|left| left.postgres_major.as_str());
            let known = |major: &&str| !major.is_empty();
            let image = Some(after.postgres_major.as_str()).filter(known);
            match data_major.or(had).filter(known).zip(image) {
                Some((data, image)) if data != image => Err(Blocked::OtherMajor {
                    data: data.to_owned(),
                    image: image.to_owned(),
                }),
                _ => Ok(()),
            }
        }
        Role::Odoo => had.map_or(Ok(()), |had| check_odoo(had, after)),
    }
}

/// An image that keeps its data elsewhere begins with an empty cluster, and would be well.
fn check_pgdata(had: Option<&Left>, after: &ImageFacts) -> Result<(), Blocked> {
    let had = had.map_or("", |left| left.pgdata.as_str());
    let image = after.pgdata.as_deref().unwrap_or_default();
    if had.is_empty() || image.is_empty() || had == image {
        return Ok(());
    }
    Err(Blocked::OtherPgdata {
        data: had.to_owned(),
        image: image.to_owned(),
    })
}

fn check_odoo(had: &Left, after: &ImageFacts) -> Result<(), Blocked> {
    let (data, image) = (had.odoo_major, after.odoo_major.unwrap_or(0));
    if data > 0 && image > 0 && data != image {
        return Err(Blocked::OtherOdoo { data, image });
    }
    if had.uid != after.uid {
        return Err(Blocked::OtherUser {
            data: had.uid,
            image: after.uid,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tenant_plan;

    fn image(id: &str) -> ImageFacts {
        ImageFacts {
            id: id.to_owned(),
            digest: id.to_owned(),
            ..ImageFacts::default()
        }
    }

    const OLD: Wanted<'_> = Wanted {
        reference: "odoo:18.0",
        asked: 0,
    };
    const NEW: Wanted<'_> = Wanted {
        reference: "odoo:18.0",
        asked: 7,
    };

    /// The tenant is as it is to be, with the image that this means.
    fn works(state: &mut TenantState, wanted: &Wanted<'_>) {
        let mut plan = tenant_plan("alfa");
        plan.odoo_image = wanted.reference.parse().unwrap();
        plan.images_asked.odoo = wanted.asked;
        assert!(state.prove(&plan) && !state.prove(&plan));
    }

    fn id<'a>(state: &'a TenantState, wanted: &Wanted<'_>) -> Option<&'a str> {
        state.pinned(Role::Odoo, wanted).map(|pin| pin.id.as_str())
    }

    #[test]
    fn the_same_reference_asked_for_anew_is_another_image_and_the_one_before_comes_back() {
        let mut state = TenantState::new(&tenant_plan("alfa"));
        assert!(!state.asks_anew(Role::Odoo, &NEW), "nothing is settled");
        state.pin(Role::Odoo, &OLD, &image("a"));
        works(&mut state, &OLD);
        assert!(!state.asks_anew(Role::Odoo, &OLD));
        assert!(state.asks_anew(Role::Odoo, &NEW));
        assert!(!state.asks_anew(Role::Postgres, &NEW), "nothing of its");
        assert_eq!(id(&state, &NEW), None);
        state.pin(Role::Odoo, &NEW, &image("b"));
        assert_eq!((id(&state, &OLD), id(&state, &NEW)), (Some("a"), Some("b")));
        assert!(!state.asks_anew(Role::Odoo, &NEW) && !state.asks_anew(Role::Odoo, &OLD));
        let earlier = Wanted { asked: 3, ..NEW };
        assert!(
            state.asks_anew(Role::Odoo, &earlier),
            "by a rebuilt coordinator"
        );
        // Taken back: the next container is made of it.
        state.pin(Role::Odoo, &OLD, &image("a"));
        assert_eq!(state.held(Role::Odoo, None).unwrap().id, "a");
        assert_eq!(id(&state, &NEW), Some("b"));
        let again = Wanted { asked: 9, ..NEW };
        assert!(
            state.asks_anew(Role::Odoo, &again),
            "not the one that failed"
        );
        state.pin(Role::Odoo, &again, &image("c"));
        assert_eq!(id(&state, &OLD), Some("a"));
        // Settled and never used, because PostgreSQL's could not be had: the one before is not forgotten for it.
        let third = Wanted { asked: 11, ..NEW };
        assert_eq!(state.held(Role::Odoo, Some("a")).unwrap().id, "a");
        state.pin(Role::Odoo, &third, &image("d"));
        assert_eq!((id(&state, &OLD), id(&state, &again)), (Some("a"), None));
    }

    /// Fails where the container's image counts as the one to go back to: it may be one that never answered.
    #[test]
    fn the_way_back_leads_to_an_image_that_worked() {
        let mut state = TenantState::new(&tenant_plan("alfa"));
        let at = |asked: UnixMs| Wanted { asked, ..NEW };
        state.pin(Role::Odoo, &OLD, &image("a"));
        works(&mut state, &OLD);
        // The container is made of b and hangs; it is cancelled, and another upgrade begins before anybody went back.
        state.pin(Role::Odoo, &at(5), &image("b"));
        state.pin(Role::Odoo, &at(9), &image("c"));
        assert_eq!(id(&state, &OLD), Some("a"));
        // At rest no container is made anew, and each of these was what the tenant was to have.
        works(&mut state, &at(9));
        state.pin(Role::Odoo, &at(12), &image("d"));
        let known = [&OLD, &at(9), &at(12)].map(|wanted| id(&state, wanted));
        assert_eq!(known, [None, Some("c"), Some("d")]);
        // Back on an image that is known to work: it stays so.
        state.pin(Role::Odoo, &at(9), &image("c"));
        state.pin(Role::Odoo, &at(15), &image("e"));
        assert_eq!(id(&state, &at(9)), Some("c"));
    }

    #[test]
    fn what_an_agent_of_before_has_settled_holds() {
        let mut state = TenantState::new(&tenant_plan("alfa"));
        let before: Pin = serde_json::from_str(r#"{"reference":"odoo:18.0","id":"b"}"#).unwrap();
        assert_eq!(
            (before.asked, &before.digest, &before.left),
            (0, &None, &None)
        );
        state.odoo_pin = Some(before);
        assert_eq!(id(&state, &OLD), Some("b"));
        // And the other way round.
        let written = serde_json::to_string(&state.odoo_pin).unwrap();
        assert_eq!(written, r#"{"reference":"odoo:18.0","id":"b"}"#);
        state.learn(Role::Odoo, &OLD, &image("a"));
        assert_eq!(state.odoo_pin.as_ref().unwrap().left, None, "of another");
        let known = ImageFacts {
            uid: 100,
            odoo_major: Some(18),
            ..image("b")
        };
        state.learn(Role::Odoo, &OLD, &known);
        assert_eq!(state.odoo_pin.unwrap().left, Some(Left::from(&known)));
    }

    #[test]
    fn a_pin_names_its_image_by_digest_where_a_registry_knows_it() {
        for (reference, name) in [
            ("odoo", "odoo"),
            ("odoo:18.0", "odoo"),
            ("r.example:5000/team/odoo:18.0", "r.example:5000/team/odoo"),
            ("r.example:5000/odoo", "r.example:5000/odoo"),
            ("odoo:18.0@sha256:00", "odoo"),
        ] {
            let wanted = Wanted {
                reference,
                asked: 0,
            };
            let mut pin = Pin::new(&wanted, &image("sha256:1"));
            assert_eq!(pin.by_digest(), None);
            pin.digest = Some("sha256:2".to_owned());
            assert_eq!(pin.by_digest(), Some(format!("{name}@sha256:2")));
        }
    }

    #[test]
    fn an_image_that_cannot_work_on_what_is_there_does_not_fit() {
        let odoo = |major: u32, uid: u32| ImageFacts {
            odoo_major: Some(major),
            uid,
            ..ImageFacts::default()
        };
        let judged = |before: Option<&ImageFacts>, after: &ImageFacts| {
            check_fit(Role::Odoo, before.map(Left::from).as_ref(), after, None)
        };
        assert_eq!(judged(Some(&odoo(18, 100)), &odoo(18, 100)), Ok(()));
        assert_eq!(judged(None, &odoo(19, 100)), Ok(()), "nobody knows");
        assert_eq!(judged(Some(&odoo(0, 100)), &odoo(19, 100)), Ok(()));
        let other = Blocked::OtherOdoo {
            data: 18,
            image: 19,
        };
        assert_eq!(judged(Some(&odoo(18, 100)), &odoo(19, 100)), Err(other));
        let other = Blocked::OtherUser {
            data: 100,
            image: 101,
        };
        assert_eq!(judged(Some(&odoo(18, 100)), &odoo(18, 101)), Err(other));
        let postgres = |major: &str| ImageFacts {
            postgres_major: major.to_owned(),
            ..ImageFacts::default()
        };
        for (before, data, after, fits) in [
            ("15", None, "15", true),
            ("15", None, "16", false),
            ("", Some("15"), "16", false),
            ("16", Some("15"), "15", true),
            ("15", None, "", true),
            ("", None, "16", true),
        ] {
            let (before, after) = (postgres(before), postgres(after));
            let judged = check_fit(Role::Postgres, Some(&Left::from(&before)), &after, data);
            assert_eq!(judged.is_ok(), fits, "{before:?} {data:?} {after:?}");
        }
        let kept_in = |place: Option<&str>| ImageFacts {
            pgdata: place.map(str::to_owned),
            ..postgres("15")
        };
        for (had, image, fits) in [
            (Some("/data/pg"), Some("/data/pg"), true),
            (None, Some("/data/pg"), true),
            (Some("/data/pg"), Some("/data/pg/15"), false),
        ] {
            let had = Left::from(&kept_in(had));
            let judged = check_fit(Role::Postgres, Some(&had), &kept_in(image), Some("15"));
            assert_eq!(judged.is_ok(), fits, "{had:?} {image:?}");
        }
    }
}
