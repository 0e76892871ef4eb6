//! Who may ask: keys that are compared without telling by the time taken how much of one was right.

use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::{Choice, ConstantTimeEq};

/// The keys of which a caller must know one; none means that everybody may ask.
#[derive(Clone)]
pub(super) struct Keys(Arc<[String]>);

impl Keys {
    pub(super) fn new(keys: Vec<String>) -> Self {
        Keys(keys.into_iter().filter(|key| !key.is_empty()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the headers bring one of the keys.
    pub(super) fn allow(&self, headers: &HeaderMap) -> bool {
        if self.is_empty() {
            return true;
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let given = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
        // Every key is compared, so that the time does not tell which one it was.
        given.is_some_and(|given| {
            let equal = |key: &String| key.as_bytes().ct_eq(given);
            self.0.iter().map(equal).fold(Choice::from(0), |any, one| any | one).into()
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(keys: &[&str], header: (&'static str, &str)) -> bool {
        let keys = Keys::new(keys.iter().map(|key| key.to_string()).collect());
        let headers = HeaderMap::from_iter([(header.0.parse().unwrap(), header.1.parse().unwrap())]);
        keys.allow(&headers)
    }

    #[test]
    fn any_of_the_keys_will_do_in_either_header() {
        let keys = ["old", "new"];
        assert!(allows(&keys, ("authorization", "Bearer old")));
        assert!(allows(&keys, ("authorization", "Bearer new")));
        assert!(allows(&keys, ("x-api-key", "new")));
        for wrong in ["", "ne", "newer", "Bearer new"] {
            assert!(!allows(&keys, ("x-api-key", wrong)), "{wrong}");
        }
        assert!(!allows(&keys, ("authorization", "new")));
        assert!(!Keys::new(vec!["k".to_owned()]).allow(&HeaderMap::new()));
        assert!(Keys::new(vec![String::new()]).allow(&HeaderMap::new()), "an empty key is none");
        assert_eq!(format!("{:?}", Keys::new(vec!["secret".to_owned()])), "1 keys");
    }
}
