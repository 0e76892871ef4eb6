//! The calls to a bucket: each once, with its own deadline; whoever makes it knows how long it is worth trying.
//!
//! This file, [`fault`](super::fault) and [`wire`](super::wire) are the only ones that know the SDK. What is sent is not
//! signed byte by byte: its checksum guards it from accidents, TLS from others.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use futures_util::future::try_join;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::fault::{self, Means};
use super::part::{self, PartBody};
use super::provider::Integrity;
use crate::error::{Error, Result};
use crate::store::{Algorithm, Checksum, Crc, Put, Version};

/// A call that carries nothing large, until its answer begins.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(15);
/// To put an upload's parts together, which may take a store minutes.
const COMPLETE_WITHIN: Duration = Duration::from_secs(180);
/// The check that uploads carry where the store takes one.
pub(super) const CHECK: Algorithm = Algorithm::Crc64Nvme;
/// The metadata that says which write an object is from.
const WRITE_ID: &str = "forebay-write";
/// The metadata with the object's check, for stores that keep none.
const OWN_CHECK: &str = "forebay-crc64nvme";

/// A bucket at the other end of the network.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) sdk: Client,
    pub(super) name: String,
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) len: u64,
    pub(super) version: Version,
    pub(super) modified: SystemTime,
    pub(super) checksum: Option<Checksum>,
    /// Which write of ours it is, if it is one.
    pub(super) write_id: Option<String>,
    /// A check of parts and their number; their length is to be found out.
    parts: Option<(Algorithm, u64, u64)>,
}

/// An object whose bytes are about to come.
pub(super) struct Answer {
    pub(super) facts: Facts,
    pub(super) range: Range<u64>,
    pub(super) body: BoxStream<'static, Result<Bytes>>,
}

/// What a write carries besides its bytes.
#[derive(Clone, Debug)]
pub(super) struct Label {
    /// Names the write, so that a lost answer can be told from a lost race.
    pub(super) write_id: String,
    /// The check of all bytes, for stores that keep none of their own.
    pub(super) own_check: Option<Crc>,
    pub(super) integrity: Integrity,
}

/// What vouches for the bytes of one request.
#[derive(Clone, Debug)]
pub(super) enum Vouch {
    /// The checksum follows them.
    Trailer {
        payload: u64,
    },
    Crc(Crc),
    Md5(String),
}

/// A part that is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) tag: String,
    pub(super) crc: Crc,
}

/// An upload that is open.
#[derive(Clone, Debug)]
pub(super) struct OpenUpload {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) begun: SystemTime,
}

impl Bucket {
    pub(super) async fn get(&self, key: &str, range: Option<&Range<u64>>, of: Option<&Version>) -> Result<Answer> {
        let asked = range.map(|range| match range.end {
            u64::MAX => format!("bytes={}-", range.start),
            end => format!("bytes={}-{}", range.start, end - 1),
        });
        let call = self.sdk.get_object().bucket(&self.name).key(key).set_range(asked);
        // Said in a header, since the SDK would compare the bytes itself, in a place that cannot try again.
        let call = call.set_if_match(of.map(tag)).customize().mutate_request(|request| {
            request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
        });
        let answer = self.call(CALL_WITHIN, call.send()).await?;
        let body_len = u64::try_from(answer.content_length().unwrap_or(-1)).ok();
        let (range, len) = match answer.content_range() {
            Some(text) => ranged(text).ok_or_else(|| broken("Content-Range", text))?,
            None => {
                let len = body_len.ok_or_else(|| broken("Content-Length", "none"))?;
                (0..len, len)
            }
        };
        if body_len.is_some_and(|body| body != range.end - range.start) {
            return Err(broken("Content-Length", answer.content_length().unwrap_or(-1)));
        }
        let mut facts = Facts::of_get(&answer, len)?;
        if range != (0..len) {
            // Of a range, whatever it is.
            (facts.checksum, facts.parts) = (None, None);
        }
        let body = stream::unfold(answer.body, |mut body| async move {
            let some = body.next().await?;
            Some((some.map_err(|why| Error::transient(format_args!("the answer broke off: {why}"))), body))
        });
        Ok(Answer { facts, range, body: body.boxed() })
    }

    /// `None` where there is no such object. With `whole`, also what is only told of the parts is found out.
    pub(super) async fn head(&self, key: &str, whole: bool) -> Result<Option<Facts>> {
        let ask = |part| {
            let call = self.sdk.head_object().bucket(&self.name).key(key).set_part_number(part);
            self.call(CALL_WITHIN, call.checksum_mode(ChecksumMode::Enabled).send())
        };
        let answer = match ask(None).await {
            Err(why) if fault::means(&why) == Some(Means::Missing) => return Ok(None),
            answer => answer?,
        };
        let len = length(answer.content_length())?;
        let mut facts = Facts::of_head(&answer, len)?;
        if whole && let Some((algorithm, value, parts)) = facts.parts {
            // Only where all parts but the last are of one length can their checks be put together.
            let part = |number: u64| async move {
                let part = ask(i32::try_from(number).ok()).await?;
                let same = Facts::of_head(&part, len)?.version;
                Ok::<_, Error>((length(part.content_length())?, same))
            };
            if let Ok(((first, one), (last, other))) = try_join(part(1), part(parts)).await
                && one == facts.version
                && other == facts.version
                && first > 0
                && first.checked_mul(parts - 1).and_then(|most| most.checked_add(last)) == Some(len)
            {
                facts.checksum = Some(Checksum::OfParts { algorithm, value, part: first });
            }
        }
        Ok(Some(facts))
    }

    pub(super) async fn put(
        &self,
        key: &str,
        body: PartBody,
        label: &Label,
        vouch: Vouch,
        mode: &Put,
    ) -> Result<Version> {
        let call =
            self.sdk.put_object().bucket(&self.name).key(key).body(ByteStream::new(SdkBody::from_body_1_x(body)));
        let call = call.set_metadata(Some(label.metadata()));
        let call = match mode {
            Put::Overwrite => call,
            Put::Create => call.if_none_match("*"),
            Put::Match(version) => call.if_match(tag(version)),
        };
        let call = match &vouch {
            Vouch::Trailer { .. } => call,
            Vouch::Crc(crc) => call.checksum_crc64_nvme(part::text(*crc)),
            Vouch::Md5(md5) => call.content_md5(md5),
        };
        let answer = self.send(call.customize().interceptor(Unsigned(vouch)).send()).await?;
        version(answer.e_tag())
    }

    pub(super) async fn delete(&self, key: &str) -> Result<()> {
        let call = self.sdk.delete_object().bucket(&self.name).key(key);
        match self.call(CALL_WITHIN, call.send()).await {
            // Some stores say so.
            Err(why) if fault::means(&why) == Some(Means::Missing) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Names and facts in byte order, and whether there are more.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Facts)>, bool)> {
        let call =
            self.sdk.list_objects_v2().bucket(&self.name).prefix(prefix).set_start_after(after.map(str::to_owned));
        let answer = self.call(CALL_WITHIN, call.max_keys(limit.min(1000) as i32).send()).await?;
        let mut found = Vec::new();
        for object in answer.contents() {
            let Some(key) = object.key() else { continue };
            // Not every store tells the version in a list.
            if object.e_tag().is_none() {
                found.extend(self.head(key, false).await?.map(|facts| (key.to_owned(), facts)));
                continue;
            }
            let facts = Facts {
                len: length(object.size())?,
                version: version(object.e_tag())?,
                modified: time(object.last_modified()),
                checksum: None,
                write_id: None,
                parts: None,
            };
            found.push((key.to_owned(), facts));
        }
        Ok((found, answer.is_truncated().unwrap_or(false)))
    }

    pub(super) async fn begin(&self, key: &str, label: &Label) -> Result<String> {
        let call = self.sdk.create_multipart_upload().bucket(&self.name).key(key).set_metadata(Some(label.metadata()));
        let call = match label.integrity {
            Integrity::Md5 => call,
            _ => call.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).checksum_type(ChecksumType::FullObject),
        };
        let answer = self.call(CALL_WITHIN, call.send()).await?;
        answer.upload_id.ok_or_else(|| broken("UploadId", "none"))
    }

    /// Sends a part; its tag.
    pub(super) async fn part(&self, key: &str, id: &str, number: u32, body: PartBody, vouch: Vouch) -> Result<String> {
        let call = self.sdk.upload_part().bucket(&self.name).key(key).upload_id(id).part_number(number as i32);
        let call = call.body(ByteStream::new(SdkBody::from_body_1_x(body)));
        let call = match &vouch {
            Vouch::Trailer { .. } => call,
            Vouch::Crc(crc) => call.checksum_crc64_nvme(part::text(*crc)),
            Vouch::Md5(md5) => call.content_md5(md5),
        };
        let answer = self.send(call.customize().interceptor(Unsigned(vouch)).send()).await?;
        answer.e_tag.ok_or_else(|| broken("ETag", "none"))
    }

    /// Puts the parts together, if `mode` allows it.
    pub(super) async fn complete(
        &self,
        key: &str,
        id: &str,
        parts: &[Part],
        whole: Crc,
        integrity: Integrity,
        mode: &Put,
    ) -> Result<Version> {
        let summed = integrity != Integrity::Md5;
        let parts = parts.iter().map(|part| {
            let one = CompletedPart::builder().part_number(part.number as i32).e_tag(&part.tag);
            if summed { one.checksum_crc64_nvme(part::text(part.crc)) } else { one }.build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let call =
            self.sdk.complete_multipart_upload().bucket(&self.name).key(key).upload_id(id).multipart_upload(parts);
        let call = match summed {
            true => call.checksum_crc64_nvme(part::text(whole)).checksum_type(ChecksumType::FullObject),
            false => call,
        };
        let call = match mode {
            Put::Overwrite => call,
            Put::Create => call.if_none_match("*"),
            Put::Match(version) => call.if_match(tag(version)),
        };
        let answer = self.call(COMPLETE_WITHIN, call.send()).await?;
        // Seen with an error in the body of an answer that says 200.
        version(answer.e_tag())
    }

    pub(super) async fn abort(&self, key: &str, id: &str) -> Result<()> {
        let call = self.sdk.abort_multipart_upload().bucket(&self.name).key(key).upload_id(id);
        match self.call(CALL_WITHIN, call.send()).await {
            Err(why) if matches!(fault::means(&why), Some(Means::NoUpload | Means::Missing)) => Ok(()),
            done => done.map(drop),
        }
    }

    /// The parts of an upload that are there: number, tag, length.
    pub(super) async fn parts(&self, key: &str, id: &str) -> Result<Vec<(u32, String, u64)>> {
        let mut all = Vec::new();
        let mut after = None;
        // A thousand in each answer, ten thousand at the most.
        for _ in 0..100 {
            let call = self.sdk.list_parts().bucket(&self.name).key(key).upload_id(id).set_part_number_marker(after);
            let answer = self.call(CALL_WITHIN, call.send()).await?;
            for part in answer.parts() {
                let number = part.part_number().and_then(|number| u32::try_from(number).ok());
                if let (Some(number), Some(tag)) = (number, part.e_tag()) {
                    all.push((number, tag.to_owned(), length(part.size())?));
                }
            }
            after = answer.next_part_number_marker().map(str::to_owned);
            if !answer.is_truncated().unwrap_or(false) || after.is_none() {
                break;
            }
        }
        Ok(all)
    }

    /// The open uploads to keys with that prefix, at most a thousand.
    pub(super) async fn uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>> {
        let call = self.sdk.list_multipart_uploads().bucket(&self.name).prefix(prefix);
        let answer = self.call(CALL_WITHIN, call.send()).await?;
        let one = |upload: &aws_sdk_s3::types::MultipartUpload| {
            let (key, id) = (upload.key()?.to_owned(), upload.upload_id()?.to_owned());
            Some(OpenUpload { key, id, begun: time(upload.initiated()) })
        };
        Ok(answer.uploads().iter().filter_map(one).collect())
    }

    async fn call<T, E>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let late = |_| Error::transient(format_args!("no answer within {within:?}"));
        timeout(within, self.send(call)).await.map_err(late)?
    }

    /// For what is watched by its sender.
    async fn send<T, E>(&self, call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        call.await.map_err(|why| fault::of(why, &self.name))
    }
}

impl Label {
    fn metadata(&self) -> HashMap<String, String> {
        let check = self.own_check.map(|crc| (OWN_CHECK.to_owned(), part::text(crc)));
        [(WRITE_ID.to_owned(), self.write_id.clone())].into_iter().chain(check).collect()
    }
}

impl Facts {
    fn of_get(answer: &GetObjectOutput, len: u64) -> Result<Self> {
        let sums = [answer.checksum_crc64_nvme(), answer.checksum_crc32_c(), answer.checksum_crc32()];
        Self::new(len, answer.e_tag(), answer.last_modified(), answer.metadata(), sums)
    }

    fn of_head(answer: &HeadObjectOutput, len: u64) -> Result<Self> {
        let sums = [answer.checksum_crc64_nvme(), answer.checksum_crc32_c(), answer.checksum_crc32()];
        Self::new(len, answer.e_tag(), answer.last_modified(), answer.metadata(), sums)
    }

    fn new(
        len: u64,
        tag: Option<&str>,
        modified: Option<&DateTime>,
        metadata: Option<&HashMap<String, String>>,
        sums: [Option<&str>; 3],
    ) -> Result<Self> {
        let own = |name| metadata.and_then(|all| all.get(name));
        let (mut checksum, mut parts) = (None, None);
        for (algorithm, sum) in Algorithm::ALL.into_iter().zip(sums) {
            match sum.map(|sum| sum.split_once('-').ok_or(sum)) {
                None => {}
                Some(Err(sum)) => checksum = part::value(sum).map(|value| Checksum::Whole { algorithm, value }),
                Some(Ok((sum, number))) => {
                    let number = number.parse().ok().filter(|number| *number > 0);
                    parts = part::value(sum).zip(number).map(|(value, number)| (algorithm, value, number));
                }
            }
            if checksum.is_some() || parts.is_some() {
                break;
            }
        }
        if checksum.is_none() && parts.is_none() {
            let value = own(OWN_CHECK).and_then(|sum| part::value(sum));
            checksum = value.map(|value| Checksum::Whole { algorithm: CHECK, value });
        }
        let write_id = own(WRITE_ID).cloned();
        Ok(Facts { len, version: version(tag)?, modified: time(modified), checksum, write_id, parts })
    }
}

/// Has a body sent as it is, and says what vouches for it.
#[derive(Debug)]
struct Unsigned(Vouch);

#[dyn_dispatch_hint]
impl Intercept for Unsigned {
    fn name(&self) -> &'static str {
        "Unsigned"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let Vouch::Trailer { payload } = &self.0 else {
            config.interceptor_state().store_put(PayloadSigningOverride::UnsignedPayload);
            return Ok(());
        };
        let headers = context.request_mut().headers_mut();
        headers.append("content-encoding", "aws-chunked");
        headers.insert("x-amz-decoded-content-length", payload.to_string());
        headers.insert("x-amz-trailer", part::header(CHECK));
        headers.insert("content-length", part::encoded(*payload, CHECK).to_string());
        config.interceptor_state().store_put(PayloadSigningOverride::StreamingUnsignedPayloadTrailer);
        Ok(())
    }
}

/// `bytes 0-99/1234`.
fn ranged(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last, len): (u64, u64, u64) = (start.parse().ok()?, last.parse().ok()?, len.parse().ok()?);
    (start <= last && last < len).then_some((start..last + 1, len))
}

fn length(said: Option<i64>) -> Result<u64> {
    said.and_then(|len| u64::try_from(len).ok()).ok_or_else(|| broken("length", "none"))
}

/// The tag without its quotes, which not every list has.
fn version(tag: Option<&str>) -> Result<Version> {
    let tag = tag.map(|tag| tag.trim_matches('"')).filter(|tag| !tag.is_empty());
    tag.map(Version::new).ok_or_else(|| broken("ETag", "none"))
}

fn tag(version: &Version) -> String {
    format!("\"{}\"", version.as_str())
}

fn time(said: Option<&DateTime>) -> SystemTime {
    said.and_then(|time| SystemTime::try_from(*time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn broken(what: &str, text: impl std::fmt::Display) -> Error {
    Error::transient(format_args!("an answer with a wrong {what}: {text}"))
}
