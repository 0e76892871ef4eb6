//! All vectors of a folder's results: read from the documents' lines, written as one safetensors file.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use forebay::{Classify, Context, Result};
use safetensors::{Dtype, tensor::TensorView};

use crate::document::Line;

/// Every passage of the results, in the order of the documents' paths.
pub fn read(out: &Path) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for path in files(out, ".jsonl")? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for line in text.lines() {
            lines.push(serde_json::from_str(line).or_invalid().with_context(|| format!("`{}`", path.display()))?);
        }
    }
    Ok(lines)
}

/// Writes `vectors.safetensors`: the tensor `vectors`, a row a passage, in the order of [`read`]. How many rows.
pub fn write(out: &Path) -> Result<usize> {
    let lines = read(out)?;
    let width = lines.first().map_or(0, |line| line.vector.len());
    let bytes: Vec<u8> = lines.iter().flat_map(|line| &line.vector).flat_map(|x| x.to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, vec![lines.len(), width], &bytes)?;
    let order = HashMap::from([("rows".to_owned(), "the lines of all .jsonl files, by path".to_owned())]);
    // Another worker may be writing too: each writes a file of its own, and the last to rename it wins.
    let temporary = out.join(format!(".vectors-{}.tmp", std::process::id()));
    safetensors::serialize_to_file([("vectors", tensor)], Some(order), &temporary)?;
    fs::rename(&temporary, out.join("vectors.safetensors")).context("writing `vectors.safetensors`")?;
    Ok(lines.len())
}

/// All files below a folder whose names end so, hidden ones left out, in the order of their paths.
pub fn files(folder: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let cannot = || format!("cannot look into `{}`", folder.display());
    for entry in fs::read_dir(folder).or_invalid().with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, suffix)?);
        } else if name.ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
