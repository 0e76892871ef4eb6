//! The stage that brings results to where a job names.
//!
//! It owns what becomes of an object that is there already: by itself it is left as it is, since an attempt that was
//! thought dead must not overwrite what its successor has done.

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{Places, Reference};
use crate::error::Result;
use crate::job::Job;
use crate::store::{Content, Outcome, Put};

/// An io stage that uploads: `.io("upload", 16, Upload::to(places).create())`, fed with a reference and a content.
#[derive(Clone, Debug)]
pub struct Upload {
    places: Places,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Uploaded {
    /// Where it is: the reference, without a query.
    pub to: String,
    /// Whether this upload made it. Otherwise it was there already, from an earlier attempt or somebody else, and was left
    /// as it was.
    pub created: bool,
}

impl Upload {
    /// Uploads to these places.
    pub fn to(places: Places) -> Self {
        Upload { places }
    }

    /// Only where nothing is yet; see [`Places::send`] for places that cannot promise that.
    pub fn create(
        self,
    ) -> impl Fn(Job, (Reference, Content)) -> BoxFuture<'static, Result<Uploaded>> + Clone + Send + Sync + 'static
    {
        self.stage(Put::Create)
    }

    /// In place of what is there. A job that two workers have at once is then whatever the last of them wrote.
    pub fn overwrite(
        self,
    ) -> impl Fn(Job, (Reference, Content)) -> BoxFuture<'static, Result<Uploaded>> + Clone + Send + Sync + 'static
    {
        self.stage(Put::Overwrite)
    }

    fn stage(
        self,
        mode: Put,
    ) -> impl Fn(Job, (Reference, Content)) -> BoxFuture<'static, Result<Uploaded>> + Clone + Send + Sync + 'static
    {
        move |_, (to, content)| {
            let (places, mode) = (self.places.clone(), mode.clone());
            Box::pin(async move {
                let outcome = places.send(&to, content, mode).await?;
                Ok(Uploaded { to: to.to_string(), created: matches!(outcome, Outcome::Stored(_)) })
            })
        }
    }
}
