//! The commands for buckets, as a process of their own against a server of S3: what they do, what they say, that an
//! interrupted copy goes on, and that nothing is written where it should not be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod hostile;
mod objects;
mod resume;
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use forebay_tests::{S3_BUCKET, S3_KEYS, S3_REGION, Said, Server};
use tempfile::TempDir;

/// A server with a bucket, and a folder.
struct World {
    server: Server,
    kept: TempDir,
    at: TempDir,
}

impl World {
    fn new() -> World {
        let kept = tempfile::tempdir().unwrap();
        let server = Server::start_in("s3s-fs", Some(kept.path())).expect("it is part of the tests");
        World { server, kept, at: tempfile::tempdir().unwrap() }
    }

    /// At a server that tells an open upload's parts with their tags, which s3s-fs does not.
    fn at_garage() -> Option<World> {
        let server = Server::start_if_full("garage")?;
        Some(World { server, kept: tempfile::tempdir().unwrap(), at: tempfile::tempdir().unwrap() })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        forebay(self.at.path(), &self.server.endpoint(), arguments)
    }

    fn run(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// It has to do all.
    fn ok(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
        said
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        write(&self.path(name), bytes.as_ref());
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Where the server keeps an object's bytes.
    fn object(&self, key: &str) -> PathBuf {
        self.kept.path().join(S3_BUCKET).join(key)
    }

    /// The bytes of an object, of whichever server.
    fn cat(&self, key: &str) -> Vec<u8> {
        let said = self.command(&["store", "cat", &format!("s3://{S3_BUCKET}/{key}")]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        said.stdout
    }

    /// The keys in the bucket, as `ls` tells them.
    fn keys(&self) -> Vec<String> {
        let said = self.ok(&["store", "ls", "s3://forebay"]);
        said.out.lines().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// So many bytes, of which no two pieces are the same.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = len as u64 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}

/// The program with nothing of this process's environment.
fn forebay(within: &Path, endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .current_dir(within)
        .env_clear()
        .env("FOREBAY_S3_ENDPOINT", endpoint)
        .env("FOREBAY_S3_REGION", S3_REGION)
        .env("FOREBAY_S3_UPLOADS", within.join(".uploads"))
        .env("AWS_ACCESS_KEY_ID", S3_KEYS.0)
        .env("AWS_SECRET_ACCESS_KEY", S3_KEYS.1)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .args(arguments)
        .stdin(Stdio::null());
    command
}
