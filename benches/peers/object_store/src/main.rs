//! One file to or from S3 with object_store: peer up|down ENDPOINT BUCKET KEY FILE
//!
//! Parts of 10,000,000 bytes, 10 at a time, as its documentation has it: `put_part` for what goes up, reads of ranges,
//! written as they come, for what comes down.

use std::fs::File;
use std::os::unix::fs::FileExt;

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, UploadPart};

const PART: u64 = 10_000_000;
const AT_ONCE: usize = 10;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [direction, endpoint, bucket, key, file] = arguments.as_slice() else {
        return Err("usage: peer up|down ENDPOINT BUCKET KEY FILE".into());
    };
    let store = AmazonS3Builder::from_env()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()?;
    match direction.as_str() {
        "up" => up(&store, &Path::from(key.as_str()), &File::open(file)?).await,
        _ => down(&store, &Path::from(key.as_str()), &File::create(file)?).await,
    }
}

fn parts(length: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..length.div_ceil(PART)).map(move |part| (part * PART, ((part + 1) * PART).min(length)))
}

async fn up(store: &impl ObjectStore, key: &Path, file: &File) -> Outcome<()> {
    let length = file.metadata()?.len();
    let mut upload = store.put_multipart(key).await?;
    let parts = parts(length).map(|(start, end)| {
        let mut part = vec![0; (end - start) as usize];
        file.read_exact_at(&mut part, start).map(|()| upload.put_part(part.into()))
    });
    let send = |part: std::io::Result<UploadPart>| async { Outcome::Ok(part?.await?) };
    stream::iter(parts).map(send).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    upload.complete().await?;
    Ok(())
}

async fn down(store: &impl ObjectStore, key: &Path, file: &File) -> Outcome<()> {
    let length = store.head(key).await?.size;
    let part = |(start, end): (u64, u64)| async move {
        let options = GetOptions { range: Some(GetRange::Bounded(start..end)), ..GetOptions::default() };
        let mut at = start;
        let mut pieces = store.get_opts(key, options).await?.into_stream();
        while let Some(piece) = pieces.try_next().await? {
            file.write_all_at(&piece, at)?;
            at += piece.len() as u64;
        }
        if at != end {
            return Err(format!("a part ended at {at} instead of {end}").into());
        }
        Outcome::Ok(())
    };
    stream::iter(parts(length)).map(part).buffer_unordered(AT_ONCE).try_collect::<()>().await
}
