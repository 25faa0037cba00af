//! What keeps a user on one version.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::ids::{ModelName, VersionName};

/// Buckets on the circle: a hundredth of a percent of the keys each.
pub const BUCKETS: u16 = 10_000;

/// A place on the circle, below [`BUCKETS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub(super) u16);

impl Bucket {
    /// The place as a number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The text that stands for a user: the request's `user`, a header, an API key or a given connection key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StickyKey(Box<str>);

/// Tells the length only: a key may be an API key or a person's name, and logs are read by many.
impl std::fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StickyKey({} bytes)", self.0.len())
    }
}

impl StickyKey {
    /// From the body's `user` or `safety_identifier`.
    pub fn from_user(user: &str) -> Self {
        Self(user.into())
    }

    /// From the configured header, or the key that a connection was given.
    pub fn from_header(value: &str) -> Self {
        Self(value.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// From the API key.
    pub fn from_api_key(key: &str) -> Self {
        Self(key.into())
    }
}

/// The seed that a model's keys are hashed with, so that a user's luck with one model says nothing of another.
pub(super) fn seed_of(model: &ModelName) -> u64 {
    xxh3_64(model.as_str().as_bytes())
}

/// The seed that a flag's percentage hashes keys with: another one than the route's and than any other flag's, so that
/// who is let in says nothing of who gets which version. A zero byte is in no name.
pub(super) fn flag_seed(model: &ModelName, version: Option<&VersionName>) -> u64 {
    let version = version.map_or("", VersionName::as_str);
    xxh3_64(format!("{model}\0flag\0{version}").as_bytes())
}

pub(super) fn bucket_with_seed(key: &StickyKey, seed: u64) -> Bucket {
    Bucket((xxh3_64_with_seed(key.0.as_bytes(), seed) % u64::from(BUCKETS)) as u16)
}

/// The bucket of a key for a model: `xxh3_64(key, seed = xxh3_64(model)) mod 10,000`. The same on every
/// replica and after every restart; never to be changed.
pub fn bucket_of(key: &StickyKey, model: &ModelName) -> Bucket {
    bucket_with_seed(key, seed_of(model))
}

/// A number that stands for a user of a model, so that observations of one user can be told to belong together without
/// keeping the key. Seeded by the model, so that what is seen of a user at one model does not lead to another; and not
/// as the route's buckets are, so that it tells nothing of the version that he meets.
pub fn user_number(key: &StickyKey, model: &ModelName) -> u64 {
    xxh3_64_with_seed(key.0.as_bytes(), seed_of(model) ^ USERS)
}

/// Sets apart what is hashed for observations from what is hashed for routes.
const USERS: u64 = 0x7573_6572_7300_0000;

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers are a promise: a release that changes them moves every user.
    #[test]
    fn buckets_are_the_same_forever() {
        let of = |key: &str, model: &str| bucket_of(&StickyKey::from_user(key), &model.parse().unwrap()).0;
        let found = [of("anna", "support-assistant"), of("anna", "other"), of("", "support-assistant")];
        assert_eq!(found, [4892, 939, 7195]);
    }

    #[test]
    fn a_user_has_one_number_at_a_model_and_another_at_the_next() {
        let number =
            |key: &str, model: &str| user_number(&StickyKey::from_user(key), &model.parse().unwrap());
        assert_eq!(number("anna", "a"), number("anna", "a"));
        assert_ne!(number("anna", "a"), number("anna", "b"));
        assert_ne!(number("anna", "a"), number("ben", "a"));
    }

    #[test]
    fn keys_spread_evenly() {
        let model = "m".parse().unwrap();
        let below_half = (0..10_000)
            .filter(|i| bucket_of(&StickyKey::from_user(&format!("user-{i}")), &model).0 < BUCKETS / 2)
            .count();
        assert!((4_800..5_200).contains(&below_half), "{below_half} of 10,000 in half of the circle");
    }
}
