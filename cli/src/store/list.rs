//! `forebay store ls`: the objects below a prefix, page by page.

use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::process::ExitCode;

use forebay::store::{Meta, Store};
use forebay::{Error, Result};
use humantime::format_rfc3339_seconds;
use serde_json::json;

use super::place::{InBucket, Where};
use crate::say;

/// Objects in one request.
const PAGE: usize = 1000;

#[derive(clap::Args)]
pub struct Arguments {
    /// The bucket, and what keys begin with: `s3://bucket/a` finds `a`, `ab` and `a/b`. What a console shows as an empty
    /// folder is no object of ours, and left out.
    #[arg(value_name = "s3://BUCKET/PREFIX")]
    place: InBucket,
    #[command(flatten)]
    at: Where,
    /// As JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub async fn run(self) -> Result<ExitCode> {
        let store = self.at.reading(&self.place).await?;
        let mut out = BufWriter::new(stdout().lock());
        let (mut objects, mut bytes, mut after) = (0, 0, None);
        loop {
            let page = store.list(&self.place.path, after.as_ref(), PAGE).await?;
            for meta in &page.objects {
                objects += 1;
                bytes += meta.len;
                if !heard(writeln!(out, "{}", self.line(meta)))? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            if !heard(out.flush())? {
                return Ok(ExitCode::SUCCESS);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        eprintln!("{}, {}", say::count(objects, "object"), say::bytes(bytes));
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self, meta: &Meta) -> String {
        let Meta { key, len, modified, .. } = meta;
        let modified = format_rfc3339_seconds(*modified);
        if self.json {
            return json!({ "key": key.as_str(), "bytes": len, "modified": modified.to_string() }).to_string();
        }
        format!("{len:>15}  {modified}  {key}")
    }
}

/// Whether somebody still reads what is written: that nobody does is no fault.
pub fn heard(written: std::io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(why) => Err(Error::from(why).context("writing to standard output")),
    }
}
