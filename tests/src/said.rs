//! What a program that has ended has said.

use std::process::Output;

use crate::S3_KEYS;

/// Its exit code and its words, in which no secret of the tests' servers is.
#[derive(Debug)]
pub struct Said {
    /// None if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).expect("it speaks UTF-8");
        let said = Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!said.out.contains(S3_KEYS.1) && !said.err.contains(S3_KEYS.1), "secrets are never shown: {said:?}");
        said
    }
}
