//! Embeddings as a service, for clients that exist already: `POST /v1/embeddings` as OpenAI's, `POST /embed` as that
//! of Hugging Face's text-embeddings-inference. Texts of many requests share batches.
//!
//! ```sh
//! ./quickstart            # installs the weights, or name a folder or an https:// or s3:// URL in FOREBAY_WEIGHTS
//! PORT=8080 cargo run --release -p forebay-examples --bin embed_http
//! curl localhost:8080/v1/embeddings -H 'content-type: application/json' -d '{"input": ["a cat", "a dog"]}'
//! ```

mod weights;

use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use forebay::source::http::Http;
use forebay::{Classify, Error, Job, Pipeline, Result, Worker};
use forebay_models::{DeviceChoice, Embedder, TokenIds, Tokens};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use weights::EncoderFiles;

const MODEL: &str = "all-MiniLM-L6-v2";
const OPENAI: &str = "/v1/embeddings";
const TEI: &str = "/embed";
/// The most texts of one request, as OpenAI's.
const MOST_TEXTS: usize = 2048;

/// The longest list of tokens, and the last of them, that all-MiniLM-L6-v2 takes.
const LONGEST: usize = 512;
const LAST_TOKEN: u32 = 30_521;

/// What clients of OpenAI ask with.
#[derive(Deserialize, JsonSchema)]
struct OpenAiAsk {
    input: Texts,
    model: Option<String>,
    #[serde(default)]
    encoding_format: Format,
    /// Cannot be chosen: the model has its own.
    #[serde(default)]
    #[schemars(with = "()")]
    dimensions: Option<usize>,
}

/// What clients of text-embeddings-inference ask with.
#[derive(Deserialize, JsonSchema)]
struct TeiAsk {
    inputs: Texts,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, a list of texts, a list of tokens or a list of lists of tokens was expected")]
enum Texts {
    One(String),
    Many(#[schemars(length(min = 1, max = MOST_TEXTS))] Vec<String>),
    Tokens(#[schemars(with = "Vec<u32>", length(min = 1, max = LONGEST), inner(range(max = LAST_TOKEN)))] Vec<f64>),
    ManyTokens(
        #[schemars(
            with = "Vec<Vec<u32>>",
            length(min = 1, max = MOST_TEXTS),
            inner(length(min = 1, max = LONGEST), inner(range(max = LAST_TOKEN)))
        )]
        Vec<Vec<f64>>,
    ),
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

/// How a request is to be answered when its vectors are there.
enum Form {
    OpenAi { model: String, format: Format, tokens: usize },
    Tei,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    OpenAi(OpenAiAnswer),
    Tei(Vec<Vec<f32>>),
}

#[derive(Serialize, JsonSchema)]
struct OpenAiAnswer {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize, JsonSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Serialize, JsonSchema)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// A job's memory is taken on one thread and given back on another, at which it is quick.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // So does the image's HEALTHCHECK.
    if std::env::args().nth(1).as_deref() == Some("health") {
        return Http::check().await;
    }
    match serve().await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("embed_http: {why}");
            why.exit_code()
        }
    }
}

async fn serve() -> Result<ExitCode> {
    forebay::telemetry::init()?;
    let device = DeviceChoice::from_env()?;
    let files = Arc::new(EncoderFiles::from_env()?);
    let tokenizer = files.clone();
    let pipeline = Pipeline::new()
        .cpu("tokenize", 1, move |job, ask| tokenize(job, ask, tokenizer.tokens()))
        .gpu_each("embed", Embedder::batching(device), move || Embedder::load(files.weights()?, &device.open()?))
        .cpu("answer", 1, |_, (form, vectors): (Form, Vec<Vec<f32>>)| Ok(answer(form, vectors)));
    let http = Http::from_env()?
        .path(OPENAI, "")
        .path(TEI, "")
        .types::<OpenAiAsk, OpenAiAnswer>(OPENAI)
        .types::<TeiAsk, Vec<Vec<f32>>>(TEI);
    Ok(Worker::new(pipeline).source(http).run().await)
}

fn tokenize(job: &Job, ask: Value, tokens: &Tokens) -> Result<(Form, Vec<TokenIds>)> {
    if job.meta().labels.get(Http::PATH).is_some_and(|path| path == TEI) {
        return Ok((Form::Tei, items(read::<TeiAsk>(ask)?.inputs, tokens)?));
    }
    let ask: OpenAiAsk = read(ask)?;
    if ask.dimensions.is_some() {
        return Err(Error::invalid("`dimensions` cannot be chosen: the model has its own"));
    }
    let items = items(ask.input, tokens)?;
    let model = ask.model.unwrap_or_else(|| MODEL.to_owned());
    let count = items.iter().map(TokenIds::len).sum();
    Ok((Form::OpenAi { model, format: ask.encoding_format, tokens: count }, items))
}

/// What was asked, by the path's own type; an error names the field.
fn read<T: DeserializeOwned>(ask: Value) -> Result<T> {
    serde_path_to_error::deserialize(ask).or_invalid()
}

fn items(texts: Texts, tokens: &Tokens) -> Result<Vec<TokenIds>> {
    let items = match texts {
        Texts::One(text) => tokens.encode(&[text])?,
        Texts::Many(texts) => tokens.encode(&texts)?,
        Texts::Tokens(numbers) => vec![ids(&numbers)?],
        Texts::ManyTokens(lists) => lists.iter().map(|numbers| ids(numbers)).collect::<Result<_>>()?,
    };
    match items.len() {
        1..=MOST_TEXTS => Ok(items),
        count => Err(Error::invalid(format_args!("there are {count} texts, but should be 1 to {MOST_TEXTS}"))),
    }
}

/// To JSON Schema 7.0 is an integer too, and some clients write it so.
fn ids(numbers: &[f64]) -> Result<TokenIds> {
    let id = |n: &f64| match n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n) {
        true => Ok(*n as u32),
        false => Err(Error::invalid(format_args!("{n} is no token"))),
    };
    Ok(TokenIds::new(numbers.iter().map(id).collect::<Result<_>>()?))
}

fn answer(form: Form, vectors: Vec<Vec<f32>>) -> Answer {
    let Form::OpenAi { model, format, tokens } = form else {
        return Answer::Tei(vectors);
    };
    let embed = |(index, vector): (usize, Vec<f32>)| {
        let embedding = match format {
            Format::Float => Vector::Floats(vector),
            Format::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        };
        Embedding { object: "embedding", index, embedding }
    };
    Answer::OpenAi(OpenAiAnswer {
        object: "list",
        data: vectors.into_iter().enumerate().map(embed).collect(),
        model,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    })
}
