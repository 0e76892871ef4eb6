//! Files of a Hugging Face repository, from the user's cache or over the network.
//!
//! Owns the use of hf-hub: its blocking client, its cache directory and its settings (`HF_HOME`, `HF_ENDPOINT`, the
//! stored token). It promises that a cached revision needs no network; it does not look into the files.

use std::path::PathBuf;

use forebay::{Error, Result};
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Repo, RepoType};

/// Paths of `files` of `repo` at `revision`, fetched if the cache lacks them.
pub(crate) fn fetch<const N: usize>(repo: &str, revision: &str, files: [&str; N]) -> Result<[PathBuf; N]> {
    let cache = hf_hub::Cache::from_env();
    fetch_with(ApiBuilder::from_env(), &cache, repo, revision, files)
}

fn fetch_with<const N: usize>(
    api: ApiBuilder,
    cache: &hf_hub::Cache,
    repo: &str,
    revision: &str,
    files: [&str; N],
) -> Result<[PathBuf; N]> {
    let pinned = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
    let cached = cache.repo(pinned.clone());
    let cached = files.map(|file| {
        // A revision that is a commit names its snapshot; a branch or tag leads there through the cache's references.
        let snapshot = cached.pointer_path(revision).join(file);
        if snapshot.is_file() { Some(snapshot) } else { cached.get(file) }
    });
    let failed = |file: &str, cause: hf_hub::api::sync::ApiError| {
        Error::transient(cause).context(format!(
            "fetching {file} of {repo} at {revision}: check both names and the network, or fetch the files by other \
             means and name their directory"
        ))
    };
    let whole = cached.iter().all(Option::is_some);
    let remote = match whole {
        true => None,
        false => Some(api.with_progress(false).build().map_err(|cause| failed("files", cause))?.repo(pinned)),
    };
    let mut paths = Vec::with_capacity(N);
    for (file, cached) in files.iter().zip(cached) {
        match (cached, &remote) {
            (None, Some(remote)) => paths.push(remote.get(file).map_err(|cause| failed(file, cause))?),
            (cached, _) => paths.extend(cached),
        }
    }
    paths.try_into().map_err(|_| Error::failed("as many paths as files"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, hf_hub::Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = hf_hub::Cache::new(dir.path().to_owned());
        (dir, cache)
    }

    /// A client whose endpoint refuses every connection.
    fn client(cache: &hf_hub::Cache) -> ApiBuilder {
        ApiBuilder::from_cache(cache.clone()).with_endpoint("http://127.0.0.1:1".to_owned())
    }

    #[test]
    fn a_cached_revision_needs_no_network() {
        let (dir, cache) = cache();
        let repo = dir.path().join("models--some--model");
        std::fs::create_dir_all(repo.join("snapshots/c0ffee")).unwrap();
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::write(repo.join("refs/main"), "c0ffee").unwrap();
        std::fs::write(repo.join("snapshots/c0ffee/config.json"), "{}").unwrap();
        for revision in ["c0ffee", "main"] {
            let [path] = fetch_with(client(&cache), &cache, "some/model", revision, ["config.json"]).unwrap();
            assert_eq!(std::fs::read(path).unwrap(), b"{}");
        }
    }

    #[test]
    fn what_cannot_be_fetched_is_named_and_transient() {
        let (_dir, cache) = cache();
        let error = fetch_with(client(&cache), &cache, "some/model", "c0ffee", ["config.json"]).unwrap_err();
        assert_eq!(error.fault(), forebay::Fault::Transient);
        let message = error.to_string();
        assert!(message.contains("fetching config.json of some/model at c0ffee"), "{message}");
    }
}
