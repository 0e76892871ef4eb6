//! The stages for download and upload.

use super::*;
use crate::job::Job;
use crate::pipeline::Pipeline;

#[tokio::test]
async fn a_reference_becomes_bytes_or_a_file_that_goes_with_its_handle() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("scratch");
    let places = Places::new().bucket("in", Memory::new());
    let body = noise(9 << 20);
    let _ = places.send(&reference("s3://in/a"), Content::bytes(body.clone()), Put::Create).await.unwrap();

    let memory = Pipeline::new().io("download", 4, Download::from(places.clone()).to_memory(9 << 20));
    assert_eq!(memory.start().await.unwrap().call(reference("s3://in/a")).await.unwrap(), body);
    let small = Pipeline::new().io("download", 4, Download::from(places.clone()).to_memory((9 << 20) - 1));
    refused(small.start().await.unwrap().call(reference("s3://in/a")).await, Fault::Invalid, "at most 9437183");

    let files = Pipeline::new().io("download", 4, Download::from(places.clone()).to_files(&root, 10 << 20));
    let files = files.start().await.unwrap();
    let file = files.call(reference("s3://in/a")).await.unwrap();
    assert_eq!(file.len(), 9 << 20);
    assert_eq!(std::fs::read(file.path()).unwrap(), body);
    drop(file);
    for (text, says) in [
        ("s3://in/b", "no such object"),
        ("s3://other/a", "a bucket that this worker does not know"),
        ("s3://in/a/", "names a folder"),
        ("file:///etc/passwd", "not below a folder"),
        ("https://example.com/?hunter2", "this worker follows no URLs"),
    ] {
        refused(files.call(reference(text)).await, Fault::Invalid, says);
    }
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "nothing is left of any of them");
}

#[tokio::test]
async fn what_is_there_is_left_as_it_is_unless_the_program_says_otherwise() {
    let places = Places::new().bucket("out", Memory::new());
    let job = Job::new("1");
    let to = reference("s3://out/r");
    let create = Upload::to(places.clone()).create();
    let first = create(job.clone(), (to.clone(), Content::bytes("first"))).await.unwrap();
    let second = create(job.clone(), (to.clone(), Content::bytes("second"))).await.unwrap();
    assert_eq!((first.created, second.created), (true, false));
    assert_eq!(places.get(&to, 100).await.unwrap(), "first");
    let third = Upload::to(places.clone()).overwrite()(job, (to.clone(), Content::bytes("third"))).await.unwrap();
    assert_eq!(serde_json::to_value(&third).unwrap(), serde_json::json!({"to": "s3://out/r", "created": true}));
    assert_eq!(places.get(&to, 100).await.unwrap(), "third");
}
