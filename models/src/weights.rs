//! Where a model's files are, and whether they are whole.
//!
//! Owns the paths of `config.json`, `tokenizer.json` and `model.safetensors`, found in a directory or fetched from a
//! Hugging Face repository at a pinned revision, and promises that whatever is wrong with them is said before a model
//! is built: which file, what is wrong, what to do. It does not read the environment and does not know any model.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use forebay::{Context, Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What to do about a file that is not as it should be, the end of most messages.
const REMEDY: &str = "copy or download it again (a pinned revision is best)";
/// No sane header is larger; the safetensors format sets the same limit.
const MAX_HEADER: u64 = 100_000_000;

/// The files of one model, checked.
///
/// [`Weights::dir`] and `Weights::hub` read the header of `model.safetensors` and compare it with the file's length, so
/// that a copy that broke off is found here and not as a fault of the process when the missing bytes are touched. The
/// files must stay as they are while a model is loaded from them.
#[derive(Debug, Clone)]
pub struct Weights {
    config: PathBuf,
    tokenizer: PathBuf,
    tensors: PathBuf,
    table: BTreeMap<String, Entry>,
}

/// One tensor as the header describes it.
#[derive(Debug, Clone, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Weights {
    /// Finds and checks the files in `dir`.
    ///
    /// # Errors
    /// `Failed`, naming the path: no such directory; one of the three files missing, unreadable or empty; a Git LFS
    /// pointer instead of weights; a header that does not parse; a tensor that lies outside the file.
    pub fn dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            let what = if dir.exists() { "is not a directory" } else { "does not exist" };
            return Err(Error::failed(format!(
                "the weights directory {} {what}: name one that holds config.json, tokenizer.json and model.safetensors",
                dir.display()
            )));
        }
        Self::files(dir.join("config.json"), dir.join("tokenizer.json"), dir.join("model.safetensors"))
    }

    /// Fetches the files of the Hugging Face repository `repo` (as in `sentence-transformers/all-MiniLM-L6-v2`) at
    /// `revision` into the user's cache, from which later calls are served without the network, and checks them.
    ///
    /// `revision` should be a commit: a branch or tag may move under a running fleet. `HF_HOME`, `HF_ENDPOINT` and the
    /// stored token are honoured as hf-hub honours them. Blocks: call it where a model is loaded.
    ///
    /// # Errors
    /// `Transient` if a file cannot be fetched (the message names repository, revision and file); else as
    /// [`Weights::dir`].
    #[cfg(feature = "hub")]
    pub fn hub(repo: &str, revision: &str) -> Result<Self> {
        let [config, tokenizer, tensors] =
            crate::hub::fetch(repo, revision, ["config.json", "tokenizer.json", "model.safetensors"])?;
        Self::files(config, tokenizer, tensors)
    }

    fn files(config: PathBuf, tokenizer: PathBuf, tensors: PathBuf) -> Result<Self> {
        for file in [&config, &tokenizer, &tensors] {
            present(file)?;
        }
        let table = header(&tensors)?;
        Ok(Self { config, tokenizer, tensors, table })
    }

    /// The path of `tokenizer.json`.
    pub fn tokenizer(&self) -> &Path {
        &self.tokenizer
    }

    /// `config.json`, parsed.
    ///
    /// # Errors
    /// `Failed`, naming the file, if it is not JSON or lacks what `T` needs.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let text = std::fs::read(&self.config).context(format!("reading {}", self.config.display()))?;
        serde_json::from_slice(&text)
            .context(format!("{} is not the configuration of the kind of model expected", self.config.display()))
    }

    /// Demands that the tensor `name` is there, of floating point type and of shape `shape`.
    ///
    /// # Errors
    /// `Failed`, naming file, tensor, what was found and what was expected.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        let file = self.tensors.display();
        let Some(entry) = self.table.get(name) else {
            return Err(Error::failed(format!(
                "{file} has no tensor {name}: it holds another model than config.json describes"
            )));
        };
        let same = entry.shape.len() == shape.len() && entry.shape.iter().zip(shape).all(|(a, b)| *a == *b as u64);
        if !same || !matches!(entry.dtype.as_str(), "F32" | "F16" | "BF16" | "F64") {
            return Err(Error::failed(format!(
                "{file}: tensor {name} is {} {:?}, expected floating point {shape:?}: use weights that match config.json",
                entry.dtype, entry.shape
            )));
        }
        Ok(())
    }

    /// How many bytes all tensors take on a device, as `dtype`.
    pub fn bytes(&self, dtype: DType) -> u64 {
        let items = |entry: &Entry| entry.shape.iter().fold(1u64, |all, n| all.saturating_mul(*n));
        let items = self.table.values().fold(0u64, |sum, entry| sum.saturating_add(items(entry)));
        items.saturating_mul(dtype.size_in_bytes() as u64)
    }

    /// The most that loading them onto a device takes at once, as `dtype`: one tensor lies there as it is in the file too.
    pub(crate) fn bytes_while_loading(&self, dtype: DType) -> u64 {
        let largest = self.table.values().map(|entry| entry.data_offsets.1.saturating_sub(entry.data_offsets.0)).max();
        self.bytes(dtype).saturating_add(largest.unwrap_or(0))
    }

    /// Whether a tensor of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Maps the tensors into memory, to be read as `dtype` onto `device`.
    ///
    /// # Errors
    /// `Failed`, naming the file, if it cannot be mapped.
    pub fn map(&self, dtype: DType, device: &Device) -> Result<VarBuilder<'static>> {
        crate::map::map(&self.tensors, dtype, device).context(format!("mapping {}", self.tensors.display()))
    }
}

/// Demands a readable, non-empty file.
fn present(file: &Path) -> Result<()> {
    let size = match std::fs::metadata(file) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Err(Error::failed(format!("{} is not a file", file.display()))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::failed(format!("{} is missing: {REMEDY}", file.display())));
        }
        Err(cause) => return Err(Error::failed(cause).context(format!("looking at {}", file.display()))),
    };
    if size == 0 {
        return Err(Error::failed(format!("{} is empty: {REMEDY}", file.display())));
    }
    Ok(())
}

/// Reads and checks the header of a safetensors file: 8 bytes with the header's length, the header (JSON), the data.
fn header(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let place = path.display();
    let wrong = |what: String| Error::failed(format!("{place} {what}: {REMEDY}"));
    let mut file = File::open(path).context(format!("opening {place}"))?;
    let size = file.metadata().context(format!("looking at {place}"))?.len();

    let mut start = Vec::with_capacity(64);
    (&mut file).take(64).read_to_end(&mut start).context(format!("reading {place}"))?;
    if start.starts_with(b"version https://git-lfs") {
        return Err(Error::failed(format!(
            "{place} is a Git LFS pointer, not the weights: run `git lfs pull` where it was cloned, or {REMEDY}"
        )));
    }
    let Some(length) = start.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(wrong(format!("is truncated: {size} bytes are no safetensors file")));
    };
    if length > MAX_HEADER {
        return Err(wrong("is not a safetensors file (its first 8 bytes are no header length)".to_owned()));
    }
    let data = size.checked_sub(8 + length).ok_or_else(|| {
        wrong(format!("is truncated: its header ends at byte {}, the file at byte {size}", 8 + length))
    })?;

    let mut json = start.split_off(8);
    json.truncate(length as usize);
    let left = length - json.len() as u64;
    file.take(left).read_to_end(&mut json).context(format!("reading {place}"))?;
    let fields: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(|cause| wrong(format!("has a header that is not JSON ({cause})")))?;

    let mut table = BTreeMap::new();
    for (name, value) in fields {
        if name == "__metadata__" {
            continue;
        }
        let entry: Entry = serde_json::from_value(value)
            .map_err(|cause| wrong(format!("describes tensor {name} in a way that does not parse ({cause})")))?;
        entry.check(&name, data).map_err(wrong)?;
        table.insert(name, entry);
    }
    if table.is_empty() {
        return Err(wrong("holds no tensors".to_owned()));
    }
    Ok(table)
}

impl Entry {
    /// Compares offsets, shape and type with one another and with the `data` bytes that follow the header.
    fn check(&self, name: &str, data: u64) -> Result<(), String> {
        let (from, to) = self.data_offsets;
        if to > data {
            return Err(format!(
                "is truncated: tensor {name} ends at byte {to} of the data, of which {data} are there"
            ));
        }
        let Some(held) = to.checked_sub(from) else {
            return Err(format!("is damaged: tensor {name} ends before it begins"));
        };
        let bits: u64 = match self.dtype.as_str() {
            "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
            "U16" | "I16" | "F16" | "BF16" => 16,
            "U32" | "I32" | "F32" => 32,
            "U64" | "I64" | "F64" => 64,
            _ => return Ok(()), // packed and future types: whether one is wanted is asked by `expect`
        };
        let items = self.shape.iter().try_fold(1u64, |all, n| all.checked_mul(*n));
        match items.and_then(|n| n.checked_mul(bits / 8)) {
            Some(needed) if needed == held => Ok(()),
            _ => Err(format!(
                "is damaged: tensor {name}, {} {:?}, does not fit its {held} bytes",
                self.dtype, self.shape
            )),
        }
    }
}
